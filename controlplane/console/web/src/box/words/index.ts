import { dictionary } from '../../words';
import { en } from './en';
import { zh } from './zh';

export const t = dictionary(en, zh);
