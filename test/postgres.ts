// One Postgres for all tests: the embedded one, or TEST_DATABASE_URL. Each test gets its own database, cloned from a
// migrated template, so that tests can run side by side and leave nothing to each other.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { openDatabase } from '../packages/tidebase/src/db.ts'
import { startEmbedded } from '../packages/tidebase/src/embedded.ts'
import { migrate } from '../packages/tidebase/src/migrate.ts'

declare module 'vitest' {
  export interface ProvidedContext {
    /** A connection string without a database name, ending in `/`. */
    postgres: string
    /** Query string of the connection string, such as `?host=/tmp/x`. */
    postgresQuery: string
    /** Name of the migrated database that tests clone. */
    template: string
  }
}

const template = `tidebase_template_${process.pid}`

export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const given = process.env.TEST_DATABASE_URL
  const folder = given ? undefined : await mkdtemp(join(tmpdir(), 'tidebase-test-'))
  // Gone with the machine anyway; the tests that kill Postgres start one of their own, as users do.
  const settings = { max_connections: '300', fsync: 'off', full_page_writes: 'off' }
  const embedded = folder ? await startEmbedded({ dataDir: folder, settings }) : undefined
  const url = new URL(given ?? 'postgres://postgres@localhost/')
  if (embedded) url.searchParams.set('host', embedded.connection.host)
  if (embedded) url.searchParams.set('port', String(embedded.connection.port))
  const query = url.search
  url.search = ''
  url.pathname = '/'

  const admin = openDatabase({ connectionString: `${url}postgres${query}` })
  await admin.cold.query(`drop database if exists ${template}`)
  await admin.cold.query(`create database ${template}`)
  const db = openDatabase({ connectionString: `${url}${template}${query}` })
  await migrate(db)
  await db.close()
  project.provide('postgres', String(url))
  project.provide('postgresQuery', query)
  project.provide('template', template)
  return async () => {
    await admin.cold.query(`drop database if exists ${template}`).catch(() => {})
    await admin.close()
    await embedded?.stop()
    if (folder) await rm(folder, { recursive: true, force: true })
  }
}
