/** Lines of `name=value`, as people type them. */

export interface Pairs {
  pairs: Record<string, string>;
  /** The first line that is no pair; "" if all are. */
  wrong: string;
}

/** Return the pairs of a text. Empty lines do not count; a value may have further “=”. */
export function pairsOf(text: string): Pairs {
  const lines = text.split('\n').map((line) => line.trim());
  const found: [string, string][] = [];
  for (const line of lines.filter(Boolean)) {
    const at = line.indexOf('=');
    if (at < 1) return { pairs: {}, wrong: line };
    found.push([line.slice(0, at).trim(), line.slice(at + 1).trim()]);
  }
  return { pairs: Object.fromEntries(found), wrong: '' };
}
