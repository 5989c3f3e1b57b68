/** Completion and explanation at the cursor of a cell. Both are help: a failure shows nothing. */

import type { Completions } from '../code/editor';
import { toCharacters, toUnits } from '../code/places';
import { Lines } from '../output/ansi';
import type { Branch, Cell, Notebook } from './model.svelte';

export async function complete(
  notebook: Notebook,
  branch: Branch,
  cell: Cell,
  code: string,
  cursor: number,
): Promise<Completions | null> {
  const id = branch.contexts[cell.language] ?? (branch.hasOwnContexts ? '' : `default-${cell.language}`);
  if (!id) return null;
  const said = await notebook.ask({ op: 'context.complete', id, code, cursor: toCharacters(code, cursor) });
  const found = said.find((each) => each.type === 'completion');
  if (found?.type !== 'completion') return null;
  return { matches: found.matches, start: toUnits(code, found.start), end: toUnits(code, found.end) };
}

/** Return the text that explains the name at the cursor, or "". */
export async function inspect(
  notebook: Notebook,
  branch: Branch,
  cell: Cell,
  code: string,
  cursor: number,
): Promise<string> {
  const id = branch.contexts[cell.language] ?? (branch.hasOwnContexts ? '' : `default-${cell.language}`);
  if (!id) return '';
  const said = await notebook.ask({ op: 'context.inspect', id, code, cursor: toCharacters(code, cursor) });
  const found = said.find((each) => each.type === 'inspection');
  const text = found?.type === 'inspection' ? (found.data['text/plain'] ?? '') : '';
  const lines = new Lines();
  lines.write(text); // without colours
  return lines.text();
}
