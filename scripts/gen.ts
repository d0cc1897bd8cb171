// Writes the files that are generated from the contract. With --check it writes nothing and fails when one is stale.
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { openApiDocument, routes } from '@tidebase/wire'

const root = new URL('..', import.meta.url)
const files: Record<string, () => string> = {
  'packages/wire/openapi.json': () => `${JSON.stringify(openApiDocument(routes), null, 2)}\n`,
}

const check = process.argv.includes('--check')
const stale = Object.entries(files).filter(([path, make]) => {
  const file = fileURLToPath(new URL(path, root))
  const text = make()
  let current = ''
  try {
    current = readFileSync(file, 'utf8')
  } catch {
    // Not there yet: stale.
  }
  if (current === text) return false
  if (!check) writeFileSync(file, text)
  return true
})
for (const [path] of stale) console.log(check ? `${path} is stale: run npm run gen and commit it` : `wrote ${path}`)
process.exit(check && stale.length ? 1 : 0)
