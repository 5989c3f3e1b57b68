/** Short messages at the edge of the page about what has just been done. */

import type { Failure } from '../api/client';

export interface Toast {
  id: number;
  text: string;
  bad: boolean;
}

const LIFE_MS = 6000;
const MOST = 4;

class Toasts {
  all: Toast[] = $state([]);
  #next = 1;

  /** Say that something was done. */
  good(text: string): void {
    this.#add(text, false);
  }

  /** Say that something failed, in the server's own words. An error stays until it is closed. */
  bad(error: Failure | string): void {
    this.#add(typeof error === 'string' ? error : error.message, true);
  }

  close(id: number): void {
    this.all = this.all.filter((toast) => toast.id !== id);
  }

  #add(text: string, bad: boolean): void {
    const id = this.#next++;
    this.all = [...this.all, { id, text, bad }].slice(-MOST);
    if (!bad) setTimeout(() => this.close(id), LIFE_MS);
  }
}

export const toasts = new Toasts();
