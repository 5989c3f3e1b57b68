import { en } from './en';
import { dictionary } from './words.svelte';
import { zh } from './zh';

export { dictionary, reader, type Language, type Values } from './words.svelte';

/** Return a text that all pages share. */
export const t = dictionary(en, zh);
