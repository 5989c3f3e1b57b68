/** Changes of a sandbox's metadata, as `PATCH …/metadata` takes them. */

export interface Row {
  key: string;
  value: string;
}

/** Return the changes from the old metadata to the rows: null removes a key. */
export function changes(old: Record<string, string>, rows: readonly Row[]): Record<string, string | null> {
  const now = Object.fromEntries(rows.filter((row) => row.key.trim()).map((row) => [row.key.trim(), row.value]));
  const found: Record<string, string | null> = {};
  for (const key of Object.keys(old)) if (!(key in now)) found[key] = null;
  for (const [key, value] of Object.entries(now)) if (old[key] !== value) found[key] = value;
  return found;
}
