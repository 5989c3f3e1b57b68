/** A list of the server that a page shows: read when the page opens, and again when something has changed. */

import { call, type Failure, type Query } from './client';

export class List<T> {
  items: readonly T[] | null = $state.raw(null);
  trouble: Failure | null = $state.raw(null);
  busy = $state(false);

  #again = false;

  constructor(
    readonly path: string,
    public query: Query = {},
  ) {}

  /** Read the list; a second request meanwhile reads it once more after that. */
  async read(): Promise<void> {
    if (this.busy) {
      this.#again = true;
      return;
    }
    this.busy = true;
    do {
      this.#again = false;
      const answer = await this.#everything();
      if (Array.isArray(answer)) {
        this.items = answer;
        this.trouble = null;
      } else this.trouble = answer;
    } while (this.#again);
    this.busy = false;
  }

  async #everything(): Promise<T[] | Failure> {
    const found: T[] = [];
    for (let page = 1; ; page++) {
      const query = page > 1 ? { ...this.query, page } : this.query;
      const answer = await call<{ items: T[]; pagination?: { hasNextPage: boolean } }>('GET', this.path, { query });
      if (!answer.ok) return answer.error;
      found.push(...answer.value.items);
      if (!answer.value.pagination?.hasNextPage) return found;
    }
  }
}
