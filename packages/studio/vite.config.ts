import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vite'

// Files for the server's package; packages/tidebase/src/studio.ts serves them. No inline script, no data: fonts.
export default defineConfig({
  root: fileURLToPath(new URL('.', import.meta.url)),
  base: '/ui/',
  logLevel: 'warn',
  resolve: { conditions: ['source', 'browser', 'module', 'import', 'default'] },
  // The same files whoever builds them: under NODE_ENV=test vite would write each element's source path into them.
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact', development: false } },
  define: { 'process.env.NODE_ENV': '"production"' },
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
