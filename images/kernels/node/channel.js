// Our end of the channel: one JSON object a line, both ways.
//
// A thread reads it (reader.js), because this one is busy whenever user code is. Only this one writes.
'use strict';

const path = require('node:path');
const { Worker } = require('node:worker_threads');
const { writeAll } = require('./streams.js');

const MAX_LINE_BYTES = 16 * 1024 * 1024 - 64 * 1024; // execd takes no longer ones
const ACKNOWLEDGED = 0; // what the shared words hold: the last number that execd has acknowledged,
const HEARD = 1; // the last run of which we know that it is to be interrupted,
const TAKEN = 2; // and how many messages we have taken from the thread

// What user code has given to all objects, such as `Object.prototype.toJSON`, must not change what we say.
const { stringify } = JSON;
const { keys } = Object;
const { isArray } = Array;
const toBuffer = Buffer.from;
const toWellFormed = Function.prototype.call.bind(String.prototype.toWellFormed);

/** Encode a message: strings, finite numbers, booleans, null, and arrays and objects of these. */
function encode(value) {
  switch (typeof value) {
    case 'string':
      return stringify(toWellFormed(value)); // lone surrogates have no UTF-8, and execd takes no others
    case 'number':
    case 'boolean':
      return stringify(value);
    default:
  }
  if (value === null) return 'null';
  let text = '';
  if (isArray(value)) {
    for (let i = 0; i < value.length; i += 1) text += `${text && ','}${encode(value[i])}`;
    return `[${text}]`;
  }
  const names = keys(value);
  for (let i = 0; i < names.length; i += 1) text += `${text && ','}${encode(names[i])}:${encode(value[names[i]])}`;
  return `{${text}}`;
}

class Channel {
  constructor(fd, onMessage) {
    this._fd = fd;
    this._sent = 0; // messages that ask for an ack
    this._shared = new Int32Array(new SharedArrayBuffer(12));
    const reader = new Worker(path.join(__dirname, 'reader.js'), {
      workerData: { fd, shared: this._shared },
      execArgv: [],
      resourceLimits: { maxYoungGenerationSizeMb: 2 },
    });
    this._reader = reader;
    reader.on('message', onMessage);
    reader.on('error', (error) => {
      process.stderr.write(`the channel to execd broke: ${error.stack}\n`);
      process.exit(1);
    });
  }

  /** Send a message. Throws RangeError, and sends nothing, when it is too long. */
  send(message) {
    const line = toBuffer(`${encode(message)}\n`);
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

  /** Whether a worker is our own thread. */
  isReader(worker) {
    return worker === this._reader;
  }

  /** Keep the process alive, as a channel does ... */
  ref() {
    this._reader.ref();
  }

  /** ... or do not, while only what the run itself has begun counts. */
  unref() {
    this._reader.unref();
  }

  /** Tell the thread that a message has arrived here. */
  countTaken() {
    Atomics.add(this._shared, TAKEN, 1);
  }

  /** Tell the thread that the interrupt of this run has arrived here. */
  hear(id) {
    Atomics.store(this._shared, HEARD, id);
  }
}

module.exports = { Channel };
