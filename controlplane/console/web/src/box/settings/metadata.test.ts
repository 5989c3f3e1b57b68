import { expect, it } from 'vitest';

import { changes, rebased } from './metadata';

it.each([
  [{ a: '1' }, [{ key: 'a', value: '1' }], {}],
  [{ a: '1' }, [], { a: null }],
  [{ a: '1' }, [{ key: ' b ', value: '2' }], { a: null, b: '2' }],
  [{ a: '1' }, [{ key: 'a', value: '2' }, { key: '', value: 'x' }], { a: '2' }],
])('%j', (old, rows, expected) => expect(changes(old as Record<string, string>, rows)).toEqual(expected));

it.each([
  ['nothing edited', { a: '1', b: '2' }, { a: '1', b: '2' }, { a: '9', c: '3' }, { a: '9', c: '3' }],
  ['a value edited', { a: '1' }, { a: 'mine' }, { a: '9', c: '3' }, { a: 'mine', c: '3' }],
  ['a key removed', { a: '1', b: '2' }, { b: '2' }, { a: '9', b: '2' }, { b: '2' }],
  ['a key added', { a: '1' }, { a: '1', n: 'new' }, {}, { n: 'new' }],
])('others change it: %s', (_, old, edited, now, expected) => {
  const rows = Object.entries(edited).map(([key, value]) => ({ key, value }));
  const found = rebased(old as Record<string, string>, rows, now as Record<string, string>);
  expect(Object.fromEntries(found.map(({ key, value }) => [key, value]))).toEqual(expected);
});
