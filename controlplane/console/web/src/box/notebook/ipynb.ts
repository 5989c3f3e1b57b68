/** A branch of a notebook as an .ipynb file, nbformat 4.5. */

import type { Output, Outputs } from './outputs';

export interface ExportedCell {
  id: string;
  language: string;
  source: string;
  count: number;
  outputs: Outputs;
}

const KERNELS: Record<string, [string, string, string]> = {
  python: ['Python 3', 'python3', '.py'],
  javascript: ['JavaScript', 'javascript', '.js'],
  typescript: ['TypeScript', 'typescript', '.ts'],
  java: ['Java', 'java', '.java'],
  go: ['Go', 'go', '.go'],
  bash: ['Bash', 'bash', '.sh'],
};

/** Return the notebook as text. Its language is that of most cells; cells of others say so in their metadata. */
export function toIpynb(cells: readonly ExportedCell[]): string {
  const main = mostFrequent(cells.map((cell) => cell.language)) ?? 'python';
  const [display_name, kernel, file_extension] = KERNELS[main] ?? [main, main, ''];
  const notebook = {
    cells: cells.map((cell) => ({
      cell_type: 'code',
      id: cell.id,
      metadata: cell.language === main ? {} : { vscode: { languageId: cell.language } },
      execution_count: cell.count || null,
      source: lines(cell.source),
      outputs: exported(cell),
    })),
    metadata: {
      kernelspec: { display_name, language: main, name: kernel },
      language_info: { name: main, ...(file_extension ? { file_extension } : {}) },
    },
    nbformat: 4,
    nbformat_minor: 5,
  };
  return `${JSON.stringify(notebook, null, 1)}\n`;
}

function exported(cell: ExportedCell): object[] {
  const outputs = cell.outputs.list.map((output) => exportedOutput(output, cell.count));
  if (cell.outputs.dropped)
    outputs.push({ output_type: 'stream', name: 'stderr', text: [`[${cell.outputs.dropped} outputs were not kept]\n`] });
  return outputs;
}

function exportedOutput(output: Output, count: number): object {
  if (output.kind === 'text') {
    const { droppedChars } = output.lines;
    const text = (droppedChars ? `[${droppedChars} characters before this were not kept]\n` : '') + output.lines.text();
    return { output_type: 'stream', name: output.channel, text: lines(text) };
  }
  if (output.kind === 'error')
    return { output_type: 'error', ename: output.name, evalue: output.value, traceback: output.traceback };
  const data = Object.fromEntries(Object.entries(output.data).map(([mime, text]) => [mime, mimeValue(mime, text)]));
  if (!output.isResult) return { output_type: 'display_data', data, metadata: {} };
  return { output_type: 'execute_result', execution_count: output.count || count || null, data, metadata: {} };
}

function mimeValue(mime: string, text: string): unknown {
  if (mime === 'application/json' || mime.endsWith('+json')) {
    try {
      return JSON.parse(text) as unknown;
    } catch {
      return text;
    }
  }
  return mime.startsWith('text/') || mime.endsWith('+xml') ? lines(text) : text;
}

/** Split a text after each line feed, as notebooks have it. */
function lines(text: string): string[] {
  return text === '' ? [] : text.split(/(?<=\n)/);
}

function mostFrequent(texts: readonly string[]): string | undefined {
  const counts = new Map<string, number>();
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0];
}
