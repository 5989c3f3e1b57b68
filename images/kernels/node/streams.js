// process.stdout and process.stderr that write at once, and whole.
//
// Node's own put a pipe into non-blocking mode, for every program that shares it: `echo` in a subprocess would fail
// with EAGAIN, and output could overtake messages. Ours keep nothing back, so there is nothing to flush.
'use strict';

const fs = require('node:fs');
const { Writable } = require('node:stream');

const { writeSync } = fs; // user code may replace it, and the next one
const toBuffer = Buffer.from;
const PAUSE_MS = 1;
const pause = new Int32Array(new SharedArrayBuffer(4));

/** Write all of a buffer, also where somebody has made the descriptor non-blocking. False: nobody reads any more. */
function writeAll(fd, data) {
  for (let sent = 0; sent < data.length; ) {
    try {
      sent += writeSync(fd, data, sent);
    } catch (error) {
      if (error.code !== 'EAGAIN') return false;
      Atomics.wait(pause, 0, 0, PAUSE_MS);
    }
  }
  return true;
}

/** Write a text to a descriptor. */
function writeText(fd, text) {
  writeAll(fd, toBuffer(text));
}

class Output extends Writable {
  constructor(fd) {
    super({ emitClose: false });
    this.setMaxListeners(0); // each pipeline() leaves some, and one may follow the other
    this.fd = fd;
    this._type = 'fs';
    this._isStdio = true;
  }

  _write(chunk, _encoding, done) {
    writeAll(this.fd, chunk);
    done();
  }

  /** The descriptors stay open, and the next run prints as well, whoever ends or destroys us. */
  end(...args) {
    const done = args.findLast((one) => typeof one === 'function');
    const [chunk, encoding] = args.filter((one) => typeof one !== 'function');
    if (chunk !== undefined && chunk !== null) this.write(chunk, encoding);
    process.nextTick(() => {
      this.emit('finish'); // for which pipeline() waits
      done?.();
    });
    return this;
  }

  destroy() {
    return this;
  }
}

/** Put ours in place of Node's; before anything has been printed. */
function install() {
  for (const [name, fd] of [['stdout', 1], ['stderr', 2]]) {
    const stream = new Output(fd);
    Object.defineProperty(process, name, { configurable: true, enumerable: true, get: () => stream });
  }
}

module.exports = { install, writeAll, writeText };
