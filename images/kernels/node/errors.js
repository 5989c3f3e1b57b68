// Errors as users should see them: without our own frames, and with the line numbers of what they wrote.
'use strict';

const util = require('node:util');

const MAX_CHARACTERS = 1024 * 1024;
const OURS = [`${__dirname}/`, 'node:vm:', 'node:internal/'];

/** Leave out the frames of this runner, of what called it, and of Node's inside. */
function trim(text) {
  const isFrame = (line) => /^\s+at /.test(line);
  const isOurs = (line) => OURS.some((place) => line.includes(place));
  const lines = text.split('\n');
  const kept = [];
  for (let i = 0; i < lines.length; ) {
    let end = i;
    while (end < lines.length && isFrame(lines[end])) end += 1;
    const frames = lines.slice(i, end);
    const last = frames.findLastIndex((line) => line.includes('<cell ')); // below it is what called us
    const isCalledByUs = last >= 0 && frames.slice(last).some(isOurs);
    kept.push(...(isCalledByUs ? frames.slice(0, last + 1) : frames).filter((line) => !isOurs(line)));
    if (end < lines.length) kept.push(lines[end]);
    i = end + 1;
  }
  return kept.join('\n');
}

/** As Node shows it; but what has a stack without frames, Node would put into brackets. */
function show(error) {
  const { stack } = error;
  return typeof stack === 'string' && /\n/.test(stack) && !/^\s+at /m.test(stack) ? stack : util.inspect(error);
}

function attempt(read, otherwise) {
  try {
    const text = String(read());
    return text.length > MAX_CHARACTERS ? `${text.slice(0, MAX_CHARACTERS)}…` : text;
  } catch {
    return otherwise;
  }
}

/** What code has thrown, as `{name, value, traceback}`. `locate` puts a text's line numbers right. */
function describe(error, locate) {
  const isError = util.types.isNativeError(error) || error instanceof Error;
  if (!isError) {
    const value = attempt(() => util.inspect(error), '(a value that cannot be shown)');
    return { name: 'Uncaught', value, traceback: [`Uncaught ${value}`] };
  }
  const name = attempt(() => error.name || error.constructor.name, 'Error');
  const value = attempt(() => error.message, '');
  const full = attempt(() => locate(trim(show(error))), `${name}: ${value}`);
  return { name, value, traceback: full.split('\n') };
}

module.exports = { describe };
