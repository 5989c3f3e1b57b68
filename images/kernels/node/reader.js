// The thread that reads the channel, passes messages on to the main thread, and interrupts that one when it is busy.
'use strict';

const inspector = require('node:inspector');
const net = require('node:net');
const { StringDecoder } = require('node:string_decoder');
const { parentPort, workerData } = require('node:worker_threads');
const { ACKNOWLEDGED, HEARD, TAKEN } = { ACKNOWLEDGED: 0, HEARD: 1, TAKEN: 2 }; // as in channel.js, which need not load

const { fd, shared } = workerData;

// An idle main thread hears a message well within this time; one that does not is busy, and is struck.
const STRIKE_MS = 20;
const SIGNAL_EVERY = 25; // strikes

function leave() {
  process.kill(process.pid, 'SIGKILL'); // the main thread may be anywhere
}

function signalGroup() {
  try {
    process.kill(-process.pid, 'SIGINT');
  } catch {
    // we lead no group: somebody started us by hand
  }
}

/** Tell the main thread, which gives the run up. While it does not listen, terminate whatever it executes. */
function interrupt(id) {
  let session = null;
  let strikes = 0;
  const strike = () => {
    if (Atomics.load(shared, HEARD) >= id) {
      session?.disconnect();
      return;
    }
    // Again each time: what we terminate may be the very code that was about to take the message.
    post({ op: 'interrupt', id });
    if (strikes > 0) {
      if (session === null) {
        session = new inspector.Session();
        session.connectToMainThread();
      }
      // A program that it waits for in execSync() may have been started after execd's signal.
      if (strikes % SIGNAL_EVERY === 1) signalGroup();
      // V8 runs this in the middle of the main thread's code.
      session.post('Runtime.evaluate', { expression: `__sandlot_strike(${id})` }, () => {});
    }
    strikes += 1;
    setTimeout(strike, STRIKE_MS);
  };
  strike();
}

let posted = 0; // messages to the main thread
let hasInterrupted = false; // some run: what that has left may keep the main thread from its messages

function post(message) {
  posted += 1;
  parentPort.postMessage(message);
}

/** Terminate what an interrupted run has left, until the main thread takes the message that was posted last. */
function strikeLeftovers() {
  const number = posted;
  let session = null;
  const strike = () => {
    if (Atomics.load(shared, TAKEN) >= number) {
      session?.disconnect();
      return;
    }
    if (session === null) {
      session = new inspector.Session();
      session.connectToMainThread();
    }
    session.post('Runtime.evaluate', { expression: '__sandlot_strike()' }, () => {});
    setTimeout(strike, STRIKE_MS);
  };
  setTimeout(strike, STRIKE_MS);
}

function take(line) {
  const message = JSON.parse(line);
  if (message.op === 'ack') {
    Atomics.store(shared, ACKNOWLEDGED, message.ack);
    Atomics.notify(shared, ACKNOWLEDGED);
  } else if (message.op === 'interrupt') {
    hasInterrupted = true;
    interrupt(message.id);
  } else {
    post(message);
    if (hasInterrupted) strikeLeftovers();
  }
}

const decoder = new StringDecoder('utf8');
let pieces = []; // of a line whose end has not come

const channel = new net.Socket({ fd, readable: true, writable: false });
channel.on('data', (data) => {
  const lines = decoder.write(data).split('\n');
  const rest = lines.pop();
  if (lines.length > 0) {
    lines[0] = pieces.join('') + lines[0];
    pieces = [];
  }
  if (rest) pieces.push(rest);
  for (const line of lines) take(line);
});
channel.on('end', leave);
channel.on('error', leave);
