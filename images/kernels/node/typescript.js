// TypeScript to JavaScript: types are blanked out, so that lines and columns stay; what is more than types (enum,
// namespace, parameter properties) is transformed, with a source map.
'use strict';

const childProcess = require('node:child_process');
const nodeModule = require('node:module');

/** Do something that makes Node warn of an experimental feature, without the warning: users did not choose it. */
function quietly(action) {
  const { emitWarning } = process;
  process.emitWarning = () => {};
  try {
    return action();
  } finally {
    process.emitWarning = emitWarning;
  }
}

const REFUSALS = ['ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX', 'ERR_INVALID_TYPESCRIPT_SYNTAX', 'ERR_INVALID_ARG_VALUE'];
const TOO_DEEP = 'this code is nested too deeply for the TypeScript compiler';
const IN_CHILD = `
  const { code, options } = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
  const answer = {};
  try {
    answer.text = require('node:module').stripTypeScriptTypes(code, options);
  } catch ({ code, message, stack }) {
    answer.error = { code, message, stack };
  }
  process.stdout.write(JSON.stringify(answer));
`;
let hasCrashed = false;

/** Node's compiler is WebAssembly: code that is nested thousands deep crashes it for good. Then children do it. */
function strip(code, options) {
  if (!hasCrashed) {
    try {
      return quietly(() => nodeModule.stripTypeScriptTypes(code, options));
    } catch (error) {
      if (REFUSALS.includes(error.code)) throw error;
      hasCrashed = true;
      throw new SyntaxError(TOO_DEEP);
    }
  }
  const child = childProcess.spawnSync(process.execPath, ['--no-warnings', '-e', IN_CHILD], {
    input: JSON.stringify({ code, options }),
    env: {},
    maxBuffer: Infinity,
  });
  const answer = JSON.parse(child.stdout.toString() || '{}');
  if (answer.text !== undefined) return answer.text;
  if (REFUSALS.includes(answer.error?.code)) throw Object.assign(new SyntaxError(answer.error.message), answer.error);
  throw new SyntaxError(TOO_DEEP);
}

function transform(code) {
  const text = strip(code, { mode: 'transform', sourceMap: true });
  const [, encoded] = /\n\/\/# sourceMappingURL=data:application\/json;base64,(\S+)\s*$/.exec(text) ?? [];
  const map = encoded && new nodeModule.SourceMap(JSON.parse(Buffer.from(encoded, 'base64').toString()));
  return { code: text.replace(/\n\/\/# sourceMappingURL=\S+\s*$/, ''), map };
}

/** The error as V8 says it: swc's names no file, and adds a code. */
function syntaxError(error, filename) {
  const excerpt = /^:(\d+\n[\s\S]*?\n\n)/.exec(error.stack)?.[1];
  const result = new SyntaxError(error.message);
  result.stack = `${excerpt ? `${filename}:${excerpt}` : ''}SyntaxError: ${error.message}`;
  return result;
}

/** Compile: `{code}`, and `{map}` if lines have moved. Throws SyntaxError. */
function toJavaScript(code, filename) {
  try {
    return { code: strip(code, { mode: 'strip' }) };
  } catch (error) {
    if (error.code !== 'ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX') throw syntaxError(error, filename);
    try {
      return transform(code);
    } catch (failure) {
      // Versions of Node without the mode `transform`: what strip said is more to the point.
      throw syntaxError(failure.code === 'ERR_INVALID_ARG_VALUE' ? error : failure, filename);
    }
  }
}

module.exports = { quietly, toJavaScript };
