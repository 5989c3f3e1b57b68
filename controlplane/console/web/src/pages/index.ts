/** All pages but those of one sandbox. Each is loaded when it is opened. */

import type { Route } from '../route/router.svelte';

export const routes: readonly Route[] = [
  { path: '/', load: () => import('./Start.svelte') },
  { path: '/sandboxes', load: () => import('./Sandboxes.svelte') },
];
