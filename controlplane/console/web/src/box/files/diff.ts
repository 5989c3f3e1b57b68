/** The difference of two texts by lines. */

export interface DiffLine {
  mark: ' ' | '-' | '+';
  text: string;
}

/** Lines that are compared exactly; a larger difference is shown as removed and added as a whole. */
export const MAX_EDITS = 1000;

/** Return the lines of both texts, those around differences only; '…' stands for the others. */
export function diff(old: string, now: string, around = 3): DiffLine[] {
  const a = old.split('\n');
  const b = now.split('\n');
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  const middle = edits(a.slice(head, a.length - tail), b.slice(head, b.length - tail));
  const same = (text: string): DiffLine => ({ mark: ' ', text });
  return shortened([...a.slice(0, head).map(same), ...middle, ...a.slice(a.length - tail).map(same)], around);
}

/** Myers' greedy algorithm. */
function edits(a: string[], b: string[]): DiffLine[] {
  const trace: Map<number, number>[] = [];
  let v = new Map([[1, 0]]);
  const most = Math.min(a.length + b.length, MAX_EDITS);
  for (let d = 0; d <= most; d += 1) {
    trace.push(new Map(v));
    for (let k = -d; k <= d; k += 2) {
      const down = k === -d || (k !== d && (v.get(k - 1) ?? -1) < (v.get(k + 1) ?? -1));
      let x = down ? (v.get(k + 1) ?? 0) : (v.get(k - 1) ?? 0) + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x += 1;
      v.set(k, x);
      if (x >= a.length && x - k >= b.length) return walkBack(a, b, trace, d);
    }
    v = new Map(v);
  }
  return [...a.map((text) => ({ mark: '-' as const, text })), ...b.map((text) => ({ mark: '+' as const, text }))];
}

function walkBack(a: string[], b: string[], trace: Map<number, number>[], steps: number): DiffLine[] {
  const found: DiffLine[] = [];
  let x = a.length;
  let y = b.length;
  for (let d = steps; d >= 0; d -= 1) {
    const v = trace[d]!;
    const k = x - y;
    const down = k === -d || (k !== d && (v.get(k - 1) ?? -1) < (v.get(k + 1) ?? -1));
    const before = down ? k + 1 : k - 1;
    const fromX = d ? (v.get(before) ?? 0) : 0;
    const fromY = d ? fromX - before : 0;
    while (x > fromX && y > fromY) {
      x -= 1;
      y -= 1;
      found.push({ mark: ' ', text: a[x]! });
    }
    if (d && down) found.push({ mark: '+', text: b[(y -= 1)]! });
    else if (d) found.push({ mark: '-', text: a[(x -= 1)]! });
  }
  return found.reverse();
}

function shortened(lines: DiffLine[], around: number): DiffLine[] {
  const near = new Set<number>();
  lines.forEach((line, index) => {
    if (line.mark === ' ') return;
    for (let i = Math.max(0, index - around); i <= Math.min(lines.length - 1, index + around); i += 1) near.add(i);
  });
  const kept: DiffLine[] = [];
  let isGap = false;
  lines.forEach((line, index) => {
    if (near.has(index)) {
      kept.push(line);
      isGap = false;
    } else if (!isGap) {
      kept.push({ mark: ' ', text: '\u2026' });
      isGap = true;
    }
  });
  return near.size ? kept : [];
}
