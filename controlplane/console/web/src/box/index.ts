/** The pages of one sandbox. They are loaded when one of them is opened. */

import type { Route } from '../route/router.svelte';

export const routes: readonly Route[] = [{ path: '/sandboxes/:id/*', load: () => import('./Sandbox.svelte') }];
