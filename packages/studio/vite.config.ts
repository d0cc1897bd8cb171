import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vite'

// Files for the server's package; packages/tidebase/src/studio.ts serves them. No inline script, no data: fonts.
export default defineConfig({
  root: fileURLToPath(new URL('.', import.meta.url)),
  base: '/ui/',
  logLevel: 'warn',
  resolve: { conditions: ['source', 'browser', 'module', 'import', 'default'] },
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    outDir: '../tidebase/dist/studio',
    target: 'es2022',
    // scripts/build.mjs writes the files, each at once.
    write: false,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: { output: { assetFileNames: 'assets/[name]-[hash][extname]' } },
  },
})
