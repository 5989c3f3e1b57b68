/** The server's events as they happen: one WebSocket for all pages, opened again whenever it ends. */

import { socketAddress } from './client';
import type { ServerEvent } from './shapes';

export type Connection = 'connecting' | 'live' | 'lost';

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;
/** The server sends its counters every second. After this time in silence, the connection counts as lost. */
const SILENCE_MS = 10_000;

type Listener = (event: ServerEvent) => void;

class Events {
  /** Whether events arrive; pages show it. */
  connection: Connection = $state('connecting');

  /** Called whenever the connection has ended by itself: perhaps nobody is signed in any more. */
  onlost: () => void = () => undefined;

  #listeners = new Set<Listener>();
  #socket: WebSocket | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #silence: ReturnType<typeof setTimeout> | undefined;
  #pause = FIRST_PAUSE_MS;
  #wanted = false;

  /** Hear every event until the returned function is called. A `hello` means: read your lists again. */
  listen(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Connect, and stay connected. */
  start(): void {
    if (this.#wanted) return;
    this.#wanted = true;
    addEventListener('online', this.#hurry);
    document.addEventListener('visibilitychange', this.#hurry);
    this.#open();
  }

  /** Close the connection, because nobody is signed in. */
  stop(): void {
    this.#wanted = false;
    removeEventListener('online', this.#hurry);
    document.removeEventListener('visibilitychange', this.#hurry);
    clearTimeout(this.#timer);
    clearTimeout(this.#silence);
    this.#socket?.close();
    this.#socket = null;
    this.connection = 'connecting';
  }

  #hurry = (): void => {
    if (this.#socket || !this.#wanted || document.hidden) return;
    clearTimeout(this.#timer);
    this.#open();
  };

  #open(): void {
    const socket = new WebSocket(socketAddress('/v1/events'));
    this.#socket = socket;
    this.#watch(socket);
    socket.onmessage = (message: MessageEvent<string>) => this.#take(socket, message.data);
    socket.onclose = () => this.#ended(socket);
  }

  #take(socket: WebSocket, text: string): void {
    this.#watch(socket);
    const event = JSON.parse(text) as ServerEvent;
    if (event.type === 'hello') {
      this.connection = 'live';
      this.#pause = FIRST_PAUSE_MS;
    }
    for (const listener of [...this.#listeners]) listener(event);
  }

  #watch(socket: WebSocket): void {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => {
      socket.close();
      this.#ended(socket); // `onclose` may take a minute if the network is gone
    }, SILENCE_MS);
  }

  #ended(socket: WebSocket): void {
    if (this.#socket !== socket) return;
    this.#socket = null;
    clearTimeout(this.#silence);
    if (!this.#wanted) return;
    this.connection = 'lost';
    this.onlost();
    this.#timer = setTimeout(() => this.#open(), this.#pause * (0.5 + Math.random()));
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE_MS);
  }
}

export const events = new Events();
