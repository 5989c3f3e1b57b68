import { expect, it } from 'vitest';

import { toCharacters, toUnits } from './places';

it.each([
  ['abc', 2, 2],
  ['😀x', 2, 1],
  ['😀x', 3, 2],
  ['', 0, 0],
])('%j', (code, units, characters) => {
  expect(toCharacters(code, units)).toBe(characters);
  expect(toUnits(code, characters)).toBe(units);
});

it('a place beyond the end is the end', () => expect(toUnits('ab', 9)).toBe(2));
