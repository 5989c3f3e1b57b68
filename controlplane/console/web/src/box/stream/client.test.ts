import { describe, expect, it } from 'vitest';

import { type Socket, StreamClient, WINDOW } from './client';
import { CANCELLED, CONNECTION_LOST, type Said } from './messages';

class FakeSocket implements Socket {
  onopen = null;
  onmessage: Socket['onmessage'] = null;
  onclose: Socket['onclose'] = null;
  sent: any[] = [];
  isClosed = false;

  send(text: string): void {
    this.sent.push(JSON.parse(text));
  }
  close(): void {
    this.isClosed = true;
  }
  say(message: object): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }
  hello(window = 262144): void {
    this.say({ type: 'hello', sandbox: 'box', version: '1', window });
  }
  take(): any[] {
    return this.sent.splice(0);
  }
}

function started() {
  const sockets: FakeSocket[] = [];
  const timers: (() => void)[] = [];
  const client = new StreamClient({
    connect: () => {
      const socket = new FakeSocket();
      sockets.push(socket);
      return socket;
    },
    later: (run) => {
      timers.push(run);
      return () => timers.splice(timers.indexOf(run), 1);
    },
  });
  client.start();
  return { client, sockets, timers, socket: sockets[0]! };
}

const turn = () => new Promise((resolve) => setTimeout(resolve));

describe('streams', () => {
  it('waits for the hello, then opens with a window', async () => {
    const { client, socket } = started();
    const said: Said[] = [];
    const stream = client.open({ op: 'command', command: 'ls' }, (message) => void said.push(message));
    expect(socket.take()).toEqual([]);
    socket.hello();
    expect(socket.take()).toEqual([
      { type: 'open', stream: 1, operation: { op: 'command', command: 'ls' }, window: WINDOW },
    ]);
    socket.say({ type: 'started', stream: 1, id: 'abc' });
    socket.say({ type: 'data', stream: 1, text: 'hi' });
    socket.say({ type: 'done', stream: 1, receipt: { cause: 'exit' } });
    expect(said.map((message) => message.type)).toEqual(['started', 'data']);
    expect(await stream.ended).toEqual({ type: 'done', stream: 1, receipt: { cause: 'exit' } });
    expect(stream.runId).toBe('abc');
  });

  it('returns credit only when the output has been taken, in bytes of UTF-8', async () => {
    const { client, socket } = started();
    socket.hello();
    let taken = () => undefined as void;
    client.open({ op: 'command', command: 'yes' }, () => new Promise<void>((resolve) => (taken = resolve)), 8);
    socket.take();
    socket.say({ type: 'data', stream: 1, text: 'äöü' });
    await turn();
    expect(socket.take()).toEqual([]);
    taken();
    await turn();
    expect(socket.take()).toEqual([{ type: 'credit', stream: 1, bytes: 6 }]);
  });

  it('counts bytes in base64', async () => {
    const { client, socket } = started();
    socket.hello();
    client.open({ op: 'file.read', path: '/x' }, undefined, 8);
    socket.take();
    socket.say({ type: 'data', stream: 1, data: btoa('12345') });
    expect(socket.take()).toEqual([{ type: 'credit', stream: 1, bytes: 5 }]);
  });

  it('a listener that throws costs nobody the credit', () => {
    const { client, socket } = started();
    socket.hello();
    const silenced = console.error;
    console.error = () => undefined;
    client.open({ op: 'command', command: 'x' }, () => { throw new Error('a fault of the page'); }, 4);
    socket.take();
    socket.say({ type: 'data', stream: 1, text: 'four' });
    console.error = silenced;
    expect(socket.take()).toEqual([{ type: 'credit', stream: 1, bytes: 4 }]);
  });

  it('sends input as the server gives credit, and the end after it', () => {
    const { client, socket } = started();
    const stream = client.open({ op: 'command', command: 'cat', stdin: true });
    stream.send('12345');
    stream.send('678');
    stream.end();
    socket.hello(6);
    expect(socket.take().slice(1)).toEqual([{ type: 'data', stream: 1, text: '12345' }]);
    socket.say({ type: 'credit', stream: 1, bytes: 5 });
    expect(socket.take()).toEqual([
      { type: 'data', stream: 1, text: '678' },
      { type: 'end', stream: 1 },
    ]);
  });

  it('never cuts a character in half', () => {
    const { client, socket } = started();
    socket.hello(1 << 20);
    const stream = client.open({ op: 'command', command: 'cat', stdin: true });
    socket.take();
    stream.send(`${'a'.repeat((32 << 10) - 1)}😀b`);
    const texts = socket.take().map((message) => message.text as string);
    expect(texts.map((text) => text.length)).toEqual([(32 << 10) - 1, 3]);
    expect(texts.some((text) => /^[\udc00-\udfff]|[\ud800-\udbff]$/.test(text))).toBe(false);
  });

  it('cancels', async () => {
    const { client, socket } = started();
    socket.hello();
    const stream = client.open({ op: 'run', code: '1' });
    socket.take();
    stream.cancel();
    expect(socket.take()).toEqual([{ type: 'cancel', stream: 1 }]);
    expect(await stream.ended).toMatchObject({ code: CANCELLED });
    socket.say({ type: 'done', stream: 1 }); // which has crossed the cancel
  });

  it('does not reuse the number of a stream that is still open', () => {
    const { client, socket } = started();
    socket.hello();
    for (const n of [1, 2, 3]) client.open({ op: 'run', code: `${n}` });
    expect(socket.take().map((message) => message.stream)).toEqual([1, 2, 3]);
  });
});

describe('a lost socket', () => {
  it('ends plain streams, and says so', async () => {
    const { client, socket } = started();
    socket.hello();
    const stream = client.open({ op: 'command', command: 'sleep 9' });
    socket.onclose?.({});
    expect(await stream.ended).toMatchObject({ type: 'failed', code: CONNECTION_LOST });
    expect(client.phase).toBe('waiting');
  });

  it('resumes recorded runs after the last message, on the next socket', async () => {
    const { client, sockets, timers, socket } = started();
    socket.hello();
    const said: Said[] = [];
    const stream = client.open({ op: 'command', command: 'x', keep_s: 60 }, (message) => void said.push(message));
    socket.say({ type: 'started', stream: 1, id: 'run', seq: 1 });
    socket.say({ type: 'data', stream: 1, text: 'a', seq: 2 });
    socket.onclose?.({});
    await turn();
    timers.shift()!();
    sockets[1]!.hello();
    expect(sockets[1]!.take()).toEqual([
      { type: 'open', stream: 2, operation: { op: 'resume', id: 'run', after: 2 }, window: WINDOW },
    ]);
    socket.say({ type: 'data', stream: 1, text: 'from the dead' });
    sockets[1]!.say({ type: 'data', stream: 2, text: 'b', seq: 3 });
    sockets[1]!.say({ type: 'done', stream: 2, seq: 4 });
    expect(await stream.ended).toMatchObject({ type: 'done' });
    expect(said.map((message) => (message.type === 'data' ? message.text : ''))).toEqual(['', 'a', 'b']);
  });

  it('ends a recorded run that nobody knows to have begun', async () => {
    const { client, socket } = started();
    socket.hello();
    const stream = client.open({ op: 'run', code: '1', keep_s: 60 });
    socket.onclose?.({});
    expect(await stream.ended).toMatchObject({ code: CONNECTION_LOST });
  });

  it('resumes after a break between server and agent, on the same socket', async () => {
    const { client, timers, socket } = started();
    socket.hello();
    client.open({ op: 'run', code: '1', keep_s: 60 });
    socket.say({ type: 'started', stream: 1, id: 'run', seq: 1 });
    socket.take();
    socket.say({ type: 'failed', stream: 1, code: 'BACKEND_CONNECTION_FAILED', message: 'gone' });
    timers.shift()!();
    expect(socket.take()[0].operation).toEqual({ op: 'resume', id: 'run', after: 1 });
  });

  it('a stream that was opened meanwhile waits for the next socket', async () => {
    const { client, sockets, timers, socket } = started();
    socket.hello();
    socket.onclose?.({});
    client.open({ op: 'context.list' });
    await turn();
    timers.shift()!();
    sockets[1]!.hello();
    expect(sockets[1]!.take()[0].operation).toEqual({ op: 'context.list' });
  });

  it('stops where trying again is of no use, and ends what waits', async () => {
    const { client, socket } = started();
    (client as any).options.mayRetry = () => Promise.resolve(false);
    const stream = client.open({ op: 'context.list' });
    socket.onclose?.({});
    expect(await stream.ended).toMatchObject({ code: CONNECTION_LOST });
    expect(client.phase).toBe('stopped');
    expect(await client.open({ op: 'context.list' }).ended).toMatchObject({ code: CONNECTION_LOST });
  });
});
