/** Whether the page is dark now, for what is not painted by CSS: terminals, charts, frames. */

import { look } from '../shell/theme.svelte';

class Darkness {
  #system = $state(false);

  constructor() {
    const query = matchMedia('(prefers-color-scheme: dark)');
    this.#system = query.matches;
    query.addEventListener('change', () => (this.#system = query.matches));
  }

  get is(): boolean {
    return look.theme === 'auto' ? this.#system : look.theme === 'dark';
  }
}

export const darkness = new Darkness();
