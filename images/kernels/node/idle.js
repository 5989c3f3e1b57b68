// Whether anything is left that could go on with what a run awaits.
//
// Node ends a program that awaits when its event loop is empty (exit code 13, "unsettled top-level await"). The loop of
// a context is never empty, because the channel is in it. So while a run awaits, the channel does not count; when Node
// then finds the loop empty, it emits `beforeExit`.
'use strict';

const { setImmediate, setTimeout } = require('node:timers');

const RECHECK_MS = 250;
const WAKERS = new Set(['tcp', 'pipe', 'udp', 'tty', 'process', 'fs_event', 'fs_poll', 'poll']); // libuv's words

class DeadEnds {
  /** `isWaiting()`: whether a run awaits, and no message of ours can help it. `end()` is called at a dead end. */
  constructor(channel, isWaiting, end) {
    this._channel = channel;
    this._isWaiting = isWaiting;
    this._end = end;
    this._wasEmpty = false;
    this._workers = new Set();
    process.on('worker', (worker) => {
      if (channel.isReader(worker)) return;
      this._workers.add(worker);
      worker.once('exit', () => this._workers.delete(worker));
    });
    // Not a listener, which user code may remove: without it, an empty loop would end the process.
    const emit = process.emit;
    Object.defineProperty(process, 'emit', {
      configurable: true,
      writable: true,
      value: (event, ...values) =>
        event === 'beforeExit' && this._hearEmpty() ? true : emit.call(process, event, ...values),
    });
  }

  /** To be called whenever the answer of `isWaiting` may have changed. */
  update() {
    if (this._isWaiting()) {
      this._channel.unref();
    } else {
      this._channel.ref();
      this._wasEmpty = false;
    }
  }

  /** The loop is empty. Return whether the program's own listeners need not hear of that. */
  _hearEmpty() {
    this._channel.ref(); // or the process ends
    if (!this._isWaiting()) return true;
    if (!this._wasEmpty) {
      // They may find something to do.
      this._wasEmpty = true;
      setImmediate(() => this.update());
      return false;
    }
    if (this._workers.size > 0 || hasUnreferenced()) setTimeout(() => this.update(), RECHECK_MS);
    else this._end();
    return true;
  }
}

/** Whether something is active that keeps no program alive, such as a timer after `unref()`. It may still call back. */
function hasUnreferenced() {
  let handles;
  try {
    const { report } = process;
    const before = report.excludeNetwork;
    report.excludeNetwork = true; // or names of hosts are looked up
    ({ libuv: handles } = report.getReport());
    report.excludeNetwork = before;
  } catch {
    return false;
  }
  const timer = handles.find(({ type }) => type === 'timer'); // the first is that of all JavaScript timers
  return handles.some(
    (one) => one.is_active && !one.is_referenced && (one === timer || WAKERS.has(one.type)),
  );
}

module.exports = { DeadEnds };
