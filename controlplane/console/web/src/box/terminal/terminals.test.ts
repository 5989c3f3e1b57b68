import { describe, expect, it } from 'vitest';

import { type Socket, StreamClient } from '../stream/client';
import { Session } from './terminals.svelte';

/** A session at a screen of 80 by 24, and the server's end of its socket. */
function attached() {
  const sent: any[] = [];
  const written: [string, boolean][] = [];
  const socket: Socket = {
    onopen: null,
    onmessage: null,
    onclose: null,
    send: (text) => void sent.push(JSON.parse(text)),
    close: () => undefined,
  };
  const client = new StreamClient({ connect: () => socket });
  client.start();
  const session = new Session(client, 't', {
    write: async (text, isReplay) => void written.push([text, isReplay]),
    reset: () => undefined,
    size: () => ({ cols: 80, rows: 24 }),
  });
  void session.attach();
  const say = (message: object): void => socket.onmessage?.({ data: JSON.stringify(message) });
  const hello = (): void => say({ type: 'hello', sandbox: 'box', version: '1', window: 1000 });
  const typed = (): string => sent.filter((each) => each.type === 'data').map((each) => each.text).join('');
  const pty = (output_end = 0): void => say({ type: 'pty', stream: 1, id: 't', running: true, output_start: 0, output_end });
  return { session, sent, written, say, hello, typed, pty };
}

describe('keys', () => {
  it('wait until there is a socket, and are not sent twice', () => {
    const { session, hello, typed, pty } = attached();
    session.input('l');
    expect(typed()).toBe('');
    hello();
    session.input('s');
    pty();
    session.input('!');
    expect(typed()).toBe('ls!');
  });

  it('go nowhere after the terminal was taken', () => {
    const { session, hello, typed, say } = attached();
    hello();
    say({ type: 'failed', stream: 1, code: 'ALREADY_CONNECTED', message: '' });
    session.input('x');
    expect(typed()).toBe('');
  });
});

describe('kept output', () => {
  it.each([
    ['abc', 3],
    ['ü€', 5],
    ['a\ufffdb', 3],
  ])('%j ends where the terminal says', (kept, bytes) => {
    const { hello, pty, say, written } = attached();
    hello();
    pty(bytes);
    say({ type: 'data', stream: 1, text: kept.slice(0, 1) });
    say({ type: 'data', stream: 1, text: kept.slice(1) });
    say({ type: 'data', stream: 1, text: 'new' });
    expect(written).toEqual([[kept.slice(0, 1), true], [kept.slice(1), true], ['new', false]]);
  });
});
