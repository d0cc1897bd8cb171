#!/usr/bin/env node
// In a checkout the bundles are made on first use; an installed package ships them.
import { existsSync } from 'node:fs'

const build = new URL('../../../scripts/build.mjs', import.meta.url)
if (existsSync(build)) {
  const { buildIfStale } = await import(build.href)
  // Pods run on the runtime's bundle.
  for (const name of ['tidebase', 'sdk', 'tidepool', 'platform']) await buildIfStale(name)
}
const { main } = await import('../dist/bin.js')
await main(process.argv.slice(2))
