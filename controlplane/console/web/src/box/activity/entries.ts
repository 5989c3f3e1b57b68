/** The entries of a sandbox's activity, as `GET /v1/sandboxes/{id}/activity` and the native stream tell them. */

import type { Frame, Receipt, Said } from '../stream/messages';

export interface Entry {
  seq: number;
  at: number;
  type: 'begun' | 'output' | 'result' | 'raised' | 'prompt' | 'ended' | 'failed' | 'state' | 'skipped';
  op?: string;
  actor?: string;
  what?: string;
  text?: string;
  language?: string;
  context?: string;
  cwd?: string;
  path?: string;
  port?: number;
  pid?: number;
  background?: boolean;
  channel?: string;
  bytes?: number;
  data?: Record<string, string>;
  execution_count?: number;
  display_id?: string;
  update?: boolean;
  kind?: string;
  name?: string;
  value?: string;
  traceback?: string[];
  frames?: Frame[];
  prompt?: string;
  password?: boolean;
  receipt?: Receipt;
  size?: number;
  message?: string;
  output_bytes?: number;
  code?: string;
  state?: string;
  reason?: string;
  from?: number;
  to?: number;
  /** Of this entry that are missing, because it was too large. */
  cut_bytes?: number;
}

/** Return the entry of a message, or null if it is none. Unknown types are kept out, so that later servers may add some. */
export function entryOf(value: unknown): Entry | null {
  const entry = value as Entry | null;
  const isEntry = typeof entry === 'object' && entry !== null && typeof entry.type === 'string';
  return isEntry && TYPES.has(entry.type) ? entry : null;
}

/** Return what an operation's own stream says of its output as an entry, which has no number; null for all else. */
export function heardOf(op: string, said: Said): Entry | null {
  const base = { seq: 0, at: Date.now() / 1000, op };
  if (said.type === 'data') return { ...base, type: 'output', channel: said.channel ?? 'stdout', text: said.text ?? '' };
  if (said.type === 'result') return { ...said, ...base, type: 'result' };
  return null;
}

const TYPES = new Set<string>([
  'begun',
  'output',
  'result',
  'raised',
  'prompt',
  'ended',
  'failed',
  'state',
  'skipped',
] satisfies Entry['type'][]);
