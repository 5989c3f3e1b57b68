import type { Sandbox } from './shapes';

/** Return the name that somebody has given a sandbox in its metadata, as the command line takes it; "" for none. */
export function nameOf(sandbox: Pick<Sandbox, 'metadata'> | null): string {
  return sandbox?.metadata?.['name'] ?? '';
}
