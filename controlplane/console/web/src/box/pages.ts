/** The pages of one sandbox, each a file of its own. */

import type { Component } from 'svelte';

import type { Box } from './box.svelte';

export interface BoxPage {
  /** The last part of the address. */
  id: string;
  label: 'activity' | 'notebook' | 'terminal' | 'files' | 'ports' | 'metrics' | 'settings';
  icon: 'activity' | 'book' | 'terminal' | 'folder' | 'link' | 'chart' | 'gear';
  load: () => Promise<{ default: Component<{ box: Box }> }>;
}

export const PAGES: readonly BoxPage[] = [
  { id: 'activity', label: 'activity', icon: 'activity', load: () => import('./activity/Activity.svelte') },
  { id: 'notebook', label: 'notebook', icon: 'book', load: () => import('./notebook/Notebook.svelte') },
  { id: 'terminal', label: 'terminal', icon: 'terminal', load: () => import('./terminal/Terminals.svelte') },
  { id: 'files', label: 'files', icon: 'folder', load: () => import('./files/Files.svelte') },
  { id: 'ports', label: 'ports', icon: 'link', load: () => import('./ports/Ports.svelte') },
  { id: 'metrics', label: 'metrics', icon: 'chart', load: () => import('./usage/Metrics.svelte') },
  { id: 'settings', label: 'settings', icon: 'gear', load: () => import('./settings/Settings.svelte') },
];

/** Return the page of an address; the first one for an address that names none. */
export function pageOf(rest: string): BoxPage {
  return PAGES.find((page) => page.id === rest) ?? PAGES[0]!;
}
