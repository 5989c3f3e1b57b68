// Start the runner of one context: `node start.js javascript` or `… typescript`.
// The contract is docs/runner-protocol.md.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const vm = require('node:vm');

// What users declare becomes global: `class Set {}`, `const process = …`. Our own modules keep what they were loaded
// with.
const isKept = ([name, { value }]) => /^[A-Z]/.test(name) && value instanceof Object;
const globals = Object.entries(Object.getOwnPropertyDescriptors(globalThis)).filter(isKept);
const NAMES = [...new Set(['process', 'Buffer', 'URL', ...globals.map(([name]) => name)])];
const VALUES = NAMES.map((name) => globalThis[name]);

const loaded = new Map();

/** As `require`, for a file of ours and what it requires. */
function load(file) {
  let module = loaded.get(file);
  if (module === undefined) {
    module = { exports: {} };
    loaded.set(file, module);
    const parameters = ['module', 'exports', 'require', '__dirname', ...NAMES];
    const run = vm.compileFunction(fs.readFileSync(file, 'utf8'), parameters, { filename: file });
    const requireFrom = (id) => {
      if (id.startsWith('node:')) return require(id);
      return load(require.resolve(id, { paths: [path.dirname(file)] }));
    };
    run(module, module.exports, requireFrom, path.dirname(file), ...VALUES);
  }
  return module.exports;
}

const { Runner } = load(path.join(__dirname, 'runner.js'));

const language = process.argv[2];
const channel = process.env.SANDLOT_CHANNEL_FD;
if (channel === undefined) {
  process.stderr.write('SANDLOT_CHANNEL_FD is not set: execd starts this program\n');
  process.exit(1);
}
new Runner(Number(channel), language).serve();
