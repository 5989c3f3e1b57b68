/**
 * Entries of a sandbox's activity folded into what a person reads: one item for each operation, each state, each gap.
 *
 * Within bounds: the oldest items leave the page, and are counted.
 */

import { Outputs } from '../notebook/outputs';
import type { Entry } from './entries';

export const MAX_ITEMS = 5000;
/** Characters of output that all items together keep. */
export const MAX_CHARS = 16 << 20;

export type Group = 'command' | 'code' | 'terminal' | 'file' | 'port' | 'context' | 'state';
export type Outcome = 'running' | 'ok' | 'failed' | 'interrupted' | 'note';

const GROUPS: Record<string, Group> = {
  code: 'code',
  context: 'context',
  directory: 'file',
  file: 'file',
  input: 'code',
  port: 'port',
  terminal: 'terminal',
};

export class Item {
  actor = '';
  what = '';
  text = '';
  language = '';
  context = '';
  cwd = '';
  path = '';
  port = 0;
  pid = 0;
  isBackground = false;
  outcome: Outcome = 'running';
  outputs: Outputs | undefined;
  outputBytes = 0;
  prompt: { text: string; isPassword: boolean } | undefined;
  receipt: Entry['receipt'];
  size: number | undefined;
  message = '';
  endedAt = 0;
  /** Of a gap: the numbers of the entries that this page does not have. */
  from = 0;
  to = 0;
  /** Grows with every change. */
  revision = 0;
  chars = 0;

  constructor(
    /** The operation's id; unique among items. */
    readonly id: string,
    readonly kind: 'operation' | 'state' | 'skipped',
    readonly seq: number,
    readonly at: number,
  ) {}

  get group(): Group {
    if (this.kind !== 'operation') return 'state';
    return GROUPS[this.what.split('.', 1)[0]!] ?? 'command';
  }

  /** What the operation is about, on one line. */
  get title(): string {
    if (this.path) return this.text && !this.text.includes('\n') ? `${this.path} \u2192 ${this.text}` : this.path;
    if (this.text) return this.text.split('\n', 1)[0]!;
    return this.port ? `:${this.port}` : this.context;
  }
}

export interface Filter {
  groups: ReadonlySet<Group>;
  outcomes: ReadonlySet<Outcome>;
  /** "" for all. */
  actor: string;
  text: string;
}

export class Activity {
  items: Item[] = [];
  /** The number of the last entry; where to follow after a lost connection. */
  last = 0;
  /** Items that left the page because there were too many. */
  dropped = 0;
  actors: string[] = [];
  private readonly open = new Map<string, Item>();
  private chars = 0;

  /** Take an entry. One that came before is ignored. */
  take(entry: Entry): void {
    if (entry.type === 'skipped') {
      this.addGap(entry);
      return;
    }
    if (entry.seq <= this.last) return;
    this.last = entry.seq;
    if (entry.type === 'state') {
      const item = this.add(new Item(`s${entry.seq}`, 'state', entry.seq, entry.at));
      item.outcome = 'note';
      item.text = entry.state ?? '';
      item.message = entry.reason ?? '';
      return;
    }
    const id = entry.op ?? '';
    if (entry.type === 'begun') {
      this.begin(id, entry);
      return;
    }
    // The beginning may have left the sandbox's memory before this page came.
    const item = this.open.get(id) ?? this.expect(id, entry);
    this.change(item, entry);
    this.trim();
  }

  /** Take output of an operation that its own stream has told, where the sandbox keeps none. */
  hear(entry: Entry): void {
    const id = entry.op ?? '';
    const known = this.open.get(id) ?? this.items.findLast((item) => item.id === id);
    const item = known ?? this.expect(id, entry);
    const { prompt } = item;
    this.change(item, entry);
    item.prompt = prompt; // it is told elsewhere, and may be newer than this output
    this.trim();
  }

  /** Return the items that a filter lets through. */
  filtered(filter: Filter): Item[] {
    const text = filter.text.toLowerCase();
    return this.items.filter((item) => {
      if (item.kind === 'skipped') return true; // a gap may have had anything in it
      if (filter.groups.size && !filter.groups.has(item.group)) return false;
      if (filter.outcomes.size && !filter.outcomes.has(item.outcome)) return false;
      if (filter.actor && item.actor !== filter.actor) return false;
      return !text || `${item.text}\n${item.path}\n${item.message}`.toLowerCase().includes(text);
    });
  }

  // -- inside

  private begin(id: string, entry: Entry): void {
    const item = this.open.get(id) ?? this.expect(id, entry); // it may have been heard of before
    item.actor = entry.actor ?? '';
    item.what = entry.what ?? '';
    item.text = entry.text ?? '';
    item.language = entry.language ?? '';
    item.context = entry.context ?? '';
    item.cwd = entry.cwd ?? '';
    item.path = entry.path ?? '';
    item.port = entry.port ?? 0;
    item.pid = entry.pid ?? 0;
    item.isBackground = entry.background ?? false;
    this.count(item, item.text.length);
    if (item.actor && !this.actors.includes(item.actor)) this.actors = [...this.actors, item.actor].sort();
    this.trim();
  }

  /** Add the item of an operation that goes on. */
  private expect(id: string, entry: Entry): Item {
    const item = this.add(new Item(id || `e${entry.seq}`, 'operation', entry.seq, entry.at));
    if (id) this.open.set(id, item);
    return item;
  }

  private change(item: Item, entry: Entry): void {
    item.revision += 1;
    switch (entry.type) {
      case 'output': {
        const text = entry.text ?? '';
        item.prompt = undefined; // it has been answered
        item.outputBytes += entry.bytes ?? text.length;
        (item.outputs ??= new Outputs()).addText(entry.channel ?? 'stdout', text);
        this.count(item, text.length);
        break;
      }
      case 'result': {
        const data = entry.data ?? {};
        const outputs = (item.outputs ??= new Outputs());
        if (entry.update && entry.display_id) {
          for (const each of this.items)
            if (each.outputs?.update(entry.display_id, data)) each.revision += 1;
        } else
          outputs.addResult({
            type: 'result',
            kind: entry.kind ?? 'display',
            data,
            execution_count: entry.execution_count ?? 0,
            display_id: entry.display_id ?? '',
          });
        this.count(item, Object.values(data).reduce((sum, text) => sum + text.length, 0));
        break;
      }
      case 'raised':
        (item.outputs ??= new Outputs()).addError({
          type: 'raised',
          name: entry.name ?? '',
          value: entry.value ?? '',
          traceback: entry.traceback ?? [],
          frames: entry.frames ?? [],
        });
        break;
      case 'prompt':
        item.prompt = { text: entry.prompt ?? '', isPassword: entry.password ?? false };
        break;
      case 'ended':
      case 'failed':
        this.end(item, entry);
    }
  }

  private end(item: Item, entry: Entry): void {
    item.prompt = undefined;
    item.endedAt = entry.at;
    item.receipt = entry.receipt;
    item.size = entry.size;
    item.message = entry.message ?? '';
    if (entry.output_bytes) item.outputBytes = entry.output_bytes;
    item.outcome = entry.type === 'failed' ? 'failed' : outcomeOf(entry);
    if (item.kind === 'operation' && entry.op) this.open.delete(entry.op);
  }

  private addGap(entry: Entry): void {
    const { from = 0, to = 0 } = entry;
    if (to && to <= this.last) return;
    const item = this.add(new Item(`g${from}-${to}-${this.dropped + this.items.length}`, 'skipped', to, entry.at));
    item.outcome = 'note';
    item.from = from;
    item.to = to;
    item.message = entry.reason ?? '';
    this.last = Math.max(this.last, to);
  }

  private add(item: Item): Item {
    this.items.push(item);
    return item;
  }

  private count(item: Item, chars: number): void {
    item.chars += chars;
    this.chars += chars;
  }

  private trim(): void {
    let drop = Math.max(0, this.items.length - MAX_ITEMS);
    let chars = 0;
    for (const item of this.items.slice(0, drop)) chars += item.chars;
    while (this.chars - chars > MAX_CHARS && drop < this.items.length - 1) {
      chars += this.items[drop]!.chars;
      drop += 1;
    }
    if (!drop) {
      this.shrink();
      return;
    }
    for (const item of this.items.splice(0, drop)) if (this.open.get(item.id) === item) this.open.delete(item.id);
    this.dropped += drop;
    this.chars -= chars;
    this.shrink();
  }

  /** One operation alone may be over the bound: its text keeps its end, as `Lines` bound it. */
  private shrink(): void {
    const only = this.items.at(-1);
    if (!only || this.chars <= MAX_CHARS) return;
    const kept = (only.outputs?.list ?? []).reduce((sum, each) => sum + (each.kind === 'text' ? each.lines.chars : 0), 0);
    this.chars -= only.chars - kept;
    only.chars = kept;
  }
}

const SIGINT = 2;

function outcomeOf(entry: Entry): Outcome {
  const { receipt } = entry;
  if (!receipt) return 'ok';
  if (receipt.cause === 'interrupted' || receipt.signal === SIGINT) return 'interrupted';
  if (receipt.cause === 'ok') return 'ok';
  return receipt.cause === 'exit' && !receipt.exit_code ? 'ok' : 'failed';
}
