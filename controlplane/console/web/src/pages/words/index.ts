import { dictionary } from '../../words';
import { en } from './en';
import { zh } from './zh';

/** Return a text of the pages. */
export const t = dictionary(en, zh);
