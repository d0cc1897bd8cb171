import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

const source = (path: string) => fileURLToPath(new URL(path, import.meta.url))

export default defineConfig({
  resolve: {
    // Tests run the sources. Written out, because the global setup does not see custom export conditions.
    alias: [
      { find: '@tidebase/wire/contract', replacement: source('packages/wire/src/contract.ts') },
      { find: '@tidebase/wire', replacement: source('packages/wire/src/index.ts') },
      { find: 'tidepool/kit', replacement: source('packages/tidepool/src/kit.ts') },
      { find: /^tidebase$/, replacement: source('packages/tidebase/src/index.ts') },
      { find: '@tidebase/sdk', replacement: source('packages/sdk/src/index.ts') },
    ],
  },
  test: {
    include: ['packages/*/test/**/*.test.ts', 'test/**/*.test.ts', 'examples/*/*.test.ts'],
    globalSetup: ['test/postgres.ts'],
    // Two cores: more workers only make timings of real processes worse.
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // A busy machine may take its time over what is waited for.
    expect: { poll: { timeout: 10_000 } },
  },
})
