// Say why npm and npx fail in a sandbox without a network: their programs require this first.
'use strict';

const MESSAGE = "sandlot: this sandbox has no network, so nothing can be fetched; the server's setting allow_network gives one";
const FETCHING = new Set(['add', 'audit', 'ci', 'create', 'exec', 'i', 'init', 'install', 'outdated', 'update', 'view', 'x']);

const isNpx = process.argv[1]?.split('/').pop().startsWith('npx');
if (process.env.SANDLOT_NETWORK === 'none' && (isNpx || process.argv.slice(2).some((word) => FETCHING.has(word)))) {
  process.on('exit', (code) => {
    if (code) process.stderr.write(MESSAGE + '\n');
  });
}
