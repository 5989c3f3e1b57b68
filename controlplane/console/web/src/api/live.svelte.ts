/** The sandboxes as they are now: read once, then kept up to date by the server's events. */

import { call, type Failure } from './client';
import { events } from './events.svelte';
import type { Page, Sandbox, ServerEvent } from './shapes';

const PAGE_SIZE = 200;
const READINGS = 3;

class LiveSandboxes {
  /** All of them, in no order; a new array at most once a frame. */
  all: readonly Sandbox[] = $state.raw([]);
  /** Whether the list has been read. */
  known = $state(false);
  trouble: Failure | null = $state.raw(null);

  #rows = new Map<string, Sandbox>();
  #changes: Map<string, Sandbox | null> | null = null; // since the reading began
  #wanted = false;
  #frame = 0;

  constructor() {
    events.listen((event) => this.#take(event));
  }

  /** Begin to follow; a page that shows sandboxes calls this. */
  follow(): void {
    if (this.#wanted) return;
    this.#wanted = true;
    void this.read();
  }

  /** Read the list again. */
  async read(): Promise<void> {
    if (this.#changes) return;
    this.#changes = new Map();
    const answer = await this.#everything();
    const changes = this.#changes;
    this.#changes = null;
    if (answer instanceof Map) {
      this.#rows = answer;
      for (const [id, sandbox] of changes) this.#apply(id, sandbox);
      this.known = true;
      this.trouble = null;
    } else this.trouble = answer;
    this.#show();
  }

  /** Return all pages. Sandboxes that end meanwhile move others to the page before, so it counts them. */
  async #everything(): Promise<Map<string, Sandbox> | Failure> {
    let found = new Map<string, Sandbox>();
    for (let reading = 0; reading < READINGS; reading++) {
      let total = 0;
      for (let page = 1, more = true; more; page++) {
        const answer = await call<Page<Sandbox>>('GET', '/v1/sandboxes', { query: { page, pageSize: PAGE_SIZE } });
        if (!answer.ok) return answer.error;
        for (const sandbox of answer.value.items) found.set(sandbox.id, sandbox);
        total = answer.value.pagination.totalItems;
        more = answer.value.pagination.hasNextPage;
      }
      if (found.size === total) break;
      if (reading < READINGS - 1) found = new Map();
    }
    return found;
  }

  #take(event: ServerEvent): void {
    if (!this.#wanted) return;
    if (event.type === 'hello' || event.type === 'skipped') void this.read();
    if (event.type !== 'sandbox') return;
    this.#changes?.set(event.id, event.sandbox);
    this.#apply(event.id, event.sandbox);
    this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  #apply(id: string, sandbox: Sandbox | null): void {
    if (sandbox) this.#rows.set(id, sandbox);
    else this.#rows.delete(id);
  }

  #show(): void {
    this.#frame = 0;
    this.all = [...this.#rows.values()];
  }
}

export const sandboxes = new LiveSandboxes();
