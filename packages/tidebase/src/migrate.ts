// Migrations: numbered SQL files, applied in order under an advisory lock, each in its own transaction, never edited
// after release (a checksum tells). When adding one: the next number, forward only, safe while old servers run.
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Database, DatabaseError, type Queryable, sqlStates } from './db.ts'

/** The folder of migrations: beside `src/` in a checkout, beside `dist/` in a package. */
const folder = fileURLToPath(new URL('../migrations', import.meta.url))
/** Any number that nobody else in the database uses as an advisory lock. */
const lockKey = 7_373_001

interface Migration {
  name: string
  text: string
  checksum: string
}

async function load(): Promise<Migration[]> {
  const names = (await readdir(folder)).filter((name) => /^\d{4}_\w+\.sql$/.test(name)).sort()
  return Promise.all(
    names.map(async (name) => {
      const text = await readFile(join(folder, name), 'utf8')
      return { name, text, checksum: createHash('sha256').update(text).digest('hex') }
    }),
  )
}

/**
 * The names of migrations that are not applied yet.
 *
 * @throws Error when an applied migration was edited, or the database is from a newer release
 */
export async function pendingMigrations(db: Queryable): Promise<string[]> {
  let applied: { name: string; checksum: string }[]
  try {
    applied = await db.query('select name, checksum from tidebase.migrations')
  } catch (error) {
    const none =
      error instanceof DatabaseError &&
      [sqlStates.undefinedTable, sqlStates.invalidSchemaName].some((state) => state === error.sqlState)
    if (!none) throw error
    applied = []
  }
  const known = await load()
  const checksums = new Map(known.map(({ name, checksum }) => [name, checksum]))
  for (const { name, checksum } of applied) {
    if (!checksums.has(name)) {
      throw new Error(`The database is from a newer Tidebase: it has the migration ${name}. Upgrade this server.`)
    }
    if (checksums.get(name) !== checksum) {
      throw new Error(`The migration ${name} was changed after it had been applied. Restore the released file.`)
    }
  }
  const done = new Set(applied.map(({ name }) => name))
  return known.filter(({ name }) => !done.has(name)).map(({ name }) => name)
}

/** Applies what is pending. Several servers may do so at once: one works, the others wait. @returns the names applied */
export async function migrate(db: Database): Promise<string[]> {
  if ((await pendingMigrations(db.cold)).length === 0) return []
  const applied: string[] = []
  for (;;) {
    const name = await db.transaction(async (tx) => {
      await tx.query('set local statement_timeout = 0')
      await tx.query('select pg_advisory_xact_lock($1)', [lockKey])
      await tx.query('create schema if not exists tidebase')
      await tx.query(`create table if not exists tidebase.migrations (
        name text primary key, checksum text not null, applied_at timestamptz not null default now())`)
      const [next] = await pendingMigrations(tx)
      const migration = (await load()).find((each) => each.name === next)
      if (!migration) return undefined
      await tx.query(migration.text)
      await tx.query('insert into tidebase.migrations (name, checksum) values ($1, $2)', [
        migration.name,
        migration.checksum,
      ])
      return migration.name
    })
    if (name === undefined) return applied
    applied.push(name)
  }
}
