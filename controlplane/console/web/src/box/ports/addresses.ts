/** Addresses of a sandbox's services: signed, and each of an origin of its own. */

const SIGNED = /^[^/]*\/v1\/sandboxes\/([0-9a-f-]{36})\/signed\/(\d{1,5})\/([0-9a-z]+)\/([a-z2-7]+)$/;
const LOCAL = new Set(['localhost', '127.0.0.1', '[::1]']);

/**
 * Return the address that the browser opens for what the server has answered.
 *
 * On this computer, a name below `localhost` serves instead of a path: such a service has an origin of its own, and may
 * use absolute paths.
 */
export function addressOf(endpoint: string, here: Pick<Location, 'protocol' | 'hostname' | 'port'>): string {
  const match = SIGNED.exec(endpoint);
  if (!match || !LOCAL.has(here.hostname)) return `${here.protocol}//${endpoint}/`;
  const [, id = '', port, expires, signature] = match;
  const host = `${port}-${id.replaceAll('-', '')}-${expires}-${signature}.localhost`;
  return `${here.protocol}//${host}${here.port && `:${here.port}`}/`;
}

/** Return the number of a port that a person has typed; 0 for none. */
export function portOf(text: string): number {
  const port = /^\d{1,5}$/.test(text.trim()) ? Number(text) : 0;
  return port <= 65535 ? port : 0;
}
