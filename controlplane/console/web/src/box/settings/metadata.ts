/** Changes of a sandbox's metadata, as `PATCH …/metadata` takes them. */

export interface Row {
  key: string;
  value: string;
}

export function rowsOf(metadata: Record<string, string>): Row[] {
  return Object.entries(metadata).map(([key, value]) => ({ key, value }));
}

/** Return rows in which somebody has edited the old metadata, after others have changed it to the new one. */
export function rebased(
  old: Record<string, string>,
  rows: readonly Row[],
  now: Record<string, string>,
): readonly Row[] {
  const edited = changes(old, rows);
  const kept = rows.filter(({ key }) => !key.trim() || key.trim() in edited || key.trim() in now);
  const mended = kept.map((row) => {
    const key = row.key.trim();
    return key && !(key in edited) ? { key: row.key, value: now[key]! } : row;
  });
  const known = new Set([...kept.map((row) => row.key.trim()), ...Object.keys(edited)]);
  return [...mended, ...rowsOf(now).filter(({ key }) => !known.has(key))];
}

/** Return the changes from the old metadata to the rows: null removes a key. */
export function changes(old: Record<string, string>, rows: readonly Row[]): Record<string, string | null> {
  const now = Object.fromEntries(rows.filter((row) => row.key.trim()).map((row) => [row.key.trim(), row.value]));
  const found: Record<string, string | null> = {};
  for (const key of Object.keys(old)) if (!(key in now)) found[key] = null;
  for (const [key, value] of Object.entries(now)) if (old[key] !== value) found[key] = value;
  return found;
}
