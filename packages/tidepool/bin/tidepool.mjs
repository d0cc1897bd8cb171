#!/usr/bin/env node
// In a checkout the bundle is made on first use; an installed package ships it.
import { existsSync } from 'node:fs'

const build = new URL('../../../scripts/build.mjs', import.meta.url)
if (existsSync(build)) await (await import(build.href)).buildIfStale('tidepool')
const { main } = await import('../dist/main.js')
await main(process.argv.slice(2))
