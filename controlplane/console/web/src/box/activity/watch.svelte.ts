/** The activity of a sandbox as it happens, and what a person does about it. */

import type { StreamClient, Stream } from '../stream/client';
import { CANCELLED, CONNECTION_LOST, type Operation, type Said } from '../stream/messages';
import { nextFrame } from '../stream/pace';
import { entryOf, heardOf } from './entries';
import { Activity, type Item } from './model';

/** How long a command of this page goes on without the page, in s. */
const KEEP_S = 300;

export class Watch {
  /** Grows with the entries, at most once a frame. */
  version = $state(0);
  isLive = $state(false);
  problem = $state('');
  /** The server or the agent keeps no activity. */
  isOff = $state(false);
  /** What the sandbox keeps; "" while that is not known. Where it is an outline, there is no output of others. */
  keep = $state('');
  readonly activity = new Activity();
  private stream: Stream | undefined;
  private isPainting = false;

  constructor(
    private readonly client: Pick<StreamClient, 'open' | 'ask'>,
    private readonly askKeep: () => Promise<string>,
  ) {}

  /** Follow the activity, after what is known of it already. */
  async follow(): Promise<void> {
    if (this.stream || this.isOff) return;
    this.problem = '';
    // Without a window: the server tells a slow reader what it misses.
    const stream = this.client.open(
      { op: 'activity', after: this.activity.last },
      (message) => {
        if (message.type !== 'activity') return;
        const entry = entryOf(message.entry);
        if (entry) this.activity.take(entry);
        void this.paint();
      },
      null,
    );
    this.stream = stream;
    this.isLive = true;
    void this.learn();
    const ending = await stream.ended;
    if (this.stream === stream) this.stream = undefined;
    this.isLive = false;
    if (ending.type !== 'failed' || ending.code === CANCELLED || ending.code === CONNECTION_LOST) return;
    this.isOff = ending.code === 'NOT_SUPPORTED' || ending.code === 'INVALID_REQUEST_BODY';
    this.problem = ending.message;
  }

  leave(): void {
    const { stream } = this;
    this.stream = undefined;
    stream?.cancel();
  }

  /** Run a command, or code in the default context of a language. Its output comes back as activity. */
  async run(text: string, language: string): Promise<void> {
    await this.start(
      language === '' ? { op: 'command', command: text, keep_s: KEEP_S } : { op: 'run', code: text, language, ...RUN },
    );
  }

  /** Run what an item has run, again. */
  async rerun(item: Item): Promise<void> {
    const { cwd, context, text } = item;
    if (item.what !== 'code') await this.start({ op: 'command', command: text, keep_s: KEEP_S, ...(cwd ? { cwd } : {}) });
    else await this.start({ op: 'run', code: text, context, ...RUN });
  }

  async interrupt(item: Item): Promise<void> {
    const id = item.context || item.id;
    await this.attempt(
      item.what === 'code' ? { op: 'context.interrupt', id } : { op: 'signal', id, signal: 'SIGINT' },
    );
  }

  async answer(item: Item, text: string | null): Promise<void> {
    const { prompt } = item;
    await this.attempt({ op: 'input', context: item.context, text });
    if (item.prompt !== prompt || this.problem) return;
    item.prompt = undefined; // an outline has no output that would tell
    void this.paint();
  }

  // -- inside

  /** Open a run. What it says is shown only if the activity does not tell it, as it tells everybody's. */
  private async start(operation: Operation): Promise<void> {
    this.problem = '';
    await this.learn();
    const stream: Stream = this.client.open(operation, (message) => this.hear(stream, message));
    const ending = await stream.ended;
    if (ending.type === 'failed' && ending.code !== CANCELLED && ending.code !== CONNECTION_LOST)
      this.problem = ending.message;
  }

  private async learn(): Promise<void> {
    this.keep ||= await this.askKeep();
    this.isOff ||= this.keep === 'off';
  }

  private hear(stream: Stream, message: Said): Promise<void> | undefined {
    const entry = this.keep === 'outline' ? heardOf(stream.runId, message) : null;
    if (!entry) return undefined;
    this.activity.hear(entry);
    void this.paint();
    return nextFrame(); // a flood is read as fast as it is shown
  }

  private async attempt(operation: Operation): Promise<void> {
    try {
      this.problem = '';
      await this.client.ask(operation);
    } catch (error) {
      this.problem = (error as Error).message;
    }
  }

  private async paint(): Promise<void> {
    if (this.isPainting) return;
    this.isPainting = true;
    await nextFrame();
    this.isPainting = false;
    this.version += 1;
  }
}

const RUN = { allow_input: true, keep_s: KEEP_S };
