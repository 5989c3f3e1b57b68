/** The server's own state: pools, engine, counters. Keys with the scope `read` or `admin` see it. */

import { call, type Failure } from './client';
import { events } from './events.svelte';
import type { Counters, Pool, ServerEvent, ServerInfo } from './shapes';

class LiveServer {
  info: ServerInfo | null = $state.raw(null);
  pools: readonly Pool[] = $state.raw([]);
  counters: Counters | null = $state.raw(null);
  trouble: Failure | null = $state.raw(null);
  /** What the engine says is wrong; "" if it answers. */
  engineTrouble = $state('');

  #wanted = false;

  constructor() {
    events.listen((event) => this.#take(event));
  }

  follow(): void {
    if (this.#wanted) return;
    this.#wanted = true;
    void this.read();
  }

  async read(): Promise<void> {
    const answer = await call<ServerInfo>('GET', '/v1/server');
    if (!answer.ok) {
      this.trouble = answer.error;
      return;
    }
    this.trouble = null;
    this.info = answer.value;
    this.pools = answer.value.pools;
    if (answer.value.engine.answers) this.engineTrouble = '';
  }

  #take(event: ServerEvent): void {
    if (!this.#wanted) return;
    if (event.type === 'hello' || event.type === 'skipped') void this.read();
    else if (event.type === 'counters') this.counters = event;
    else if (event.type === 'engine') {
      this.engineTrouble = event.up ? '' : event.message || 'the engine does not answer';
      void this.read();
    } else if (event.type === 'pool') {
      const isSame = (pool: Pool) => pool.name === event.name && pool.image === event.image;
      const known = this.pools.some(isSame);
      this.pools = known ? this.pools.map((pool) => (isSame(pool) ? event : pool)) : [...this.pools, event];
    }
  }
}

export const server = new LiveServer();
