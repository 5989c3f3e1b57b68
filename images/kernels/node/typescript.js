// TypeScript to JavaScript: types are blanked out, so that lines and columns stay; what is more than types (enum,
// namespace, parameter properties) is transformed, with a source map.
'use strict';

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

function transform(code) {
  const text = quietly(() => nodeModule.stripTypeScriptTypes(code, { mode: 'transform', sourceMap: true }));
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
    return { code: quietly(() => nodeModule.stripTypeScriptTypes(code)) };
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
