#!/usr/bin/env node
// In a checkout the bundle is made on first use; an installed package ships it.
import { existsSync } from 'node:fs'

const build = new URL('../../../scripts/build.mjs', import.meta.url)
if (existsSync(build)) {
  const { buildIfStale } = await import(build.href)
  // The dev server starts Tidebase for pods with workflows; an ejected runtime imports its SDK.
  for (const name of ['tidebase', 'sdk']) await buildIfStale(name)
  await buildIfStale('tidepool')
}
const { main } = await import('../dist/main.js')
await main(process.argv.slice(2))
