/** What all pages of one sandbox share: the sandbox itself, its stream, its notebook. */

import { call, type Failure, socketAddress } from '../api/client';
import { events } from '../api/events.svelte';
import type { Sandbox } from '../api/shapes';
import { Watch } from './activity/watch.svelte';
import { Notebook } from './notebook/model.svelte';
import { Usage } from './usage/usage.svelte';
import { type Phase, StreamClient, SUBPROTOCOL } from './stream/client';

const ENDED = new Set(['Stopping', 'Terminated', 'Failed']);
const POLL_MS = 5000;

export class Box {
  sandbox: Sandbox | null = $state.raw(null);
  failure: Failure | null = $state.raw(null);
  phase: Phase = $state('stopped');
  readonly path: string;
  readonly client: StreamClient;
  readonly notebook: Notebook;
  readonly watch: Watch;
  readonly usage: Usage;
  #leave: () => void;
  #timer: ReturnType<typeof setInterval>;
  #isClosed = false;

  constructor(readonly id: string) {
    this.path = `/v1/sandboxes/${encodeURIComponent(id)}`;
    this.client = new StreamClient({
      connect: () => new WebSocket(socketAddress(`${this.path}/stream`), SUBPROTOCOL),
      onPhase: (phase) => (this.phase = phase),
      mayRetry: async () => {
        await this.refresh();
        return !this.#isClosed && this.state === 'Running';
      },
    });
    this.notebook = new Notebook(this.client);
    this.watch = new Watch(this.client, async () => {
      const answer = await call<{ keep: string }>('GET', `${this.path}/activity?limit=1`);
      return answer.ok ? answer.value.keep : '';
    });
    this.usage = new Usage(this.agent('/metrics/watch'));
    this.#leave = events.listen((event) => {
      if (event.type === 'hello' || event.type === 'skipped') void this.refresh();
      else if (event.type === 'sandbox' && event.id === id) {
        if (event.sandbox) this.#take(event.sandbox);
        else void this.refresh();
      }
    });
    this.#timer = setInterval(() => {
      const isMoving = this.sandbox !== null && !this.isOver && this.state !== 'Running';
      if (!this.isOver && (events.connection !== 'live' || isMoving)) void this.refresh();
    }, POLL_MS);
    void this.refresh();
  }

  get state(): string {
    return this.sandbox?.status.state ?? '';
  }

  /** The sandbox has ended, or there is none. */
  get isOver(): boolean {
    return ENDED.has(this.state) || this.failure?.status === 404;
  }

  /** Whether operations in the sandbox are possible now. */
  get isUsable(): boolean {
    return this.state === 'Running' && this.phase === 'open';
  }

  async refresh(): Promise<void> {
    const answer = await call<Sandbox>('GET', this.path);
    if (this.#isClosed) return;
    if (answer.ok) {
      this.failure = null;
      this.#take(answer.value);
    } else if (answer.error.status === 404 && this.sandbox) {
      // The record of an ended sandbox is kept only for a while; the page keeps what it has.
      this.#take({ ...this.sandbox, status: { state: 'Terminated' } });
    } else if (answer.error.status !== 0 || !this.sandbox) this.failure = answer.error;
  }

  close(): void {
    this.#isClosed = true;
    this.#leave();
    clearInterval(this.#timer);
    this.usage.stop();
    this.client.stop();
  }

  /** The address of an operation of the sandbox's agent. */
  agent(path: string): string {
    return `${this.path}/proxy/44772${path}`;
  }

  #take(sandbox: Sandbox): void {
    if (this.#isClosed) return;
    this.sandbox = sandbox;
    if (sandbox.status.state === 'Running' && this.client.phase === 'stopped') this.client.start();
    if (this.isOver) this.client.stop();
  }
}
