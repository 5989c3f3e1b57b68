// Start the runner of one context: `node start.js javascript` or `… typescript`.
// The contract is docs/runner-protocol.md.
'use strict';

const { Runner } = require('./runner.js');

const language = process.argv[2];
const channel = process.env.SANDLOT_CHANNEL_FD;
if (channel === undefined) {
  process.stderr.write('SANDLOT_CHANNEL_FD is not set: execd starts this program\n');
  process.exit(1);
}
new Runner(Number(channel), language).serve();
