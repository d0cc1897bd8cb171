// Migrations: numbered SQL files, applied in order under an advisory lock, each in a transaction, never edited after
// release.
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Database } from './db.ts'

const folder = fileURLToPath(new URL('../migrations', import.meta.url))
/** Any number that nobody else in the database uses as an advisory lock. */
const lockKey = 8_080_001

/**
 * Applies what is pending. Several may do so at once: one works, the others wait.
 * @throws Error when an applied migration was edited, or the database is from a newer release
 */
export async function migrate(db: Database): Promise<void> {
  const names = (await readdir(folder)).filter((name) => /^\d{4}_\w+\.sql$/.test(name)).sort()
  await db.transaction(async (tx) => {
    await tx.query('set local statement_timeout = 0')
    await tx.query('select pg_advisory_xact_lock($1)', [lockKey])
    await tx.query('create schema if not exists platform')
    await tx.query('create table if not exists platform.migrations (name text primary key, checksum text not null)')
    const rows = await tx.query<{ name: string; checksum: string }>('select name, checksum from platform.migrations')
    const applied = new Map(rows.map(({ name, checksum }) => [name, checksum]))
    for (const name of applied.keys())
      if (!names.includes(name))
        throw new Error(`The database is from a newer Tidepool: it has the migration ${name}. Upgrade this one.`)
    for (const name of names) {
      const text = await readFile(join(folder, name), 'utf8')
      const checksum = createHash('sha256').update(text).digest('hex')
      const known = applied.get(name)
      if (known === checksum) continue
      if (known)
        throw new Error(`The migration ${name} was changed after it had been applied. Restore the released file.`)
      await tx.query(text)
      await tx.query('insert into platform.migrations (name, checksum) values ($1, $2)', [name, checksum])
    }
  })
}
