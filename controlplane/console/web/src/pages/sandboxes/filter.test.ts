import { expect, it } from 'vitest';

import type { Sandbox } from '../../api/shapes';
import { matches } from './filter';

const SANDBOX: Sandbox = {
  id: 'abc123',
  image: { uri: 'sandlot/Python' },
  status: { state: 'Running' },
  metadata: { team: 'Blue', '<b>': '"x"' },
  createdAt: '2026-01-01T00:00:00Z',
};

it.each([
  ['', '', true],
  ['', 'Running', true],
  ['', 'Paused', false],
  ['BC12', '', true],
  ['python blue', '', true],
  ['python red', '', false],
  ['team=bl', '', true],
  ['team=', '', true],
  ['team=red', '', false],
  ['tea=blue', '', false],
  ['<b>', '', true],
])('%j in state %j', (text, state, expected) => {
  expect(matches(SANDBOX, text, state)).toBe(expected);
});
