/**
 * A client of the native stream: one WebSocket, many streams.
 *
 * Each stream has a credit window, so that a program that floods its stream waits for this page. A recorded run
 * (`keep_s`) continues on the next socket if the socket is lost; all other streams end with CONNECTION_LOST.
 */

import { CANCELLED, CONNECTION_LOST, type Ending, type Hello, type Operation, type Said } from './messages';
import { bytesOf, textSize } from './sizes';

export const SUBPROTOCOL = 'sandlot.json.v1';
/** Bytes of output that a stream may have on the way: no frame of the screen has to show more. */
export const WINDOW = 256 << 10;
const FIRST_DELAY_MS = 250;
const LONGEST_DELAY_MS = 10_000;
const NUMBERS = 2 ** 31;
/** Characters of input in one message. */
const PIECE = 32 << 10;

/** The part of WebSocket that the client uses. */
export interface Socket {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

/** `waiting`: the socket is lost, and the client tries again. `stopped`: it does not try again. */
export type Phase = 'connecting' | 'open' | 'waiting' | 'stopped';

/** Takes what a stream says. The credit for output returns when the returned promise is kept. */
export type Listener = (message: Said) => void | Promise<void>;

export interface ClientOptions {
  connect: () => Socket;
  onPhase?: (phase: Phase) => void;
  /** Ask whether to try again after a lost or refused socket. */
  mayRetry?: () => Promise<boolean>;
  later?: (run: () => void, ms: number) => () => void;
}

function later(run: () => void, ms: number): () => void {
  const timer = setTimeout(run, ms);
  return () => clearTimeout(timer);
}

/** One stream. `ended` is kept when its last message arrives, and never broken. */
export class Stream {
  number = -1;
  runId = '';
  context = '';
  seq = 0;
  readonly ended: Promise<Ending>;
  isOver = false;
  private settle!: (ending: Ending) => void;
  private unpaid = 0;
  private room = 0;
  private waiting: { text?: string; data?: string; size: number }[] = [];
  private wantsEnd = false;

  constructor(
    readonly operation: Operation,
    readonly window: number | null,
    private readonly listener: Listener,
    private readonly client: StreamClient,
  ) {
    this.ended = new Promise((resolve) => (this.settle = resolve));
  }

  get isRecorded(): boolean {
    const operation = this.operation;
    return (operation.op === 'command' || operation.op === 'run') && (operation.keep_s ?? 0) > 0;
  }

  /** Send input. It waits here while the server does not take it. */
  send(text: string): void {
    for (let at = 0; at < text.length; ) {
      let to = Math.min(text.length, at + PIECE);
      const last = text.charCodeAt(to - 1);
      if (to < text.length && last >= 0xd800 && last < 0xdc00) to -= 1; // keep both halves of a character together
      const piece = text.slice(at, to);
      this.waiting.push({ text: piece, size: textSize(piece) });
      at = to;
    }
    this.flush();
  }

  /** Send input that is bytes in base64. */
  sendBase64(data: string): void {
    this.waiting.push({ data, size: bytesOf(data) });
    this.flush();
  }

  /** Say that no more input follows. */
  end(): void {
    this.wantsEnd = true;
    this.flush();
  }

  /** Cancel the stream: a command is killed, a run interrupted, a terminal detached. */
  cancel(): void {
    if (this.isOver) return;
    this.client.tell({ type: 'cancel', stream: this.number });
    this.finish({ type: 'failed', code: CANCELLED, message: '' });
  }

  // -- for the client

  reset(number: number, room: number): void {
    this.number = number;
    this.room = room;
    this.unpaid = 0;
  }

  take(message: Said): void {
    if (message.type === 'started') {
      this.runId = message.id;
      this.context = message.context ?? '';
    }
    if ('seq' in message && message.seq) this.seq = message.seq;
    const size = message.type === 'data' ? textSize(message.text ?? '') + bytesOf(message.data ?? '') : 0;
    const number = this.number;
    let taken: void | Promise<void> = undefined;
    try {
      taken = this.listener(message);
    } catch (error) {
      console.error(error);
    }
    if (!size || this.window === null) return;
    if (taken instanceof Promise) {
      const pay = () => this.pay(size, number);
      taken.then(pay, pay);
    } else this.pay(size, number);
  }

  credit(bytes: number): void {
    this.room += bytes;
    this.flush();
  }

  finish(ending: Ending): void {
    if (this.isOver) return;
    this.isOver = true;
    this.client.forget(this);
    this.settle(ending);
  }

  private pay(size: number, number: number): void {
    if (this.isOver || number !== this.number || this.window === null) return; // of a socket that is lost
    this.unpaid += size;
    if (this.unpaid < this.window / 4) return;
    this.client.tell({ type: 'credit', stream: this.number, bytes: this.unpaid });
    this.unpaid = 0;
  }

  private flush(): void {
    if (this.isOver || this.number < 0) return;
    while (this.waiting.length && this.waiting[0]!.size <= this.room) {
      const { size, ...data } = this.waiting.shift()!;
      this.room -= size;
      this.client.tell({ type: 'data', stream: this.number, ...data });
    }
    if (this.wantsEnd && !this.waiting.length) {
      this.wantsEnd = false;
      this.client.tell({ type: 'end', stream: this.number });
    }
  }
}

export class StreamClient {
  phase: Phase = 'stopped';
  hello: Hello | undefined;
  private socket: Socket | undefined;
  private readonly streams = new Map<number, Stream>();
  private pending: Stream[] = []; // opened, and not yet sent
  private next = 1;
  private delay = FIRST_DELAY_MS;
  private cancelRetry: (() => void) | undefined;
  private readonly later: NonNullable<ClientOptions['later']>;

  constructor(private readonly options: ClientOptions) {
    this.later = options.later ?? later;
  }

  /** Connect, or connect again at once. */
  start(): void {
    if (this.phase === 'open' || this.phase === 'connecting') return;
    this.cancelRetry?.();
    this.enter('connecting');
    const socket = this.options.connect();
    this.socket = socket;
    socket.onmessage = (event) => {
      if (this.socket === socket) this.hear(String(event.data));
    };
    socket.onclose = () => {
      if (this.socket === socket) this.lose();
    };
  }

  /** Close the socket for good. Streams end; recorded runs continue in the sandbox until their time is over. */
  stop(): void {
    this.cancelRetry?.();
    const socket = this.socket;
    this.socket = undefined;
    socket?.close(1000);
    this.enter('stopped');
    this.failAll(() => true);
  }

  /** Open a stream. While there is no socket, the stream waits for one. `window`: null for none. */
  open(operation: Operation, listener: Listener = () => undefined, window: number | null = WINDOW): Stream {
    const stream = new Stream(operation, window, listener, this);
    if (this.phase === 'stopped') {
      stream.finish({ type: 'failed', code: CONNECTION_LOST, message: '' });
      return stream;
    }
    if (this.phase === 'open') this.send(stream, operation);
    else this.pending.push(stream);
    return stream;
  }

  /** Carry out an operation, and return what it said. Throws StreamError if it fails. */
  async ask(operation: Operation): Promise<Said[]> {
    const said: Said[] = [];
    const ending = await this.open(operation, (message) => void said.push(message)).ended;
    if (ending.type === 'failed') throw new StreamError(ending.code, ending.message);
    return said;
  }

  // -- for streams

  tell(message: object): void {
    if (this.phase === 'open') this.socket?.send(JSON.stringify(message));
  }

  forget(stream: Stream): void {
    if (this.streams.get(stream.number) === stream) this.streams.delete(stream.number);
    this.pending = this.pending.filter((each) => each !== stream);
  }

  // -- inside

  private enter(phase: Phase): void {
    if (this.phase === phase) return;
    this.phase = phase;
    this.options.onPhase?.(phase);
  }

  private send(stream: Stream, operation: Operation): void {
    while (this.streams.has(this.next)) this.next = (this.next + 1) % NUMBERS;
    const number = this.next;
    this.next = (this.next + 1) % NUMBERS;
    this.streams.set(number, stream);
    const { window } = stream;
    this.tell({ type: 'open', stream: number, operation, ...(window === null ? {} : { window }) });
    stream.reset(number, this.hello?.window ?? 0);
    stream.credit(0); // what was sent before there was a socket
  }

  private hear(text: string): void {
    let message: any;
    try {
      message = JSON.parse(text);
    } catch {
      this.socket?.close(1002);
      return;
    }
    if (message.type === 'hello') {
      this.welcome(message as Hello);
      return;
    }
    const stream = this.streams.get(message.stream);
    if (stream === undefined) return; // cancelled, and the server's word has crossed ours
    if (message.type === 'credit') stream.credit(message.bytes);
    else if (message.type === 'failed' && stream.isRecorded && stream.runId && isBroken(message.code)) {
      // The link between server and agent broke: the run continues, and can be resumed.
      this.streams.delete(stream.number);
      this.later(() => this.resume(stream), FIRST_DELAY_MS);
    } else if (message.type === 'done' || message.type === 'failed') stream.finish(message as Ending);
    else stream.take(message as Said);
  }

  private welcome(hello: Hello): void {
    this.hello = hello;
    this.delay = FIRST_DELAY_MS;
    this.enter('open');
    const pending = this.pending;
    this.pending = [];
    for (const stream of pending) this.resume(stream);
  }

  private resume(stream: Stream): void {
    if (stream.isOver) return;
    if (this.phase !== 'open') this.pending.push(stream);
    else if (stream.runId) this.send(stream, { op: 'resume', id: stream.runId, after: stream.seq });
    else this.send(stream, stream.operation);
  }

  private lose(): void {
    this.socket = undefined;
    const kept = [...this.streams.values()].filter((stream) => stream.isRecorded && stream.runId);
    this.failAll((stream) => this.streams.has(stream.number) && !kept.includes(stream));
    this.streams.clear();
    for (const stream of kept) stream.number = -1;
    this.pending.push(...kept);
    this.enter('waiting');
    void this.retry();
  }

  private async retry(): Promise<void> {
    const may = (await this.options.mayRetry?.().catch(() => true)) ?? true;
    if (this.phase !== 'waiting') return;
    if (!may) {
      this.stop();
      return;
    }
    this.cancelRetry = this.later(() => this.start(), this.delay * (0.75 + Math.random() / 2));
    this.delay = Math.min(LONGEST_DELAY_MS, this.delay * 2);
  }

  private failAll(which: (stream: Stream) => boolean): void {
    for (const stream of [...this.streams.values(), ...this.pending])
      if (which(stream)) stream.finish({ type: 'failed', code: CONNECTION_LOST, message: '' });
  }
}

function isBroken(code: string): boolean {
  return code === 'BACKEND_CONNECTION_FAILED';
}

/** The failure of an operation, with the code of the HTTP interface. */
export class StreamError extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message || code);
  }
}
