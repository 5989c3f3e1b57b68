// setImmediate() for user code, in a way that survives an interrupt.
//
// Node executes the immediates of a turn from a list. When one of them is terminated that is not the first, Node is left
// with a list whose head is done, fails on it, and tries it again for ever. Between two immediates it empties the queue
// of nextTick(), which a termination leaves in order. So that is where the callbacks are executed.
'use strict';

const { syncBuiltinESMExports } = require('node:module');
const timers = require('node:timers');

const { setImmediate } = timers;
const { nextTick } = process;
const { apply } = Reflect;

function setInterruptibleImmediate(callback, ...values) {
  if (typeof callback !== 'function') return setImmediate(callback); // which says what is wrong with it
  const immediate = setImmediate(() => nextTick(() => apply(callback, immediate, values)));
  return immediate;
}

/** Put it in place of Node's, wherever code may take that from. */
function install() {
  // Its promisified form is among them.
  Object.defineProperties(setInterruptibleImmediate, Object.getOwnPropertyDescriptors(setImmediate));
  for (const holder of [globalThis, timers]) {
    const property = Object.getOwnPropertyDescriptor(holder, 'setImmediate');
    const { enumerable } = property;
    Object.defineProperty(holder, 'setImmediate', {
      configurable: true,
      enumerable,
      writable: true,
      value: setInterruptibleImmediate,
    });
  }
  syncBuiltinESMExports();
}

module.exports = { install };
