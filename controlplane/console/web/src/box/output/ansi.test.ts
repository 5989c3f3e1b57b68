import { describe, expect, it } from 'vitest';

import { Lines } from './ansi';

function written(...texts: string[]): Lines {
  const lines = new Lines();
  for (const text of texts) lines.write(text);
  return lines;
}

describe('text', () => {
  it('keeps lines', () => expect(written('a\nb\r\nc').text()).toBe('a\nb\nc'));
  it('joins pieces', () => expect(written('a', 'b\n', 'c').text()).toBe('ab\nc'));
  it('a carriage return overwrites', () => expect(written('10%\r20%').text()).toBe('20%'));
  it('and leaves the rest', () => expect(written('hello\rJ').text()).toBe('Jello'));
  it('in pieces, before a line feed', () => expect(written('a\r', '\nb').text()).toBe('a\nb'));
  it('a backspace goes back', () => expect(written('ab\bc').text()).toBe('ac'));
  it('erases to the end of the line', () => expect(written('hello\rJ\x1b[K').text()).toBe('J'));
  it('erases a line', () => expect(written('hello\r\x1b[2Kx').text()).toBe('x'));
  it('markup is text', () => expect(written('<b>&amp;</b>').text()).toBe('<b>&amp;</b>'));
});

describe('styles', () => {
  it('colours and resets', () =>
    expect(written('\x1b[1;31mred\x1b[0m plain').lines[0]).toEqual([
      { text: 'red', style: { bold: true, fg: 1 } },
      { text: ' plain', style: undefined },
    ]));
  it('takes sequences in pieces', () => expect(written('\x1b', '[3', '2mx').lines[0]![0]!.style).toEqual({ fg: 2 }));
  it('knows 256 colours', () => expect(written('\x1b[38;5;208mx').lines[0]![0]!.style).toEqual({ fg: '#ff8700' }));
  it('knows true colour', () => expect(written('\x1b[48;2;1;2;255mx').lines[0]![0]!.style).toEqual({ bg: '#0102ff' }));
  it.each(['\x1b[38;5;999mx', '\x1b[38;2;1;2mx', '\x1b[38mx', '\x1b[;;mx', '\x1b[38;2;300;0;0mx'])(
    'survives a wrong colour %j',
    (text) => expect(written(text).lines[0]![0]!.style).toBeUndefined(),
  );
  it('keeps the style over lines', () => expect(written('\x1b[4ma\nb').lines[1]![0]!.style).toEqual({ underline: true }));
});

describe('hostile output', () => {
  it.each([
    ['a title', 'a\x1b]0;owned\x07b', 'ab'],
    ['a link', 'a\x1b]8;;javascript:alert(1)\x1b\\b\x1b]8;;\x1b\\', 'ab'],
    ['a device string', 'a\x1bP1$r0m\x1b\\b', 'ab'],
    ['a clipboard write', 'a\x1b]52;c;AAAA\x07b', 'ab'],
    ['a cursor move', 'a\x1b[2J\x1b[1;1Hb', 'ab'],
    ['a charset', 'a\x1b(Bb', 'ab'],
    ['eight-bit controls', 'a\x9d0;x\x9cb\x9b31mc', 'abc'],
    ['a bell and a null', 'a\x07\x00b', 'ab'],
    ['a text that runs backwards', 'a\u202egpj.exe\u2066b', 'agpj.exeb'],
    ['a sequence in a sequence', 'a\x1b[3\x1b[0mb', 'ab'],
  ])('%s', (_name, text, expected) => {
    expect(written(text).text()).toBe(expected);
    expect(written(...text).text()).toBe(expected);
  });

  it('a sequence without end does not grow', () => {
    const lines = new Lines();
    for (let i = 0; i < 1000; i += 1) lines.write(i ? 'x'.repeat(100) : '\x1b]0;');
    expect((lines as any).rest.length).toBeLessThanOrEqual(4096);
  });

  it('a line without end becomes lines', () => {
    const lines = new Lines();
    lines.write('x'.repeat(100_000));
    expect(Math.max(...lines.lines.map((line) => line[0]?.text.length ?? 0))).toBeLessThanOrEqual(16 << 10);
    expect(lines.text().replaceAll('\n', '')).toHaveLength(100_000);
  });
});

describe('bounds', () => {
  it('drops the oldest lines and counts them', () => {
    const lines = new Lines(100, 1 << 20);
    for (let i = 0; i < 1000; i += 1) lines.write(`line ${i}\n`);
    expect(lines.lines).toHaveLength(100);
    expect(lines.dropped).toBe(901);
    expect(lines.text().startsWith('line 901\n')).toBe(true);
  });

  it('counts what one write drops', () => {
    const lines = new Lines(10, 1 << 20);
    lines.write('x\n'.repeat(10_000));
    expect(lines.dropped + lines.lines.length).toBe(10_001);
    expect(lines.droppedChars + lines.chars).toBe(20_000);
  });

  it('bounds characters', () => {
    const lines = new Lines(1e9, 1000);
    for (let i = 0; i < 100; i += 1) lines.write(`${'x'.repeat(99)}\n`);
    expect(lines.chars).toBeLessThanOrEqual(1000);
    expect(lines.droppedChars + lines.chars).toBe(10_000);
  });

  it('takes 50 MB quickly enough to show them', () => {
    const lines = new Lines();
    const piece = 'some output of a program that prints and prints and prints and prints, 80 wide\n'.repeat(3200);
    for (let i = 0; i < 200; i += 1) lines.write(piece);
    expect(lines.droppedChars + lines.chars).toBe(piece.length * 200);
  });
});
