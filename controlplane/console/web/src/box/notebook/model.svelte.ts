/** A notebook on the contexts of a sandbox: branches beside each other, each with its cells and its contexts. */

import type { StreamClient, Stream } from '../stream/client';
import {
  CANCELLED,
  type Ending,
  type Failed,
  type Operation,
  type Prompt,
  type Receipt,
  type Said,
} from '../stream/messages';
import { nextFrame } from '../stream/pace';
import { Outputs } from './outputs';

/** How long a run goes on without this page, in s. */
const KEEP_S = 300;
export const MAX_BRANCHES = 8;

export type CellState = 'idle' | 'waiting' | 'running' | 'ok' | 'error' | 'interrupted' | 'lost';
export type Client = Pick<StreamClient, 'open' | 'ask'>;

function name(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

export class Cell {
  readonly id = name();
  /** The same in all copies of a cell that forks have made. */
  readonly origin: string;
  language = $state('');
  source = $state('');
  state: CellState = $state('idle');
  count = $state(0);
  receipt: Receipt | undefined = $state.raw();
  failure: Failed | undefined = $state.raw();
  prompt: Prompt | undefined = $state.raw();
  /** Grows with every change of the outputs, at most once a frame. */
  revision = $state(0);
  /** The outputs are those of the branch from which this one was forked. */
  isInherited = $state(false);
  outputs = new Outputs();
  stream: Stream | undefined;
  private isPainting = false;

  constructor(language: string, source = '', origin?: string) {
    this.origin = origin ?? this.id;
    this.language = language;
    this.source = source;
  }

  get isBusy(): boolean {
    return this.state === 'waiting' || this.state === 'running';
  }

  begin(): void {
    this.outputs = new Outputs();
    this.isInherited = false;
    this.receipt = this.failure = this.prompt = undefined;
    this.count = 0;
    this.state = 'waiting';
    this.revision += 1;
  }

  /** Take what the run says. The promise is kept with the next frame. */
  take(message: Said, branch: Branch): Promise<void> {
    if (message.type === 'started') this.state = 'running';
    else if (message.type === 'data') this.outputs.addText(message.channel ?? 'stdout', message.text ?? '');
    else if (message.type === 'raised') this.outputs.addError(message);
    else if (message.type === 'prompt') this.prompt = message;
    else if (message.type === 'result') {
      if (message.execution_count) this.count = message.execution_count;
      const id = message.display_id ?? '';
      if (message.update && id) branch.update(id, message.data);
      else this.outputs.addResult(message);
    }
    return this.paint();
  }

  finish(ending: Ending): void {
    this.prompt = undefined;
    this.receipt = ending.receipt;
    if (ending.type === 'failed') {
      this.failure = ending.code === CANCELLED ? undefined : ending;
      this.state = ending.code === CANCELLED ? 'interrupted' : 'lost';
    } else {
      const cause = ending.receipt?.cause ?? 'ok';
      this.state = cause === 'ok' ? 'ok' : cause === 'interrupted' ? 'interrupted' : 'error';
      if (ending.message) this.failure = { type: 'failed', code: cause, message: ending.message };
    }
    this.revision += 1;
  }

  copy(): Cell {
    const copy = new Cell(this.language, this.source, this.origin);
    if (this.isBusy || this.state === 'idle') return copy;
    copy.outputs = this.outputs.copy();
    copy.state = this.state;
    copy.count = this.count;
    copy.isInherited = true;
    return copy;
  }

  async paint(): Promise<void> {
    if (this.isPainting) return nextFrame();
    this.isPainting = true;
    await nextFrame();
    this.isPainting = false;
    this.revision += 1;
  }
}

export class Branch {
  readonly id = name();
  label = $state('');
  cells: Cell[] = $state([]);
  /** The context of each language, once it is known. */
  contexts: Record<string, string> = $state({});
  /** Languages that could not be forked, and begin afresh in this branch. */
  fresh: string[] = $state([]);

  constructor(
    label: string,
    /** Without own contexts, the branch uses the sandbox's default ones, which agents use too. */
    readonly hasOwnContexts: boolean,
  ) {
    this.label = label;
  }

  get isBusy(): boolean {
    return this.cells.some((cell) => cell.isBusy);
  }

  update(displayId: string, data: Record<string, string>): void {
    for (const cell of this.cells)
      if (cell.outputs.update(displayId, data)) cell.revision += 1;
  }
}

export class Notebook {
  branches: Branch[] = $state([]);
  languages: string[] = $state([]);
  /** The last failure of an action other than a run. */
  problem = $state('');
  private forks = 0;

  constructor(private readonly client: Client) {
    const main = new Branch('', false);
    main.cells.push(new Cell('python'));
    this.branches.push(main);
  }

  /** Ask which languages the image has. */
  async load(): Promise<void> {
    const said = await this.client.ask({ op: 'context.languages' });
    const names = said.flatMap((each) => (each.type === 'language' ? [each.name] : []));
    if (!names.length) return;
    this.languages = names.sort((a, b) => Number(b === 'python') - Number(a === 'python') || a.localeCompare(b));
    for (const branch of this.branches)
      for (const cell of branch.cells)
        if (!cell.source && !names.includes(cell.language)) cell.language = this.languages[0]!;
  }

  add(branch: Branch, after: Cell | undefined, language?: string): Cell {
    const cell = new Cell(language ?? after?.language ?? this.languages[0] ?? 'python');
    const at = after ? branch.cells.findIndex((each) => each.id === after.id) + 1 : branch.cells.length;
    branch.cells.splice(at, 0, cell);
    return cell;
  }

  remove(branch: Branch, cell: Cell): void {
    cell.stream?.cancel();
    branch.cells = branch.cells.filter((each) => each.id !== cell.id);
    if (!branch.cells.length) this.add(branch, undefined, cell.language);
  }

  move(branch: Branch, cell: Cell, by: number): void {
    const at = branch.cells.findIndex((each) => each.id === cell.id);
    const to = at + by;
    if (to < 0 || to >= branch.cells.length) return;
    const cells = [...branch.cells];
    cells.splice(at, 1);
    cells.splice(to, 0, cell);
    branch.cells = cells;
  }

  /** Run a cell. Return whether it ended well. */
  async run(branch: Branch, cell: Cell): Promise<boolean> {
    if (cell.isBusy || !cell.source.trim()) return true;
    cell.begin();
    const { language } = cell;
    try {
      const context = await this.contextOf(branch, language);
      const place = context ? { context } : { language };
      cell.stream = this.client.open(
        { op: 'run', code: cell.source, allow_input: true, keep_s: KEEP_S, ...place },
        (message) => {
          if (message.type === 'started' && message.context) branch.contexts[language] = message.context;
          return cell.take(message, branch);
        },
      );
      cell.finish(await cell.stream.ended);
    } catch (error) {
      cell.finish(failure(error));
    }
    cell.stream = undefined;
    return cell.state === 'ok';
  }

  /** Run all cells from one on, until one fails. */
  async runAll(branch: Branch, from = 0): Promise<void> {
    for (const cell of branch.cells.slice(from)) if (!(await this.run(branch, cell))) return;
  }

  /** Run the copies of a cell in all branches, with this cell's source. */
  async runEverywhere(cell: Cell): Promise<void> {
    const runs = this.branches.map((branch) => {
      const copy = branch.cells.find((each) => each.origin === cell.origin);
      if (!copy) return undefined;
      copy.source = cell.source;
      copy.language = cell.language;
      return this.run(branch, copy);
    });
    await Promise.all(runs);
  }

  async interrupt(branch: Branch, cell: Cell): Promise<void> {
    const id = branch.contexts[cell.language];
    if (!id) cell.stream?.cancel();
    else await this.attempt(() => this.client.ask({ op: 'context.interrupt', id }));
  }

  async answer(branch: Branch, cell: Cell, text: string | null): Promise<void> {
    const context = branch.contexts[cell.language] ?? cell.stream?.context ?? '';
    cell.prompt = undefined;
    await this.attempt(() => this.client.ask({ op: 'input', context, text }));
  }

  /** Restart all contexts of a branch: their variables are gone. */
  async restart(branch: Branch): Promise<void> {
    for (const id of Object.values(branch.contexts))
      await this.attempt(() => this.client.ask({ op: 'context.restart', id }));
  }

  /** Fork all contexts of a branch, and show the copy beside it. */
  async fork(branch: Branch): Promise<Branch | undefined> {
    if (this.branches.length >= MAX_BRANCHES || branch.isBusy) return undefined;
    this.problem = '';
    this.forks += 1;
    const fork = new Branch(String(this.forks), true);
    for (const [language, id] of Object.entries(branch.contexts)) {
      try {
        const said = await this.client.ask({ op: 'context.fork', id });
        const copy = said.find((each) => each.type === 'context');
        if (copy?.type === 'context') fork.contexts[language] = copy.id;
      } catch {
        fork.fresh.push(language); // which of the languages can be forked, their runners know
      }
    }
    fork.cells = branch.cells.map((cell) => cell.copy());
    const at = this.branches.findIndex((each) => each.id === branch.id);
    this.branches.splice(at + 1, 0, fork);
    return this.branches[at + 1];
  }

  /** Close a branch and the contexts that are its own. */
  async close(branch: Branch): Promise<void> {
    if (!branch.hasOwnContexts) return;
    for (const cell of branch.cells) cell.stream?.cancel();
    this.branches = this.branches.filter((each) => each.id !== branch.id);
    for (const id of Object.values(branch.contexts))
      await this.attempt(() => this.client.ask({ op: 'context.close', id }));
  }

  /** Return what an operation says; nothing if it fails. */
  async ask(operation: Operation): Promise<Said[]> {
    return this.client.ask(operation).catch(() => []);
  }

  /** Say whether the copies of a cell have the same outputs in all branches; undefined while some have not run. */
  comparison(cell: Cell): 'same' | 'differs' | undefined {
    const copies = this.branches.flatMap((branch) => branch.cells.filter((each) => each.origin === cell.origin));
    if (copies.length < 2) return undefined;
    const over = copies.every((each) => each.revision >= 0 && !each.isBusy && each.state !== 'idle');
    if (!over) return undefined;
    const first = copies[0]!.outputs.signature();
    return copies.every((each) => each.outputs.signature() === first) ? 'same' : 'differs';
  }

  // -- inside

  private async contextOf(branch: Branch, language: string): Promise<string> {
    const known = branch.contexts[language];
    if (known || !branch.hasOwnContexts) return known ?? '';
    const said = await this.client.ask({ op: 'context.open', language });
    const opened = said.find((each) => each.type === 'context');
    if (opened?.type === 'context') branch.contexts[language] = opened.id;
    return branch.contexts[language] ?? '';
  }

  private async attempt(action: () => Promise<unknown>): Promise<void> {
    try {
      this.problem = '';
      await action();
    } catch (error) {
      this.problem = failure(error).message;
    }
  }
}

function failure(error: unknown): Failed {
  const { code = '', message = String(error) } = error as { code?: string; message?: string };
  return { type: 'failed', code, message };
}
