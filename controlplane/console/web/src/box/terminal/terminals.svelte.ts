/** The terminals of a sandbox: which there are, and the stream of each that is shown. */

import type { StreamClient, Stream } from '../stream/client';
import { CANCELLED, CONNECTION_LOST, type Ending } from '../stream/messages';
import { textSize } from '../stream/sizes';

export const TAKEN = 'ALREADY_CONNECTED';

/** What shows a terminal. */
export interface Screen {
  /** Show output; the promise is kept when it has been taken. `isReplay`: it was shown before, and is kept output. */
  write(text: string, isReplay: boolean): Promise<void>;
  reset(): void;
  size(): { cols: number; rows: number };
}

export type Attachment = 'attaching' | 'attached' | 'taken' | 'ended' | 'lost';

/** One terminal on one screen. */
export class Session {
  state: Attachment = $state('attaching');
  failure = $state('');
  private stream: Stream | undefined;
  private size = { cols: 0, rows: 0 };

  constructor(
    private readonly client: Pick<StreamClient, 'open' | 'ask'>,
    readonly id: string,
    private readonly screen: Screen,
  ) {}

  /** Attach, with the kept output first. With *takeover*, whoever has the terminal now loses it. */
  async attach(takeover = false): Promise<void> {
    this.state = 'attaching';
    this.failure = '';
    this.screen.reset();
    let replay = 0; // bytes of kept output that are still to come
    const stream = this.client.open({ op: 'pty.attach', id: this.id, takeover }, (message) => {
      if (message.type === 'pty') {
        this.state = 'attached';
        replay = (message.output_end ?? 0) - (message.output_start ?? 0);
        this.resize(true);
      } else if (message.type === 'data') {
        const text = message.text ?? '';
        const isReplay = replay > 0;
        if (isReplay) replay -= sentSize(text);
        return this.screen.write(text, isReplay);
      }
      return undefined;
    });
    this.stream = stream;
    const ending = await stream.ended;
    if (this.stream === stream) this.end(ending);
  }

  /** Send what is typed. What comes before the terminal is attached waits in its stream. */
  input(text: string): void {
    this.stream?.send(text);
  }

  inputBytes(binary: string): void {
    this.stream?.sendBase64(btoa(binary));
  }

  /** Tell the terminal the size of the screen. */
  resize(isForced = false): void {
    const { cols, rows } = this.screen.size();
    if (this.state !== 'attached' || cols < 1 || rows < 1) return;
    if (!isForced && cols === this.size.cols && rows === this.size.rows) return;
    this.size = { cols, rows };
    void this.client.ask({ op: 'pty.resize', id: this.id, cols, rows }).catch(() => undefined);
  }

  /** Detach. The program runs on. */
  leave(): void {
    const { stream } = this;
    this.stream = undefined;
    stream?.cancel();
  }

  private end(ending: Ending): void {
    this.stream = undefined;
    if (ending.type === 'done') this.state = 'ended';
    else if (ending.code === TAKEN) this.state = 'taken';
    else if (ending.code === CONNECTION_LOST) this.state = 'lost';
    else if (ending.code !== CANCELLED) {
      this.state = 'ended';
      this.failure = ending.message;
    }
  }
}

/** Return the least number of bytes that a text was in the terminal: a byte that was no UTF-8 has been replaced. */
function sentSize(text: string): number {
  return textSize(text.replaceAll('\ufffd', '?'));
}

/** The list of terminals. */
export class Terminals {
  ids: string[] = $state([]);
  current = $state('');
  isLoaded = $state(false);

  constructor(private readonly client: Pick<StreamClient, 'ask'>) {}

  async load(): Promise<void> {
    const said = await this.client.ask({ op: 'pty.list' });
    this.ids = said.flatMap((each) => (each.type === 'pty' ? [each.id] : []));
    if (!this.ids.includes(this.current)) this.current = this.ids[0] ?? '';
    this.isLoaded = true;
  }

  async open(size: { cols: number; rows: number }): Promise<void> {
    const said = await this.client.ask({ op: 'pty.open', ...size });
    const opened = said.find((each) => each.type === 'pty');
    if (opened?.type !== 'pty') return;
    this.ids = [...this.ids, opened.id];
    this.current = opened.id;
  }

  async close(id: string): Promise<void> {
    await this.client.ask({ op: 'pty.close', id });
    const at = this.ids.indexOf(id);
    this.ids = this.ids.filter((each) => each !== id);
    if (this.current === id) this.current = this.ids[Math.max(0, at - 1)] ?? '';
  }
}
