/**
 * Output of programs as lines of styled text.
 *
 * Only colours and weights (SGR), carriage returns, backspaces and tabs have a meaning; every other control sequence is
 * dropped with its content. Nothing here makes HTML: a line is a list of pieces of plain text.
 */

export interface Style {
  /** 0-15: one of the theme's colours; '#rrggbb': any other. */
  fg?: number | string;
  bg?: number | string;
  bold?: true;
  dim?: true;
  italic?: true;
  underline?: true;
  inverse?: true;
  strike?: true;
}
export interface Piece {
  text: string;
  style: Style | undefined;
}
export type Line = Piece[];

const LONGEST_SEQUENCE = 4096;
/** Characters of one line, as the view wraps it; a longer line continues on the next. */
const LONGEST_LINE = 16 << 10;
const FLAGS: Record<number, keyof Style> = { 1: 'bold', 2: 'dim', 3: 'italic', 4: 'underline', 7: 'inverse', 9: 'strike' };
const STEPS = [0, 95, 135, 175, 215, 255];
// A control character, or the start of a sequence; everything between is text.
// eslint-disable-next-line no-control-regex
const CONTROL = /[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/;

/** The lines of one output, within bounds: the oldest are dropped, and counted. */
export class Lines {
  /** Complete lines, and the open line at the end. */
  readonly lines: Line[] = [[]];
  /** The number of lines that were dropped before `lines[0]`. */
  dropped = 0;
  droppedChars = 0;
  chars = 0;
  private style: Style | undefined;
  private rest = '';
  private column = -1; // where the next character overwrites the open line; -1: at its end
  private size = 0; // of the open line

  constructor(
    private readonly maxLines = 5000,
    private readonly maxChars = 1 << 20,
  ) {}

  write(text: string): void {
    let input = this.rest + text;
    this.rest = '';
    while (input) {
      const at = input.search(CONTROL);
      if (at < 0) {
        this.put(input);
        break;
      }
      if (at > 0) this.put(input.slice(0, at));
      const used = this.control(input, at);
      if (used < 0) {
        this.rest = input.slice(at);
        if (this.rest.length > LONGEST_SEQUENCE) this.rest = '';
        break;
      }
      input = input.slice(at + used);
    }
    this.trim();
  }

  /** Return the text without styles. */
  text(): string {
    return this.lines.map((line) => line.map((piece) => piece.text).join('')).join('\n');
  }

  // -- inside

  /** Carry out the control character at a place; return the number of characters used, or -1 for an unfinished one. */
  private control(input: string, at: number): number {
    const char = input[at]!;
    switch (char) {
      case '\n':
        this.newLine();
        return 1;
      case '\r':
        if (input[at + 1] === '\n') {
          this.newLine();
          return 2;
        }
        if (at + 1 === input.length) return -1; // the line feed may follow
        this.column = 0;
        return 1;
      case '\b':
        this.column = Math.max(0, (this.column < 0 ? this.size : this.column) - 1);
        return 1;
      case '\t':
        this.put('\t');
        return 1;
      case '\x1b':
        return this.escape(input, at);
      case '\x9b':
        return this.csi(input, at, 1);
      case '\x90':
      case '\x98':
      case '\x9d':
      case '\x9e':
      case '\x9f':
        return stringEnd(input, at + 1) - at;
      default:
        return 1;
    }
  }

  private escape(input: string, at: number): number {
    const kind = input[at + 1];
    if (kind === undefined) return -1;
    if (kind === '[') return this.csi(input, at, 2);
    if (']PX^_'.includes(kind)) {
      const end = stringEnd(input, at + 2);
      return end < 0 ? -1 : end - at;
    }
    // Two characters, or an intermediate and a final one, as in `ESC ( B`.
    if (kind >= ' ' && kind <= '/') return input.length > at + 2 ? 3 : -1;
    return 2;
  }

  private csi(input: string, at: number, start: number): number {
    let end = at + start;
    while (end < input.length && input[end]! >= ' ' && input[end]! <= '?') end += 1;
    if (end === input.length) return -1;
    if (input[end] === 'm') this.style = styled(this.style, input.slice(at + start, end));
    else if (input[end] === 'K') this.erase(input.slice(at + start, end));
    return input[end]! >= '@' && input[end]! <= '~' ? end + 1 - at : end - at;
  }

  private erase(what: string): void {
    if (what === '2' || this.column === 0) {
      this.chars -= this.size;
      this.lines[this.lines.length - 1] = [];
      this.size = 0;
      this.column = -1;
    } else if ((what === '' || what === '0') && this.column > 0) {
      const line = cut(this.lines[this.lines.length - 1]!, 0, this.column);
      this.chars -= this.size - this.column;
      this.lines[this.lines.length - 1] = line;
      this.size = this.column;
      this.column = -1;
    }
  }

  private put(text: string): void {
    while (text) {
      const room = LONGEST_LINE - (this.column < 0 ? this.size : this.column);
      if (room <= 0) {
        this.newLine();
        continue;
      }
      this.place(text.slice(0, room));
      text = text.slice(room);
    }
  }

  private place(text: string): void {
    const index = this.lines.length - 1;
    const line = this.lines[index]!;
    if (this.column < 0 || this.column >= this.size) {
      const last = line[line.length - 1];
      if (last !== undefined && last.style === this.style) last.text += text;
      else line.push({ text, style: this.style });
      this.size += text.length;
      this.chars += text.length;
      this.column = -1;
      return;
    }
    const end = this.column + text.length;
    this.lines[index] = [...cut(line, 0, this.column), { text, style: this.style }, ...cut(line, end, this.size)];
    const size = Math.max(this.size, end);
    this.chars += size - this.size;
    this.size = size;
    this.column = end < size ? end : -1;
  }

  private newLine(): void {
    this.lines.push([]);
    this.chars += 1;
    this.size = 0;
    this.column = -1;
    if (this.lines.length > this.maxLines * 2) this.trim();
  }

  private trim(): void {
    let drop = Math.max(0, this.lines.length - this.maxLines);
    let chars = 0;
    for (let i = 0; i < drop; i += 1) chars += length(this.lines[i]!) + 1;
    while (this.chars - chars > this.maxChars && drop < this.lines.length - 1) {
      chars += length(this.lines[drop]!) + 1;
      drop += 1;
    }
    if (!drop) return;
    this.lines.splice(0, drop);
    this.dropped += drop;
    this.droppedChars += chars;
    this.chars -= chars;
  }
}

function length(line: Line): number {
  let size = 0;
  for (const piece of line) size += piece.text.length;
  return size;
}

function cut(line: Line, from: number, to: number): Line {
  const kept: Line = [];
  let at = 0;
  for (const piece of line) {
    const text = piece.text.slice(Math.max(0, from - at), Math.max(0, to - at));
    if (text) kept.push({ text, style: piece.style });
    at += piece.text.length;
  }
  return kept;
}

/** Return the end of a string that BEL or ST ends; -1 if the end has not arrived. */
function stringEnd(input: string, at: number): number {
  for (let i = at; i < input.length; i += 1) {
    const char = input[i];
    if (char === '\x07' || char === '\x9c') return i + 1;
    if (char === '\x1b') {
      if (i + 1 === input.length) return -1;
      return input[i + 1] === '\\' ? i + 2 : i;
    }
  }
  return -1;
}

function styled(style: Style | undefined, parameters: string): Style | undefined {
  let now: Style = { ...style };
  const codes = parameters.split(/[;:]/).map((text) => Number.parseInt(text || '0', 10));
  for (let i = 0; i < codes.length; i += 1) {
    const code = codes[i]!;
    const flag = FLAGS[code];
    if (code === 0) now = {};
    else if (flag) (now as Record<string, unknown>)[flag] = true;
    else if (code === 22) {
      delete now.bold;
      delete now.dim;
    } else if (code === 23) delete now.italic;
    else if (code === 24) delete now.underline;
    else if (code === 27) delete now.inverse;
    else if (code === 29) delete now.strike;
    else if (code === 38 || code === 48) {
      const [color, used] = colorOf(codes, i + 1);
      i += used;
      if (color !== undefined) now[code === 38 ? 'fg' : 'bg'] = color;
    } else if (code === 39) delete now.fg;
    else if (code === 49) delete now.bg;
    else if (code >= 30 && code <= 37) now.fg = code - 30;
    else if (code >= 40 && code <= 47) now.bg = code - 40;
    else if (code >= 90 && code <= 97) now.fg = code - 82;
    else if (code >= 100 && code <= 107) now.bg = code - 92;
  }
  return Object.keys(now).length ? now : undefined;
}

function colorOf(codes: number[], at: number): [number | string | undefined, number] {
  if (codes[at] === 5) {
    const index = codes[at + 1] ?? -1;
    if (!(index >= 0 && index <= 255)) return [undefined, 2];
    if (index < 16) return [index, 2];
    if (index >= 232) return [hex([8 + (index - 232) * 10, 8 + (index - 232) * 10, 8 + (index - 232) * 10]), 2];
    const cube = index - 16;
    return [hex([STEPS[Math.floor(cube / 36)]!, STEPS[Math.floor(cube / 6) % 6]!, STEPS[cube % 6]!]), 2];
  }
  if (codes[at] === 2) {
    const parts = codes.slice(at + 1, at + 4);
    return [parts.length === 3 && parts.every((part) => part >= 0 && part <= 255) ? hex(parts) : undefined, 4];
  }
  return [undefined, codes.length];
}

function hex(parts: number[]): string {
  return `#${parts.map((part) => part.toString(16).padStart(2, '0')).join('')}`;
}
