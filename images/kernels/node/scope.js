// What code finds in the global scope beside Node's own.
'use strict';

const Module = require('node:module');
const path = require('node:path');
const { pathToFileURL } = require('node:url');

const CELL = '[cell]'; // the name of the module that code believes to be

function define(name, value) {
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
}

/** A global that is computed until somebody declares the name. */
function defineComputed(name, get) {
  const set = (value) => define(name, value);
  Object.defineProperty(globalThis, name, { get, set, configurable: true, enumerable: false });
}

function cellPath() {
  return path.join(process.cwd(), CELL);
}

/** `require` that resolves from the working directory, wherever that is by now. */
function makeRequire(main) {
  let filename = '';
  let actual = null;
  const current = () => {
    if (filename !== cellPath()) {
      filename = cellPath();
      actual = Module.createRequire(filename);
    }
    return actual;
  };
  function require(id) {
    return current()(id);
  }
  require.resolve = (...args) => current().resolve(...args);
  require.resolve.paths = (...args) => current().resolve.paths(...args);
  require.cache = Module._cache;
  require.extensions = Module._extensions;
  require.main = main; // `if (require.main === module)` is true
  return require;
}

/** `import.meta`, as of a module in the working directory. */
const meta = {
  get url() {
    return pathToFileURL(cellPath()).href;
  },
  get filename() {
    return cellPath();
  },
  get dirname() {
    return process.cwd();
  },
  main: true,
  resolve: (specifier) => {
    if (/^\.{0,2}\//.test(specifier)) return new URL(specifier, pathToFileURL(cellPath())).href;
    const found = Module.createRequire(cellPath()).resolve(specifier);
    return path.isAbsolute(found) ? pathToFileURL(found).href : found;
  },
};

/** Become what a program started in the sandbox would be. Throws where the directory does not exist. */
function enter(cwd, environment) {
  for (const name of Object.keys(process.env)) {
    if (!Object.hasOwn(environment, name)) delete process.env[name];
  }
  Object.assign(process.env, environment);
  process.chdir(cwd);
  Module._initPaths(); // $NODE_PATH and $HOME
}

function install(additions) {
  process.argv.length = 1;
  process.execArgv.length = 0; // ours are of no use to the user's child processes
  const main = new Module('.');
  process.mainModule = main;
  define('module', main);
  define('exports', main.exports);
  define('require', makeRequire(main));
  defineComputed('__filename', cellPath);
  defineComputed('__dirname', () => process.cwd());
  for (const [name, value] of Object.entries(additions)) define(name, value);
}

/**
 * Let code declare names that are accessors: of Node's many globals some (`crypto`, `navigator`) have no setter, and
 * `var` would declare nothing.
 */
function makeDeclarable(names) {
  for (const name of names) {
    const property = Object.getOwnPropertyDescriptor(globalThis, name);
    if (property?.configurable && !('value' in property)) {
      Object.defineProperty(globalThis, name, {
        value: globalThis[name],
        writable: true,
        configurable: true,
        enumerable: property.enumerable,
      });
    }
  }
}

/** The helpers of code with `await`; see cell.js. */
function helpers(isInterrupted) {
  return {
    meta,
    /** After an `await`: stop here, if the run was interrupted meanwhile. */
    check(value) {
      if (isInterrupted()) throw new Error('the run was interrupted');
      return value;
    },
    exportsOf(module, source, names) {
      for (const name of names) {
        if (!(name in module)) {
          throw new SyntaxError(`The requested module '${source}' does not provide an export named '${name}'`);
        }
      }
      return module;
    },
  };
}

module.exports = { enter, install, makeDeclarable, helpers };
