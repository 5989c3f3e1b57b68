// Completion and inspection. Nothing of the user's is executed: getters are not called, and proxies are left alone.
'use strict';

const util = require('node:util');

const MAX_MATCHES = 1000;
const MAX_SOURCE = 64 * 1024; // characters of a function that are shown
const NAME = '[\\p{ID_Start}$_][\\p{ID_Continue}$\\u200c\\u200d]*';
const BEFORE_CURSOR = new RegExp(`((?:${NAME}\\s*\\??\\.\\s*)*)((?:${NAME})?)$`, 'u');
const PATH = new RegExp(`${NAME}(?:\\s*\\??\\.\\s*${NAME})*`, 'gu');
const KEYWORDS =
  'async await break case catch class const continue debugger default delete do else export extends false finally ' +
  'for function if import in instanceof let new null return static super switch this throw true try typeof undefined var ' +
  'void while with yield';
const NOTHING = Symbol('nothing');

const isNative = (get) => /\{\s*\[native code\]\s*\}$|^get [\w$]+\(\)/.test(Function.prototype.toString.call(get));

/** The property of a value; NOTHING if there is none, or if only the user's code could tell. */
function read(value, name) {
  for (let holder = Object(value); holder !== null; holder = Object.getPrototypeOf(holder)) {
    if (util.types.isProxy(holder)) return NOTHING;
    const property = Object.getOwnPropertyDescriptor(holder, name);
    if (property === undefined) continue;
    if ('value' in property) return property.value;
    // Node's own lazy globals are all right to be asked.
    return holder === globalThis && property.get && isNative(property.get) ? globalThis[name] : NOTHING;
  }
  return NOTHING;
}

function resolve(names) {
  let value = globalThis;
  for (const name of names) {
    if (value === null || value === undefined) return NOTHING;
    value = name === 'globalThis' && value === globalThis ? globalThis : read(value, name);
    if (value === NOTHING) return NOTHING;
  }
  return value;
}

const split = (path) =>
  path
    .split('.')
    .map((name) => name.trim().replace(/\s*\?$/, ''))
    .filter(Boolean);

/** All property names that can be written after a dot; own ones first. */
function namesOf(value, prefix) {
  const names = new Set();
  for (let holder = Object(value); holder !== null; holder = Object.getPrototypeOf(holder)) {
    if (util.types.isProxy(holder)) break;
    const found = Object.getOwnPropertyNames(holder).filter(
      (name) => name.startsWith(prefix) && !name.startsWith('__sandlot') && new RegExp(`^${NAME}$`, 'u').test(name),
    );
    for (const name of found.sort()) names.add(name);
  }
  return names;
}

const length = (text) => [...text].length; // execd counts characters, not UTF-16 units

function complete(code, cursor) {
  const before = [...code].slice(0, cursor).join('');
  const [, path, partial] = BEFORE_CURSOR.exec(before);
  const start = length(before) - length(partial);
  const end = length(before);
  const found = new Set();
  const ahead = before.slice(0, before.length - path.length - partial.length);
  if (path) {
    const value = resolve(split(path));
    if (value !== NOTHING && value !== null && value !== undefined) {
      for (const name of namesOf(value, partial)) found.add(name);
    }
  } else if (/\.\s*$/.test(ahead)) {
    if (/["'`]\s*\??\.\s*$/.test(ahead)) for (const name of namesOf('', partial)) found.add(name);
  } else if (partial || /(^|[\s(,;=[{!&|?:+\-*/<>])$/.test(before)) {
    for (const name of namesOf(globalThis, partial)) found.add(name);
    for (const name of KEYWORDS.split(' ')) if (name.startsWith(partial)) found.add(name);
  }
  return { matches: [...found].slice(0, MAX_MATCHES), start, end };
}

function signature(value) {
  const source = Function.prototype.toString.call(value);
  const head = /^(class [^{]*|[^{]*?\)\s*(?==>|\{)|[\w$]+\s*(?==>))/s.exec(source)?.[0] ?? `function ${value.name}`;
  return head.trim().replace(/\s+/g, ' ');
}

function inspect(code, cursor, detail) {
  const before = [...code].slice(0, cursor).join('');
  for (const { 0: path, index } of code.matchAll(PATH)) {
    if (index > before.length || before.length > index + path.length) continue;
    const rest = path.slice(before.length - index); // up to the end of the name at the cursor
    const upTo = path.slice(0, path.length - rest.length + (/^[^.?\s]*/.exec(rest)?.[0].length ?? 0));
    const value = resolve(split(upTo));
    if (value === NOTHING) continue;
    let text = util.inspect(value, { customInspect: false, getters: false });
    if (typeof value === 'function') {
      const source = Function.prototype.toString.call(value);
      text = `${text}\n${signature(value)}`;
      if (detail) text += `\n\n${source.slice(0, MAX_SOURCE)}`;
    }
    return { 'text/plain': text };
  }
  return {};
}

module.exports = { complete, inspect };
