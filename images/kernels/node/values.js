// Values as MIME bundles.
'use strict';

const util = require('node:util');

// User code may replace them.
const { inspect } = util;
const { stringify } = JSON;
const { entries, fromEntries } = Object;

const MIME_TYPE = /^[a-z]+\/[\w.+-]+$/i;
// A method that returns a bundle, as JavaScript kernels for Jupyter have it.
const DISPLAY = Symbol.for('Jupyter.display');
const MAX_JSON_NODES = 10_000;
const MAX_MIME_TYPES = 1000; // execd takes no more: docs/runner-protocol.md

function isPlain(value) {
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** Whether JSON says all of a value: nothing but plain objects, arrays, texts, numbers, booleans and null. */
function isJson(value) {
  let left = MAX_JSON_NODES;
  const check = (one, above) => {
    if (left-- <= 0) return false;
    switch (typeof one) {
      case 'string':
      case 'boolean':
        return true;
      case 'number':
        return Number.isFinite(one);
      case 'object': {
        if (one === null) return true;
        if (util.types.isProxy(one) || above.includes(one) || !(Array.isArray(one) || isPlain(one))) return false;
        const properties = Object.entries(Object.getOwnPropertyDescriptors(one));
        const path = [...above, one];
        return (
          Object.getOwnPropertySymbols(one).length === 0 &&
          properties.every(
            ([name, { value: inner, enumerable }]) =>
              (name === 'length' && Array.isArray(one)) || (enumerable && name !== 'toJSON' && check(inner, path)),
          )
        );
      }
      default:
        return false;
    }
  };
  return check(value, []);
}

function asText(value) {
  if (typeof value === 'string') return value;
  if (ArrayBuffer.isView(value)) value = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  if (value instanceof ArrayBuffer) value = Buffer.from(value);
  if (Buffer.isBuffer(value)) return value.toString('base64');
  return String(stringify(value) ?? value);
}

function toTexts(bundle) {
  if (bundle === null || typeof bundle !== 'object') {
    throw new TypeError(`a MIME bundle is an object, not ${inspect(bundle)}`);
  }
  const contents = entries(bundle);
  if (contents.length > MAX_MIME_TYPES) {
    throw new RangeError(`${contents.length} MIME types in one display: at most ${MAX_MIME_TYPES} are possible`);
  }
  return fromEntries(contents.map(([mime, value]) => [mime, asText(value)]));
}

const texts = async (bundle) => toTexts(await bundle);

/** All forms of a value that we know: MIME type → text. A promise of it, if the value's own method is asynchronous. */
function toBundle(value) {
  if (value !== null && (typeof value === 'object' || typeof value === 'function')) {
    if (!util.types.isProxy(value) && typeof value[DISPLAY] === 'function') {
      const bundle = value[DISPLAY]();
      return typeof bundle?.then === 'function' ? texts(bundle) : toTexts(bundle);
    }
    if (typeof value === 'object' && isJson(value)) {
      return { 'text/plain': inspect(value), 'application/json': stringify(value) };
    }
  }
  return { 'text/plain': inspect(value) };
}

/** The same for display(), which takes a bundle as well: an object all of whose keys are MIME types. */
function toShown(value) {
  const isBundle =
    value !== null &&
    typeof value === 'object' &&
    !util.types.isProxy(value) &&
    isPlain(value) &&
    Object.keys(value).length > 0 &&
    Object.keys(value).every((key) => MIME_TYPE.test(key));
  return isBundle ? toTexts(value) : toBundle(value);
}

module.exports = { toBundle, toShown };
