// Enforces the import directions of ARCHITECTURE.md. Exits 1 and names file, import and rule for each breach.
import { readdirSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

/** What the source of each package may import from the others. A file listed under `extra` may import more. */
const allowed = {
  wire: { from: [] },
  tidebase: { from: ['@tidebase/wire'] },
  sdk: { from: ['@tidebase/wire'] },
  // Its snippets are text that people copy.
  studio: { from: ['@tidebase/wire'], extra: { 'src/snippets.ts': ['@tidebase/sdk'] } },
  tidepool: { from: ['@tidebase/sdk', '@tidebase/wire'], extra: { 'src/dev/tidebase.ts': ['tidebase'] } },
  platform: { from: ['@tidebase/sdk', '@tidebase/wire', 'tidepool'], extra: { 'src/main.ts': ['tidebase'] } },
}
/** Packages that only some files may import, with the reason. */
const soleImporter = {
  pg: [
    ['packages/tidebase/src/db.ts', 'packages/platform/src/db.ts'],
    'one place of a package owns connections and maps database errors',
  ],
}
const ours = /^(@tidebase\/[\w-]+|tidebase|tidepool|@tidepool\/[\w-]+)(\/|$)/

const breaches = []
for (const [name, rule] of Object.entries(allowed)) {
  const dir = join(root, 'packages', name)
  let files = []
  try {
    files = readdirSync(dir, { withFileTypes: true, recursive: true })
  } catch {
    continue
  }
  for (const entry of files) {
    const file = join(entry.parentPath, entry.name)
    const inside = relative(dir, file)
    if (!entry.isFile() || !/\.tsx?$/.test(file) || !/^(src|cli)\//.test(inside)) continue
    const text = readFileSync(file, 'utf8')
    for (const [, path] of text.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)) {
      const at = relative(root, file)
      const sole = soleImporter[path]
      if (sole && !sole[0].includes(at))
        breaches.push(`${at} imports ${path}: only ${sole[0].join(', ')} may (${sole[1]})`)
      if (path.startsWith('.')) {
        if (relative(dir, join(file, '..', path)).startsWith('..'))
          breaches.push(`${at} reaches out of its package: ${path}`)
        continue
      }
      const target = ours.exec(path)?.[1]
      // An import of the package itself stands in texts: generated entries, examples.
      if (!target || target === name || [...rule.from, ...(rule.extra?.[inside] ?? [])].includes(target)) continue
      breaches.push(
        `${at} imports ${target}: packages/${name} may import ${rule.from.join(', ') || 'no other package'}`,
      )
    }
  }
}
for (const breach of breaches) console.error(breach)
process.exit(breaches.length ? 1 : 0)
