/** Lines of output as elements: text nodes and classes, never markup. */

import type { Line, Lines, Style } from './ansi';

/** Lines of one element. The browser lays out only the elements that are in sight. */
const BLOCK = 100;
const FLAGS = ['bold', 'dim', 'italic', 'underline', 'inverse', 'strike'] as const;

/** Shows lines in an element, and follows their end while the reader is there. */
export class Painter {
  private readonly blocks = new Map<number, HTMLElement>();
  private next = 0; // the number of the first line that may have changed

  constructor(
    private readonly scroller: HTMLElement,
    private readonly element: HTMLElement,
  ) {}

  update(lines: Lines): void {
    const { scroller } = this;
    const isAtEnd = scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - 24;
    const first = lines.dropped;
    const end = first + lines.lines.length;
    for (const [block, element] of this.blocks) {
      if ((block + 1) * BLOCK > first) break;
      element.remove();
      this.blocks.delete(block);
    }
    for (let block = Math.floor(Math.max(this.next, first) / BLOCK); block * BLOCK < end; block += 1) {
      const from = Math.max(first, block * BLOCK);
      const to = Math.min(end, (block + 1) * BLOCK);
      const made = blockOf(lines.lines.slice(from - first, to - first), to === end);
      const old = this.blocks.get(block);
      if (old) old.replaceWith(made);
      else this.element.append(made);
      this.blocks.set(block, made);
    }
    this.next = Math.max(0, end - 1);
    if (isAtEnd) scroller.scrollTop = scroller.scrollHeight;
  }
}

function blockOf(lines: readonly Line[], isLast: boolean): HTMLElement {
  const element = document.createElement('div');
  element.className = 'block';
  let plain = '';
  const flush = () => {
    if (plain) element.append(plain);
    plain = '';
  };
  lines.forEach((line, index) => {
    for (const piece of line) {
      if (!piece.style) plain += piece.text;
      else {
        flush();
        element.append(spanOf(piece.text, piece.style));
      }
    }
    if (!isLast || index < lines.length - 1) plain += '\n';
  });
  flush();
  return element;
}

function spanOf(text: string, style: Style): HTMLElement {
  const span = document.createElement('span');
  const names = FLAGS.filter((flag) => style[flag]).map((flag) => `ansi-${flag}`);
  if (typeof style.fg === 'number') names.push(`ansi-fg-${style.fg}`);
  else if (style.fg) span.style.color = style.fg;
  if (typeof style.bg === 'number') names.push(`ansi-bg-${style.bg}`);
  else if (style.bg) span.style.backgroundColor = style.bg;
  span.className = names.join(' ');
  span.textContent = text;
  return span;
}
