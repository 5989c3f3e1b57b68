/** CPU and memory of the sandboxes that are on the screen. Reading them is no use of a sandbox. */

import { SvelteMap } from 'svelte/reactivity';

import { call } from '../../api/client';
import type { Sandbox, Usage } from '../../api/shapes';

const EVERY_MS = 4000;
const AT_ONCE = 4;

export class Usages {
  /** The last reading of each sandbox that was on the screen. */
  of = new SvelteMap<string, Usage>();

  #shown: readonly Sandbox[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #stopped = false;

  /** Read these from now on. */
  show(sandboxes: readonly Sandbox[]): void {
    this.#shown = sandboxes;
    if (this.#timer === undefined && !this.#stopped) this.#timer = setTimeout(() => void this.#round(), 100);
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  async #round(): Promise<void> {
    const running = document.hidden ? [] : this.#shown.filter((sandbox) => sandbox.status.state === 'Running');
    const waiting = running.map((sandbox) => sandbox.id);
    await Promise.all(Array.from({ length: AT_ONCE }, () => this.#readAll(waiting)));
    if (!this.#stopped) this.#timer = setTimeout(() => void this.#round(), EVERY_MS);
  }

  async #readAll(waiting: string[]): Promise<void> {
    for (let id = waiting.shift(); id !== undefined && !this.#stopped; id = waiting.shift()) {
      const answer = await call<Usage>('GET', `/v1/sandboxes/${encodeURIComponent(id)}/proxy/44772/metrics`);
      if (answer.ok) this.of.set(id, answer.value);
      else this.of.delete(id);
    }
  }
}
