/** Paths in a sandbox, which may have any character but NUL. */

export function join(directory: string, name: string): string {
  return directory === '/' ? `/${name}` : `${directory}/${name}`;
}

export function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1) || '/';
}

export function parentOf(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf('/'))) || '/';
}

/** Return what is wrong with a name for a new file: '', or 'empty', 'slash' or 'dots'. */
export function wrongName(name: string): '' | 'empty' | 'slash' | 'dots' {
  if (!name) return 'empty';
  if (name.includes('/') || name.includes('\0')) return 'slash';
  return name === '.' || name === '..' ? 'dots' : '';
}

/**
 * Return a name as it can be shown on one line: control characters and marks that change the direction of text become
 * visible, so that a name cannot pretend to be another.
 */
export function shown(name: string): string {
  // eslint-disable-next-line no-control-regex
  return name.replace(/[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (char) => {
    const code = char.codePointAt(0)!;
    if (char === '\n') return '\u240a';
    return code < 0x20 ? String.fromCodePoint(0x2400 + code) : `\u27e8U+${code.toString(16).toUpperCase().padStart(4, '0')}\u27e9`;
  });
}
