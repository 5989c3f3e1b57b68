import { describe, expect, it } from 'vitest';

import { type Entry, entryOf } from './entries';
import { Activity, type Filter, type Group, MAX_CHARS, MAX_ITEMS, type Outcome } from './model';

let seq = 0;
const entry = (type: Entry['type'], more: Partial<Entry> = {}): Entry => ({ seq: (seq += 1), at: seq, type, ...more });

function took(...entries: Entry[]): Activity {
  const activity = new Activity();
  for (const each of entries) activity.take(each);
  return activity;
}

const all: Filter = { groups: new Set(), outcomes: new Set(), actor: '', text: '' };

describe('operations', () => {
  it('folds a command into one item', () => {
    const activity = took(
      entry('begun', { op: 'a', actor: 'agent', what: 'command', text: 'ls', cwd: '/tmp', pid: 4 }),
      entry('output', { op: 'a', channel: 'stdout', text: 'x\n', bytes: 2 }),
      entry('output', { op: 'a', channel: 'stderr', text: 'y', bytes: 1 }),
      entry('ended', { op: 'a', receipt: { cause: 'exit', exit_code: 0 } as any }),
    );
    expect(activity.items).toHaveLength(1);
    expect(activity.items[0]).toMatchObject({ what: 'command', text: 'ls', outcome: 'ok', outputBytes: 3, group: 'command' });
    expect(activity.items[0]!.outputs!.list).toHaveLength(2);
  });

  it.each([
    ['ended', { receipt: { cause: 'exit', exit_code: 2 } }, 'failed'],
    ['ended', { receipt: { cause: 'interrupted' } }, 'interrupted'],
    ['ended', { receipt: { cause: 'signal', signal: 2 } }, 'interrupted'],
    ['ended', { size: 3 }, 'ok'],
    ['failed', { code: 'X', message: 'no' }, 'failed'],
    ['prompt', { prompt: '? ' }, 'running'],
  ] as const)('%s %j', (type, last, outcome) => {
    const activity = took(entry('begun', { op: 'a', what: 'code' }), entry(type, { op: 'a', ...(last as object) }));
    expect(activity.items[0]!.outcome).toBe(outcome);
  });

  it('shows an operation whose beginning is gone', () => {
    const activity = took(entry('output', { op: 'z', text: 'late' }), entry('ended', { op: 'z' }));
    expect(activity.items).toHaveLength(1);
    expect(activity.items[0]!.what).toBe('');
  });

  it('an id that is used again is another item', () => {
    const activity = took(
      entry('begun', { op: 'a', text: '1' }),
      entry('ended', { op: 'a' }),
      entry('begun', { op: 'a', text: '2' }),
    );
    expect(activity.items.map((item) => [item.text, item.outcome])).toEqual([['1', 'ok'], ['2', 'running']]);
  });

  it('takes an entry once, though a connection was lost', () => {
    const one = entry('begun', { op: 'a', what: 'command' });
    expect(took(one, one).items).toHaveLength(1);
  });

  it('shows states and gaps', () => {
    const activity = took(entry('state', { state: 'Paused', reason: 'asked' }));
    activity.take({ seq: 0, at: 9, type: 'skipped', from: activity.last + 1, to: activity.last + 40, reason: 'slow' });
    expect(activity.items.map((item) => item.kind)).toEqual(['state', 'skipped']);
    expect(activity.items[1]).toMatchObject({ message: 'slow' });
    const before = activity.last;
    activity.take({ seq: before, at: 9, type: 'begun', op: 'x' });
    expect(activity.items).toHaveLength(2);
  });

  it('a gap whose numbers are unknown is shown all the same', () => {
    expect(took({ seq: 0, at: 1, type: 'skipped', reason: 'slow' }).items).toHaveLength(1);
  });
});

describe('filters', () => {
  const activity = took(
    entry('begun', { op: 'a', actor: 'agent', what: 'command', text: 'make' }),
    entry('begun', { op: 'b', actor: 'console admin', what: 'file.write', path: '/a/Readme' }),
    entry('ended', { op: 'b' }),
    entry('begun', { op: 'c', actor: 'agent', what: 'context.fork' }),
    { seq: 0, at: 1, type: 'skipped', from: 0, to: 0 },
  );
  const ids = (filter: Partial<Filter>) => activity.filtered({ ...all, ...filter }).map((item) => item.id[0]);

  it('lists actors', () => expect(activity.actors).toEqual(['agent', 'console admin']));
  it('by kind', () => expect(ids({ groups: new Set<Group>(['file']) })).toEqual(['b', 'g']));
  it('by outcome', () => expect(ids({ outcomes: new Set<Outcome>(['running']) })).toEqual(['a', 'c', 'g']));
  it('by actor', () => expect(ids({ actor: 'agent' })).toEqual(['a', 'c', 'g']));
  it('by text, also of paths', () => expect(ids({ text: 'readme' })).toEqual(['b', 'g']));
});

describe('bounds', () => {
  it('keeps so many items and counts the others', () => {
    const activity = new Activity();
    for (let i = 0; i < MAX_ITEMS + 100; i += 1) activity.take(entry('begun', { op: `o${i}`, what: 'command' }));
    expect(activity.items).toHaveLength(MAX_ITEMS);
    expect(activity.dropped).toBe(100);
    expect(activity.items[0]!.id).toBe('o100');
  });

  it('output of items that left the page does not count', () => {
    const activity = new Activity();
    const text = `${'x'.repeat(1 << 20)}\n`;
    for (let i = 0; i < 40; i += 1) {
      activity.take(entry('begun', { op: `o${i}`, what: 'command' }));
      activity.take(entry('output', { op: `o${i}`, text }));
    }
    expect(activity.items.length * text.length).toBeLessThanOrEqual(MAX_CHARS + text.length);
    expect(activity.items.at(-1)!.id).toBe('o39');
  });

  it('a single operation that floods pushes nobody out for ever', () => {
    const activity = took(entry('begun', { op: 'flood', what: 'command' }));
    for (let i = 0; i < 40; i += 1) activity.take(entry('output', { op: 'flood', text: 'y\n'.repeat(100_000) }));
    activity.take(entry('begun', { op: 'next', what: 'command' }));
    activity.take(entry('begun', { op: 'after', what: 'command' }));
    expect(activity.items.map((item) => item.id)).toEqual(['flood', 'next', 'after']);
  });
});

describe('entries of other servers', () => {
  it.each([null, 3, 'x', {}, { type: 'later' }, { type: 4 }])('%j is none', (value) => expect(entryOf(value)).toBeNull());
});

describe('what a run of this page says itself', () => {
  const heard = (text: string): Entry => ({ seq: 0, at: 1, type: 'output', op: 'a', channel: 'stdout', text });
  const begun = (): Entry => entry('begun', { op: 'a', actor: 'console me', what: 'command', text: 'ls' });
  const outcome = (): Entry => entry('ended', { op: 'a', receipt: { cause: 'ok' } as any });

  it.each(['first', 'between', 'last'])('belongs to its operation if it comes %s', (place) => {
    const activity = took();
    if (place === 'first') activity.hear(heard('x'));
    activity.take(begun());
    if (place === 'between') activity.hear(heard('x'));
    activity.take(outcome());
    if (place === 'last') activity.hear(heard('x'));
    expect(activity.items).toHaveLength(1);
    expect(activity.items[0]).toMatchObject({ what: 'command', actor: 'console me', outcome: 'ok' });
    expect(activity.items[0]!.outputs!.list).toHaveLength(1);
  });

  it('leaves a question open', () => {
    const activity = took(begun(), entry('prompt', { op: 'a', prompt: 'who?' }));
    activity.hear(heard('x'));
    expect(activity.items[0]!.prompt).toMatchObject({ text: 'who?' });
  });
});
