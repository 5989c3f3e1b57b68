/** Light or dark: as the system has it, unless the reader chose. */

export const THEMES = ['auto', 'light', 'dark'] as const;
export type Theme = (typeof THEMES)[number];

const KEPT = 'sandlot-theme';

class Look {
  theme: Theme = $state('auto');

  constructor() {
    this.#set((localStorage.getItem(KEPT) as Theme | null) ?? 'auto');
  }

  choose(theme: Theme): void {
    localStorage.setItem(KEPT, theme);
    this.#set(theme);
  }

  #set(theme: Theme): void {
    this.theme = THEMES.includes(theme) ? theme : 'auto';
    if (this.theme === 'auto') delete document.documentElement.dataset['theme'];
    else document.documentElement.dataset['theme'] = this.theme;
  }
}

export const look = new Look();
