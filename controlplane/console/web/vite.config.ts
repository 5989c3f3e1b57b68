import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig, type Plugin } from 'vitest/config';

/** The address of a running server, for `npm run dev`. */
const server = process.env['SANDLOT_URL'] ?? 'http://localhost:8194';

/** Write a `.gz` beside every file that is worth it: the server sends these as they are. */
function compressed(): Plugin {
  let folder = '';
  return {
    name: 'compressed',
    apply: 'build',
    configResolved: (config) => {
      folder = config.build.outDir;
    },
    closeBundle: () => {
      for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
        const path = join(entry.parentPath, entry.name);
        if (entry.isFile() && /\.(js|css|svg|html|txt|json|yaml)$/.test(entry.name)) {
          const whole = readFileSync(path);
          const small = gzipSync(whole, { level: 9 });
          if (small.length < whole.length) writeFileSync(`${path}.gz`, small);
        }
      }
    },
  };
}

export default defineConfig({
  base: '/console/',
  plugins: [svelte(), compressed()],
  build: {
    outDir: process.env['SANDLOT_CONSOLE_DIST'] ?? '../dist',
    emptyOutDir: true,
    target: 'es2023',
    // A file becomes part of the code as a `data:` address below this size. The policy of the pages has no place for it.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    license: { fileName: 'licenses.txt' },
  },
  server: {
    proxy: {
      '/v1': { target: server, changeOrigin: true, ws: true, rewriteWsOrigin: true, headers: { Origin: server } },
    },
  },
  test: { include: ['src/**/*.test.ts'] },
});
