/** What a cell has said, as a list of outputs in their order. */

import { Lines } from '../output/ansi';
import type { Frame, Raised, Result } from '../stream/messages';

export interface TextOutput {
  kind: 'text';
  channel: 'stdout' | 'stderr';
  lines: Lines;
}
export interface BundleOutput {
  kind: 'bundle';
  isResult: boolean;
  data: Record<string, string>;
  count: number;
  displayId: string;
}
export interface ErrorOutput {
  kind: 'error';
  name: string;
  value: string;
  traceback: string[];
  frames: Frame[];
}
export type Output = TextOutput | BundleOutput | ErrorOutput;

/** Displays and pieces of text of one cell. What is beyond is counted, and not kept. */
export const MAX_OUTPUTS = 500;
/** Characters of all displays of one cell. */
export const MAX_BUNDLE_CHARS = 32 << 20;

export class Outputs {
  list: Output[] = [];
  /** Outputs that were not kept. */
  dropped = 0;
  private bundleChars = 0;

  addText(channel: string, text: string): void {
    const wanted = channel === 'stderr' ? 'stderr' : 'stdout';
    let last = this.list.at(-1);
    if (last?.kind !== 'text' || last.channel !== wanted) {
      if (this.isFull()) last = this.list.findLast((each) => each.kind === 'text') as TextOutput | undefined;
      else this.list.push((last = { kind: 'text', channel: wanted, lines: new Lines() }));
    }
    if (last?.kind === 'text') last.lines.write(text);
    else this.dropped += 1;
  }

  addResult(result: Result): void {
    const size = Object.values(result.data).reduce((sum, text) => sum + text.length, 0);
    if (this.isFull() || this.bundleChars + size > MAX_BUNDLE_CHARS) {
      this.dropped += 1;
      return;
    }
    this.bundleChars += size;
    this.list.push({
      kind: 'bundle',
      isResult: result.kind === 'result',
      data: result.data,
      count: result.execution_count ?? 0,
      displayId: result.display_id ?? '',
    });
  }

  /** Replace the displays with an id. Return whether there is one. */
  update(displayId: string, data: Record<string, string>): boolean {
    let isFound = false;
    this.list = this.list.map((each) => {
      if (each.kind !== 'bundle' || each.displayId !== displayId) return each;
      isFound = true;
      return { ...each, data };
    });
    return isFound;
  }

  addError(raised: Raised): void {
    this.list.push({
      kind: 'error',
      name: raised.name,
      value: raised.value,
      traceback: raised.traceback ?? [],
      frames: raised.frames ?? [],
    });
  }

  copy(): Outputs {
    const copy = new Outputs();
    copy.list = [...this.list];
    copy.dropped = this.dropped;
    return copy;
  }

  /** Return what two runs of the same cell are compared by. */
  signature(): string {
    return JSON.stringify(
      this.list.map((each) => {
        if (each.kind === 'text') return [each.channel, each.lines.text(), each.lines.droppedChars];
        if (each.kind === 'error') return [each.name, each.value];
        return each.data;
      }),
    );
  }

  private isFull(): boolean {
    return this.list.length >= MAX_OUTPUTS;
  }
}
