/** What the console says, in the reader's language. Every text has a key, and every key has both languages (typed). */

export type Language = 'en' | 'zh';
export type Values = Record<string, string | number>;

const KEPT = 'sandlot-language';

class Reader {
  language: Language = $state('en');

  constructor() {
    const kept = localStorage.getItem(KEPT);
    const tags = [kept ?? '', ...navigator.languages].map((tag) => tag.slice(0, 2).toLowerCase());
    this.#set(tags.find((tag) => tag === 'en' || tag === 'zh') ?? 'en');
  }

  choose(language: Language): void {
    localStorage.setItem(KEPT, language);
    this.#set(language);
  }

  #set(language: Language): void {
    this.language = language;
    document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
  }
}

export const reader = new Reader();

/**
 * Return the function that looks up a text by its key. `{name}` in a text stands for a value.
 *
 * A folder of pages has texts of its own: `export const t = dictionary(en, zh);`
 */
export function dictionary<Texts extends Record<string, string>>(en: Texts, zh: { [Key in keyof Texts]: string }) {
  return (key: keyof Texts, values: Values = {}): string => fill((reader.language === 'zh' ? zh : en)[key], values);
}

function fill(text: string, values: Values): string {
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}
