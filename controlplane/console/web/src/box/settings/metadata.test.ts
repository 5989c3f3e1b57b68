import { expect, it } from 'vitest';

import { changes } from './metadata';

it.each([
  [{ a: '1' }, [{ key: 'a', value: '1' }], {}],
  [{ a: '1' }, [], { a: null }],
  [{ a: '1' }, [{ key: ' b ', value: '2' }], { a: null, b: '2' }],
  [{ a: '1' }, [{ key: 'a', value: '2' }, { key: '', value: 'x' }], { a: '2' }],
])('%j', (old, rows, expected) => expect(changes(old as Record<string, string>, rows)).toEqual(expected));
