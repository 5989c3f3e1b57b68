/** What a sandbox uses, second by second, as long as one of its pages shows it. */

import { send } from '../../api/client';

export interface UsageView {
  cpu_count: number;
  cpu_used_pct: number;
  mem_total_mib: number;
  mem_used_mib: number;
  timestamp: number;
  processes?: number;
  connections?: number;
  ports?: { port: number; address: string }[];
}

/** Seconds that are kept. */
export const MAX_POINTS = 900;
const AGAIN_MS = 2000;

export class Usage {
  points: UsageView[] = $state.raw([]);
  problem = $state('');
  private leaving: AbortController | undefined;

  constructor(private readonly address: string) {}

  get last(): UsageView | undefined {
    return this.points.at(-1);
  }

  /** Read until `stop`; a lost connection is opened again. */
  async start(): Promise<void> {
    if (this.leaving) return;
    const leaving = new AbortController();
    this.leaving = leaving;
    while (!leaving.signal.aborted) {
      const answer = await send('GET', this.address, { query: { detail: true }, signal: leaving.signal });
      if (answer.ok) {
        this.problem = '';
        await this.read(answer.value).catch(() => undefined);
      } else if (!leaving.signal.aborted) this.problem = answer.error.message;
      if (!leaving.signal.aborted) await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }

  stop(): void {
    this.leaving?.abort();
    this.leaving = undefined;
  }

  take(point: UsageView): void {
    this.points = [...this.points.slice(1 - MAX_POINTS), point];
  }

  private async read(response: Response): Promise<void> {
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const text = line.startsWith('data:') ? line.slice(5) : line;
        if (text.trim()) this.take(JSON.parse(text) as UsageView);
      }
    }
  }
}
