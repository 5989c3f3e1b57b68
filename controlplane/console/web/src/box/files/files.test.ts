import { describe, expect, it } from 'vitest';

import { diff } from './diff';
import { join, nameOf, parentOf, shown, wrongName } from './paths';

describe('paths', () => {
  it('joins', () => expect([join('/', 'a'), join('/a', 'b')]).toEqual(['/a', '/a/b']));
  it('names', () => expect([nameOf('/a/b'), nameOf('/'), parentOf('/a/b'), parentOf('/a')]).toEqual(['b', '/', '/a', '/']));
  it.each([['', 'empty'], ['a/b', 'slash'], ['..', 'dots'], ['<img src=x>', ''], ['a\0', 'slash']])('%j', (name, wrong) =>
    expect(wrongName(name)).toBe(wrong),
  );
  it.each([
    ['plain ä 中文.txt', 'plain ä 中文.txt'],
    ['two\nlines', 'two␊lines'],
    ['a\x1b[31m', 'a␛[31m'],
    ['\u202egpj.exe', '⟨U+202E⟩gpj.exe'],
    ['a\u200bb', 'a⟨U+200B⟩b'],
    ['<script>', '<script>'],
  ])('shows %j', (name, text) => expect(shown(name)).toBe(text));
});

const marked = (old: string, now: string) => diff(old, now).map((line) => line.mark + line.text);

describe('differences', () => {
  it('none', () => expect(marked('a\nb', 'a\nb')).toEqual([]));
  it('a changed line', () => expect(marked('a\nb\nc', 'a\nB\nc')).toEqual([' a', '-b', '+B', ' c']));
  it('added at the end', () => expect(marked('a', 'a\nb')).toEqual([' a', '+b']));
  it('removed at the start', () => expect(marked('a\nb', 'b')).toEqual(['-a', ' b']));
  it('far apart, with gaps', () => {
    const lines = Array.from({ length: 40 }, (_, i) => `${i}`);
    const changed = [...lines];
    changed[5] = 'x';
    changed[30] = 'y';
    const found = marked(lines.join('\n'), changed.join('\n'));
    expect(found.filter((line) => line === ' …')).toHaveLength(3);
    expect(found).toContain('-5');
    expect(found).toContain('+y');
  });
  it('any two texts: what is removed and kept is the old one, what is added and kept the new one', () => {
    let seed = 7;
    const random = (n: number) => (seed = (seed * 48271) % 2147483647) % n;
    for (let i = 0; i < 300; i += 1) {
      const text = () => Array.from({ length: random(12) }, () => 'abc'[random(3)]).join('\n');
      const [old, now] = [text(), text()];
      const lines = diff(old, now, 1e6);
      if (old === now) continue;
      expect(lines.filter((line) => line.mark !== '+').map((line) => line.text).join('\n')).toBe(old);
      expect(lines.filter((line) => line.mark !== '-').map((line) => line.text).join('\n')).toBe(now);
    }
  });
  it('large and wholly different: bounded work', () => {
    const text = (name: string) => Array.from({ length: 20_000 }, (_, i) => name + i).join('\n');
    expect(diff(text('a'), text('b'))).toHaveLength(40_000);
  });
});
