import { expect, it } from 'vitest';

import { bytes, countdown, relative } from './times';

it('counts down', () => {
  expect(countdown(-5)).toBe('0:00');
  expect(countdown(249_000)).toBe('4:09');
  expect(countdown(3_723_000)).toBe('1:02:03');
  expect(countdown(183_600_000)).toBe('2 d 03:00:00');
});

it('tells moments', () => {
  expect(relative(0, 200_000, 'en')).toBe('3 min. ago');
  expect(relative(200_000, 0, 'en')).toBe('in 3 min.');
  expect(relative(0, 400, 'en')).toBe('now');
});

it('tells sizes', () => {
  expect(bytes(999)).toBe('999 B');
  expect(bytes(1_400_000_000)).toBe('1.4 GB');
  expect(bytes(140_000)).toBe('140 kB');
});
