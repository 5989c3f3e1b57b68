// Our end of the channel: one JSON object a line, both ways.
//
// A thread reads it (reader.js), because this one is busy whenever user code is. Only this one writes.
'use strict';

const path = require('node:path');
const { Worker } = require('node:worker_threads');
const { writeAll } = require('./streams.js');

const MAX_LINE_BYTES = 16 * 1024 * 1024 - 64 * 1024; // execd takes no longer ones
const ACKNOWLEDGED = 0; // what the shared words hold: the last number that execd has acknowledged,
const HEARD = 1; // and the last run of which we know that it is to be interrupted

class Channel {
  constructor(fd, onMessage) {
    this._fd = fd;
    this._sent = 0; // messages that ask for an ack
    this._shared = new Int32Array(new SharedArrayBuffer(8));
    const reader = new Worker(path.join(__dirname, 'reader.js'), {
      workerData: { fd, shared: this._shared },
      execArgv: [],
      resourceLimits: { maxYoungGenerationSizeMb: 2 },
    });
    reader.on('message', onMessage);
    reader.on('error', (error) => {
      process.stderr.write(`the channel to execd broke: ${error.stack}\n`);
      process.exit(1);
    });
  }

  /** Send a message. Throws RangeError, and sends nothing, when it is too long. */
  send(message) {
    // Lone surrogates have no UTF-8, and execd takes no others.
    const wellFormed = (_key, value) => (typeof value === 'string' ? value.toWellFormed() : value);
    const line = Buffer.from(`${JSON.stringify(message, wellFormed)}\n`);
    if (line.length > MAX_LINE_BYTES) {
      throw new RangeError(`${line.length} bytes are too many to be shown: at most ${MAX_LINE_BYTES}`);
    }
    writeAll(this._fd, line);
  }

  /** Send a message for whose `ack` somebody will wait; return the number. Only during a run. */
  sendForAck(message) {
    const number = this._sent + 1;
    this.send({ ...message, ack: number });
    this._sent = number;
    return number;
  }

  /** Wait until execd has taken all that was printed before the message with this number. */
  waitForAck(number) {
    for (let now; (now = Atomics.load(this._shared, ACKNOWLEDGED)) < number; ) {
      Atomics.wait(this._shared, ACKNOWLEDGED, now);
    }
  }

  /** Tell the thread that the interrupt of this run has arrived here. */
  hear(id) {
    Atomics.store(this._shared, HEARD, id);
  }
}

module.exports = { Channel, ACKNOWLEDGED, HEARD };
