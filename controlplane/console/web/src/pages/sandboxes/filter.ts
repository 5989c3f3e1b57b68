/** The filter of the list of sandboxes. */

import type { Sandbox } from '../../api/shapes';

/**
 * Return whether a sandbox matches every word of the text: `key=value` is an entry of the metadata (`key=` any value),
 * and another word is a part of the id, the image, or the metadata.
 */
export function matches(sandbox: Sandbox, text: string, state: string): boolean {
  if (state && sandbox.status.state !== state) return false;
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return true;
  const entries = Object.entries(sandbox.metadata ?? {}).map((entry) => entry.map((part) => part.toLowerCase()));
  const all = [sandbox.id, imageOf(sandbox), ...entries.flat()].join('\n').toLowerCase();
  return words.every((word) => {
    const [key, value] = word.split('=', 2);
    if (value === undefined) return all.includes(word);
    return entries.some(([name, is]) => name === key && (is ?? '').includes(value));
  });
}

/** Return what a sandbox was made from. */
export function imageOf(sandbox: Sandbox): string {
  return sandbox.image?.uri ?? (sandbox.snapshotId ? `snapshot ${sandbox.snapshotId}` : '');
}
