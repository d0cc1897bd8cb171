// Writes the files that are generated: from the contract, the migrations and the types. With --check it writes nothing and fails when one is stale.
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { errorCodes, openApiDocument, routes } from '@tidebase/wire'
import { reference } from './reference.ts'
import { schemaSql } from './schema.ts'

const root = new URL('..', import.meta.url)
const files: Record<string, () => string | Promise<string>> = {
  'packages/wire/openapi.json': () => `${JSON.stringify(openApiDocument(routes), null, 2)}\n`,
  'docs/errors.md': errorsPage,
  'packages/tidebase/schema.sql': schemaSql,
  'packages/tidepool/reference.json': reference,
}

function errorsPage(): string {
  const rows = Object.entries(errorCodes).map(
    ([code, { status, meaning, hint }]) => `| \`${code}\` | ${status} | ${meaning} | ${hint.replaceAll('|', '\\|')} |`,
  )
  return [
    '# Errors',
    '',
    'Every answer that is not 2xx is `{"error": "one sentence", "code": "…", "hint": "what to do next"}`, with `issues`',
    '(`path`, `message`) where a request was malformed. Made from `packages/wire/src/errors.ts` by `npm run gen`.',
    '',
    '| code | status | meaning | what to do |',
    '|---|---|---|---|',
    ...rows,
    '',
  ].join('\n')
}

const check = process.argv.includes('--check')
const stale: string[] = []
for (const [path, make] of Object.entries(files)) {
  const file = fileURLToPath(new URL(path, root))
  const text = await make()
  let current = ''
  try {
    current = readFileSync(file, 'utf8')
  } catch {
    // Not there yet: stale.
  }
  if (current === text) continue
  if (!check) writeFileSync(file, text)
  stale.push(path)
}
for (const path of stale) console.log(check ? `${path} is stale: run npm run gen and commit it` : `wrote ${path}`)
process.exit(check && stale.length ? 1 : 0)
