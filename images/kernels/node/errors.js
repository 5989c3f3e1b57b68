// Errors as users should see them: without our own frames, and with the line numbers of what they wrote.
'use strict';

const util = require('node:util');

const MAX_CHARACTERS = 1024 * 1024;
const MAX_LINES = 10_000; // of a traceback
const OURS = [`${__dirname}/`, 'node:vm:', 'node:internal/'];

/** Have stacks end where the user's code does, and name places in it. */
function install(places) {
  const format = Error.prepareStackTrace; // Node's own
  Error.prepareStackTrace = (error, frames) => {
    const files = frames.map((frame) => frame.getFileName() ?? '');
    const last = files.findLastIndex((file) => file.startsWith('<cell ')); // below it is what called us
    const isOurs = (file) => OURS.some((ours) => file.startsWith(ours));
    const end = last >= 0 && files.slice(last).some(isOurs) ? last + 1 : frames.length;
    const kept = frames.filter((_, i) => i < end && !isOurs(files[i]));
    return places.inStack(format(error, kept));
  };
}

/** As Node shows it; but what has a stack without frames, Node would put into brackets. */
function show(error) {
  const { stack } = error;
  return typeof stack === 'string' && stack !== '' && !/^[ \t]+at /m.test(stack) ? stack : util.inspect(error);
}

function attempt(read, otherwise) {
  try {
    const text = String(read());
    return text.length > MAX_CHARACTERS ? `${text.slice(0, MAX_CHARACTERS)}…` : text;
  } catch {
    return otherwise;
  }
}

/** What code has thrown, as `{name, value, traceback}`. */
function describe(error, places) {
  try {
    return describeUnsafe(error, places);
  } catch {
    const value = '(a value that cannot be shown)'; // a proxy, say, that throws whatever it is asked
    return { name: 'Uncaught', value, traceback: [`Uncaught ${value}`] };
  }
}

function describeUnsafe(error, places) {
  const isError = util.types.isNativeError(error) || error instanceof Error;
  if (!isError) {
    const value = attempt(() => util.inspect(error), '(a value that cannot be shown)');
    return { name: 'Uncaught', value, traceback: [`Uncaught ${value}`] };
  }
  const name = attempt(() => error.name || error.constructor.name, 'Error');
  const value = attempt(() => error.message, '');
  const full = attempt(() => places.inExcerpt(show(error)), `${name}: ${value}`);
  return { name, value, traceback: linesOf(full) };
}

/** The lines of a text; without those in the middle when there are too many. */
function linesOf(text) {
  const lines = text.split('\n');
  const half = MAX_LINES / 2;
  if (lines.length <= MAX_LINES) return lines;
  return [...lines.slice(0, half), `(${lines.length - MAX_LINES} more)`, ...lines.slice(-half)];
}

module.exports = { describe, install };
