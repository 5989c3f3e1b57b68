/** All pages but those of one sandbox. Each is loaded when it is opened. */

import type { Route } from '../route/router.svelte';

export const routes: readonly Route[] = [
  { path: '/', load: () => import('./start/Start.svelte') },
  { path: '/sandboxes', load: () => import('./sandboxes/Sandboxes.svelte') },
  { path: '/images', load: () => import('./stock/Images.svelte') },
  { path: '/storage', load: () => import('./stock/Storage.svelte') },
  { path: '/server', load: () => import('./server/Server.svelte') },
  { path: '/server/:tab', load: () => import('./server/Server.svelte') },
  { path: '/api', load: () => import('./reference/Reference.svelte') },
  { path: '/api/:name', load: () => import('./reference/Reference.svelte') },
];
