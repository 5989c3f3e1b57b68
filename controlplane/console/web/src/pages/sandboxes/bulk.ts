/** One request for each of several sandboxes, a few at a time. */

import { call, type Failure } from '../../api/client';
import { toasts } from '../../shell/toasts.svelte';
import { t } from '../words';

const AT_ONCE = 6;

export interface Action {
  method: string;
  /** Below the path of the sandbox, such as `/pause`; "" for the sandbox itself. */
  path: string;
  body?: unknown;
}

/** Send the request for each sandbox, and say how it went. */
export async function forEach(ids: readonly string[], action: Action): Promise<void> {
  const waiting = [...ids];
  const failures: Failure[] = [];
  const work = async (): Promise<void> => {
    for (let id = waiting.shift(); id !== undefined; id = waiting.shift()) {
      const path = `/v1/sandboxes/${encodeURIComponent(id)}${action.path}`;
      const answer = await call(action.method, path, action.body === undefined ? {} : { body: action.body });
      if (!answer.ok) failures.push(answer.error);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  const all = ids.length;
  const first = failures[0];
  if (first) toasts.bad(t('someFailed', { failed: failures.length, all, message: first.message }));
  else toasts.good(t('done', { done: all, all }));
}
