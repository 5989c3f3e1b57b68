import { beforeAll, describe, expect, it, vi } from 'vitest';

import type { Listener } from '../stream/client';
import type { Ending, Operation, Said } from '../stream/messages';
import { toIpynb } from './ipynb';
import { Notebook } from './model.svelte';
import { MAX_OUTPUTS, Outputs } from './outputs';

class FakeClient {
  opened: Operation[] = [];
  answers: Record<string, (operation: any, say: Listener) => Ending | void | Promise<Ending | void>> = {};

  open(operation: Operation, listener: Listener = () => undefined): any {
    this.opened.push(operation);
    const answer = async (): Promise<Ending> => {
      await undefined;
      const ending = await this.answers[operation.op]?.(operation, listener);
      return ending || { type: 'done', receipt: { cause: 'ok' } as any };
    };
    return { ended: answer(), cancel: () => undefined, context: '' };
  }

  async ask(operation: Operation): Promise<Said[]> {
    const said: Said[] = [];
    const ending = await this.open(operation, (message) => void said.push(message)).ended;
    if (ending.type === 'failed') throw Object.assign(new Error(ending.message), { code: ending.code });
    return said;
  }
}

beforeAll(() => {
  vi.stubGlobal('requestAnimationFrame', (run: () => void) => setTimeout(run, 1));
  vi.stubGlobal('cancelAnimationFrame', clearTimeout);
});

function notebook() {
  const client = new FakeClient();
  const model = new Notebook(client as any);
  const branch = model.branches[0]!;
  return { client, model, branch, cell: branch.cells[0]! };
}

describe('runs', () => {
  it('runs in the default context, and remembers it', async () => {
    const { client, model, branch, cell } = notebook();
    client.answers['run'] = (_operation, say) => {
      void say({ type: 'started', id: 'r', context: 'default-python', seq: 1 });
      void say({ type: 'data', text: 'hi\n', channel: 'stdout' });
      void say({ type: 'result', kind: 'result', data: { 'text/plain': '3' }, execution_count: 7 });
    };
    cell.source = '1+2';
    expect(await model.run(branch, cell)).toBe(true);
    expect(client.opened[0]).toMatchObject({ op: 'run', language: 'python', allow_input: true });
    expect(branch.contexts).toEqual({ python: 'default-python' });
    expect(cell.count).toBe(7);
    expect(cell.outputs.list.map((output) => output.kind)).toEqual(['text', 'bundle']);
    await model.run(branch, cell);
    expect(client.opened[1]).toMatchObject({ context: 'default-python' });
    expect(cell.outputs.list).toHaveLength(2);
  });

  it('keeps stdout and stderr apart, in their order', async () => {
    const { client, model, branch, cell } = notebook();
    client.answers['run'] = (_operation, say) => {
      for (const [channel, text] of [['stdout', 'a'], ['stdout', 'b'], ['stderr', 'c'], ['stdout', 'd']])
        void say({ type: 'data', channel: channel!, text: text! });
    };
    cell.source = 'x';
    await model.run(branch, cell);
    expect(cell.outputs.list.map((each) => each.kind === 'text' && [each.channel, each.lines.text()])).toEqual([
      ['stdout', 'ab'],
      ['stderr', 'c'],
      ['stdout', 'd'],
    ]);
  });

  it('updates displays in earlier cells', async () => {
    const { client, model, branch, cell } = notebook();
    client.answers['run'] = (operation, say) =>
      void say({
        type: 'result',
        kind: 'display',
        data: { 'text/plain': operation.code },
        display_id: 'd',
        update: operation.code === 'second',
      });
    cell.source = 'first';
    await model.run(branch, cell);
    const next = model.add(branch, cell);
    next.source = 'second';
    await model.run(branch, next);
    expect(cell.outputs.list).toMatchObject([{ data: { 'text/plain': 'second' } }]);
    expect(next.outputs.list).toEqual([]);
  });

  it.each([
    [{ type: 'done', receipt: { cause: 'error' } }, 'error'],
    [{ type: 'done', receipt: { cause: 'interrupted' } }, 'interrupted'],
    [{ type: 'done', receipt: { cause: 'oom' }, message: 'out of memory' }, 'error'],
    [{ type: 'failed', code: 'CONNECTION_LOST', message: '' }, 'lost'],
  ])('%j is %s', async (ending, state) => {
    const { client, model, branch, cell } = notebook();
    client.answers['run'] = () => ending as any;
    cell.source = 'x';
    expect(await model.run(branch, cell)).toBe(false);
    expect(cell.state).toBe(state);
  });

  it('run all stops at the first failure', async () => {
    const { client, model, branch, cell } = notebook();
    cell.source = 'a';
    for (const source of ['bad', 'c']) model.add(branch, branch.cells.at(-1)).source = source;
    client.answers['run'] = (operation) =>
      operation.code === 'bad' ? { type: 'done', receipt: { cause: 'error' } as any } : undefined;
    await model.runAll(branch);
    expect(branch.cells.map((each) => each.state)).toEqual(['ok', 'error', 'idle']);
  });

  it('answers a prompt', async () => {
    const { client, model, branch, cell } = notebook();
    client.answers['run'] = async (_operation, say) => {
      void say({ type: 'started', id: 'r', context: 'c' });
      void say({ type: 'prompt', prompt: 'name? ' });
      expect(cell.prompt?.prompt).toBe('name? ');
      await model.answer(branch, cell, 'Ada');
      expect(cell.prompt).toBeUndefined();
    };
    cell.source = 'input()';
    await model.run(branch, cell);
    expect(client.opened[1]).toEqual({ op: 'input', context: 'c', text: 'Ada' });
  });
});

describe('branches', () => {
  async function forked() {
    const all = notebook();
    const { client, model, branch, cell } = all;
    client.answers['context.fork'] = (operation, say) => {
      if (operation.id === 'go') return { type: 'failed', code: 'NOT_SUPPORTED', message: 'no' };
      void say({ type: 'context', id: `${operation.id}-fork`, language: 'python' });
      return undefined;
    };
    client.answers['context.open'] = (operation, say) =>
      void say({ type: 'context', id: `${operation.language}-new`, language: operation.language });
    branch.contexts = { python: 'py', go: 'go' };
    client.answers['run'] = (operation, say) => void say({ type: 'data', text: `${operation.code}` });
    cell.source = 'x = 1';
    await model.run(branch, cell);
    return { ...all, fork: (await model.fork(branch))! };
  }

  it('a fork has copies of the contexts and the cells', async () => {
    const { model, branch, fork } = await forked();
    expect(model.branches).toHaveLength(2);
    expect(fork.contexts).toEqual({ python: 'py-fork' });
    expect(fork.fresh).toEqual(['go']);
    expect(fork.cells[0]).toMatchObject({ source: 'x = 1', isInherited: true, origin: branch.cells[0]!.origin });
  });

  it('a language that cannot be forked gets a context of its own', async () => {
    const { client, model, fork } = await forked();
    const cell = model.add(fork, undefined, 'go');
    cell.source = 'x';
    await model.run(fork, cell);
    expect(client.opened.at(-1)).toMatchObject({ op: 'run', context: 'go-new' });
  });

  it('compares', async () => {
    const { client, model, branch, fork, cell } = await forked();
    expect(model.comparison(cell)).toBe('same');
    client.answers['run'] = (operation, say) => void say({ type: 'data', text: operation.context });
    await model.runEverywhere(branch.cells[0]!);
    expect(fork.cells[0]!.isInherited).toBe(false);
    expect(model.comparison(branch.cells[0]!)).toBe('differs');
  });

  it('a later change of one branch does not reach into the other', async () => {
    const { model, branch, fork } = await forked();
    model.add(branch, undefined).source = 'only here';
    branch.cells[0]!.source = 'changed';
    expect(fork.cells.map((cell) => cell.source)).toEqual(['x = 1']);
    expect(model.comparison(branch.cells[1]!)).toBeUndefined();
  });

  it('closing closes its contexts, and never those of the main branch', async () => {
    const { client, model, branch, fork } = await forked();
    await model.close(fork);
    expect(client.opened.at(-1)).toEqual({ op: 'context.close', id: 'py-fork' });
    await model.close(branch);
    expect(model.branches).toHaveLength(1);
  });
});

describe('bounds', () => {
  it('keeps so many outputs and counts the rest', () => {
    const outputs = new Outputs();
    for (let i = 0; i < MAX_OUTPUTS + 10; i += 1) outputs.addResult({ type: 'result', kind: 'display', data: { a: 'b' } });
    expect(outputs.list).toHaveLength(MAX_OUTPUTS);
    expect(outputs.dropped).toBe(10);
  });
});

describe('.ipynb', () => {
  it('has outputs, counts, languages and ids', async () => {
    const { client, model, branch, cell } = notebook();
    client.answers['run'] = (_operation, say) => {
      void say({ type: 'data', text: 'a\nb', channel: 'stdout' });
      void say({ type: 'result', kind: 'display', data: { 'image/png': 'AAAA', 'text/html': '<p>\n</p>' } });
      void say({ type: 'result', kind: 'result', data: { 'application/json': '{"a":1}' }, execution_count: 2 });
      void say({ type: 'raised', name: 'E', value: 'v', traceback: ['t'] });
    };
    cell.source = 'one\ntwo';
    await model.run(branch, cell);
    const other = model.add(branch, cell, 'go');
    other.source = 'x';
    model.add(branch, other, 'python');
    const file = JSON.parse(toIpynb(branch.cells));
    expect(file).toMatchObject({ nbformat: 4, nbformat_minor: 5, metadata: { kernelspec: { name: 'python3' } } });
    expect(file.cells[0]).toMatchObject({
      cell_type: 'code',
      execution_count: 2,
      source: ['one\n', 'two'],
      outputs: [
        { output_type: 'stream', name: 'stdout', text: ['a\n', 'b'] },
        { output_type: 'display_data', data: { 'image/png': 'AAAA', 'text/html': ['<p>\n', '</p>'] }, metadata: {} },
        { output_type: 'execute_result', execution_count: 2, data: { 'application/json': { a: 1 } } },
        { output_type: 'error', ename: 'E', evalue: 'v', traceback: ['t'] },
      ],
    });
    expect(file.cells[1].metadata).toEqual({ vscode: { languageId: 'go' } });
    expect(new Set(file.cells.map((each: any) => each.id)).size).toBe(3);
    expect(file.cells.every((each: any) => /^[a-zA-Z0-9_-]{1,64}$/.test(each.id))).toBe(true);
  });
});
