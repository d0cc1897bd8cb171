// The tables as the migrations leave them, read from a database of their own, for packages/tidebase/schema.sql.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openDatabase, type Queryable } from '../packages/tidebase/src/db.ts'
import { startEmbedded } from '../packages/tidebase/src/embedded.ts'
import { migrate } from '../packages/tidebase/src/migrate.ts'

interface Relation {
  name: string
  options: string | null
  columns: string[]
  constraints: string[]
  indexes: string[]
}

/** Migrates an empty embedded database and writes down what it then holds. */
export async function schemaSql(): Promise<string> {
  const dataDir = await mkdtemp(join(tmpdir(), 'tidebase-schema-'))
  const postgres = await startEmbedded({ dataDir })
  const db = openDatabase(postgres.connection, { hot: 1, cold: 1 })
  try {
    await migrate(db)
    return dump(await relations(db.cold))
  } finally {
    await db.close()
    await postgres.stop()
    await rm(dataDir, { recursive: true, force: true })
  }
}

function relations(db: Queryable): Promise<Relation[]> {
  return db.query<Relation>(
    `select c.relname as name, array_to_string(c.reloptions, ', ') as options,
      (select json_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod))
          || case when a.attidentity = 'a' then ' generated always as identity'
            when a.attgenerated = 's' then format(' generated always as (%s) stored', pg_get_expr(d.adbin, d.adrelid))
            when d.adbin is not null then ' default ' || pg_get_expr(d.adbin, d.adrelid) else '' end
          || case when a.attnotnull then ' not null' else '' end order by a.attnum)
        from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns,
      coalesce((select json_agg(pg_get_constraintdef(k.oid) order by k.contype desc, k.conname)
        from pg_constraint k where k.conrelid = c.oid and k.contype <> 'n'), '[]') as constraints,
      coalesce((select json_agg(pg_get_indexdef(i.indexrelid) order by i.indexrelid::regclass::text)
        from pg_index i where i.indrelid = c.oid
          and not exists (select from pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u'))
      ), '[]') as indexes
    from pg_class c where c.relnamespace = 'tidebase'::regnamespace and c.relkind = 'r' order by c.relname`,
  )
}

function dump(tables: Relation[]): string {
  const text = ['-- The tables after every migration, made by `npm run gen`: read here, change in migrations/.', '']
  for (const { name, options, columns, constraints, indexes } of tables) {
    text.push(`create table tidebase.${name} (`, [...columns, ...constraints].map((line) => `  ${line}`).join(',\n'))
    text.push(options ? `) with (${options});` : ');')
    for (const index of indexes)
      text.push(`${index.replace(/^CREATE (UNIQUE )?INDEX/, (found) => found.toLowerCase())};`)
    text.push('')
  }
  return text.join('\n')
}
