/** The address of the page, by history: `/console/sandboxes/ID/terminal` is the path `/sandboxes/ID/terminal` here. */

import type { Component } from 'svelte';

export const BASE = '/console';

export type Params = Record<string, string>;

export type PageComponent = Component<{ params: Params }> | Component<Record<string, never>>;

export interface Route {
  /** `/sandboxes/:id/*`: `:name` is one part, and `*` at the end is the rest (the parameter `rest`, maybe ""). */
  path: string;
  /** Import the page, which gets the parameters as its property `params`. */
  load: () => Promise<{ default: PageComponent }>;
}

class Place {
  path = $state('/');
  query = $state.raw(new URLSearchParams());

  constructor() {
    this.#read();
    addEventListener('popstate', () => this.#read());
  }

  #read(): void {
    const { pathname, search } = location;
    this.path = pathname.startsWith(BASE) ? pathname.slice(BASE.length) || '/' : '/';
    this.query = new URLSearchParams(search);
  }

  /** Go to a path of the console, such as `/sandboxes?state=Running`. */
  go(path: string, { replace = false } = {}): void {
    if (BASE + path === location.pathname + location.search) return;
    if (replace) history.replaceState(null, '', BASE + path);
    else history.pushState(null, '', BASE + path);
    this.#read();
    if (!replace) scrollTo(0, 0);
  }
}

export const place = new Place();

/** Return the address of a path of the console, for `href`. */
export function href(path: string): string {
  return BASE + path;
}

/** Follow a click on a link inside the console without loading the page again. */
export function followLinks(event: MouseEvent): void {
  const link = (event.target as Element | null)?.closest('a');
  const isPlain = event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
  if (!link || !isPlain || event.defaultPrevented || link.target || link.hasAttribute('download')) return;
  const address = new URL(link.href);
  if (address.origin !== location.origin || !`${address.pathname}/`.startsWith(`${BASE}/`) || address.hash) return;
  event.preventDefault();
  place.go((address.pathname.slice(BASE.length) || '/') + address.search);
}

/** Return the first route that fits the path, with its parameters. */
export function match(routes: readonly Route[], path: string): { route: Route; params: Params } | null {
  for (const route of routes) {
    const params = fit(route.path, path);
    if (params) return { route, params };
  }
  return null;
}

/** Return the parameters of a path that fits the pattern, or null. */
export function fit(pattern: string, path: string): Params | null {
  const wanted = parts(pattern);
  const given = parts(path);
  const params: Params = {};
  for (const [index, part] of wanted.entries()) {
    if (part === '*') return { ...params, rest: given.slice(index).map(decoded).join('/') };
    const value = given[index];
    if (value === undefined || (!part.startsWith(':') && part !== value)) return null;
    if (part.startsWith(':')) params[part.slice(1)] = decoded(value);
  }
  return given.length === wanted.length ? params : null;
}

function parts(path: string): string[] {
  return path.split('/').filter((part) => part !== '');
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
