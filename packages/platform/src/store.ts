/**
 * The records of pods in Postgres, by the same rules as on a laptop: the runtime's own tables decide what a write does,
 * on the rows that it touches.
 *
 * Life of a write: it joins the others of its pod that wait → one transaction locks the pod's row, reads what they
 * touch, decides one after the other in memory, writes what changed → commit → answers. While one batch commits the
 * next gathers, so a busy pod pays one commit for many writes.
 *
 * Invariants
 * - All writes of a pod go through the lock of its row, on every server: they are serial, and versions only rise.
 * - The database's clock decides what has expired.
 * - A write with an id happens once: ids are kept for an hour, longer than any client repeats.
 */
import { createTables, type Outcome, type Space, spaceNames, type Write } from 'tidepool/kit'
import type { Database, Queryable } from './db.ts'
import { messageOf, PlatformError } from './errors.ts'

/** A write as it comes from a pod: of `set` the value's JSON. */
type RawWrite = {
  op: string
  space: string
  key: string
  json?: string
  by?: number
  ttl?: number
  if?: unknown
}

export interface Found {
  key: string
  json: string
  version: number
  expiresIn?: number
}

export interface ScanOptions {
  prefix?: string
  after?: string
  reverse?: boolean
  limit?: number
}

interface Pending {
  id: string | undefined
  retry: boolean
  ops: Write[]
  resolve: (outcome: Outcome) => void
  reject: (error: unknown) => void
}

interface Row {
  space: Space
  key: Buffer
  value: string
  version: number
  expires: number
}

const maxBatch = 500
const nowSql = '(extract(epoch from clock_timestamp()) * 1000)::bigint'

/** Postgres' bytes of a key: UTF-16, high byte first. */
export function keyBytes(key: string): Buffer {
  return Buffer.from(key, 'utf16le').swap16()
}

function keyText(bytes: Buffer): string {
  return Buffer.from(bytes).swap16().toString('utf16le')
}

const isSpace = (space: string): space is Space => Object.hasOwn(spaceNames, space)

/** @throws PlatformError `invalid` */
export function checkSpace(space: unknown): Space {
  if (typeof space === 'string' && isSpace(space)) return space
  throw new PlatformError('invalid', `There is no kind of records "${String(space).slice(0, 40)}".`)
}

/** The longest that a record may last, ms: a hundred years. */
const maxTtl = 100 * 365 * 86_400_000

/** What a pod sent, as the runtime's tables take it. @throws PlatformError `invalid` */
function parseOps(raw: readonly unknown[]): Write[] {
  return raw.map((each) => {
    const op: RawWrite = Object(each)
    checkSpace(op.space)
    const number = (value: unknown) => value === undefined || (typeof value === 'number' && Number.isFinite(value))
    const condition = op.if === undefined || op.if === 'absent' || op.if === 'present' || typeof op.if === 'number'
    const known = ['set', 'delete', 'increment', 'check'].includes(op.op)
    const lasting = op.ttl === undefined || (typeof op.ttl === 'number' && op.ttl >= 0 && op.ttl <= maxTtl)
    if (!known || typeof op.key !== 'string' || !lasting || !number(op.by) || !condition)
      throw new PlatformError('invalid', 'A write must be {op, space, key, …}.')
    const { json, ...rest } = op
    // The checks above are all that the type says besides the value, which the runtime's types of records describe.
    if (op.op === 'set') return { ...rest, value: parseValue(json) } as Write
    return (op.op === 'increment' ? { ...rest, by: op.by ?? 1 } : rest) as Write
  })
}

function parseValue(json: unknown): unknown {
  try {
    if (typeof json === 'string') return JSON.parse(json)
  } catch {
    // As one that is missing.
  }
  throw new PlatformError('invalid', 'The value of a set must be JSON as text.')
}

/** Makes the store. */
export function createStore(db: Database) {
  const queues = new Map<string, Pending[]>()

  async function decide(tx: Queryable, pod: string, batch: readonly Pending[]): Promise<(Outcome | Error)[]> {
    const [store] = await tx.query<{ version: number; db_size: number; now: number }>(
      `select version, db_size, ${nowSql} as now from platform.stores where pod = $1 for update`,
      [pod],
    )
    if (!store) throw new PlatformError('not_found', 'There is no such pod.')
    const touched = new Map<string, { space: Space; key: string }>()
    for (const { ops } of batch) for (const { space, key } of ops) touched.set(`${space} ${key}`, { space, key })
    const asked = [...touched.values()]
    const rows = await tx.query<Row>(
      `select r.space, r.key, r.value, r.version, r.expires from platform.records r
         join unnest($2::text[], $3::bytea[]) k (space, key) on r.space = k.space and r.key = k.key where r.pod = $1`,
      [pod, asked.map(({ space }) => space), asked.map(({ key }) => keyBytes(key))],
    )
    const repeated = batch.filter(({ retry }) => retry).map(({ id }) => id)
    const known = new Map(
      repeated.length === 0
        ? []
        : (
            await tx.query<{ id: string; outcome: Outcome }>(
              'select id, outcome from platform.writes where pod = $1 and id = any ($2::uuid[])',
              [pod, repeated],
            )
          ).map(({ id, outcome }) => [id, outcome]),
    )
    const tables = createTables(() => store.now)
    for (const { space, key, value, version, expires } of rows)
      tables.put(space, keyText(key), { json: value, version, expires })
    tables.seed({ version: store.version, dbSize: store.db_size })

    const changed = new Map<string, { space: Space; key: string }>()
    const outcomes = batch.map(({ id, ops }): Outcome | Error => {
      const before = id === undefined ? undefined : known.get(id)
      if (before) return before
      try {
        const { outcome, changes } = tables.change(ops)
        for (const { space, key } of changes) changed.set(`${space} ${key}`, { space, key })
        return outcome
      } catch (error) {
        return error instanceof Error ? error : new Error(messageOf(error))
      }
    })

    const put: Row[] = []
    const gone: { space: Space; key: Buffer }[] = []
    for (const { space, key } of changed.values()) {
      const row = tables.tree(space).get(key)
      const bytes = keyBytes(key)
      if (row) put.push({ space, key: bytes, value: row.json, version: row.version, expires: row.expires })
      else gone.push({ space, key: bytes })
    }
    const done = batch.flatMap(({ id }, at) => {
      const outcome = outcomes[at]
      return id === undefined || known.has(id) || !outcome || outcome instanceof Error ? [] : [{ id, outcome }]
    })
    const { version, dbSize } = tables.counted
    await tx.query(
      `with gone as (
         delete from platform.records r using unnest($4::text[], $5::bytea[]) k (space, key)
          where r.pod = $1 and r.space = k.space and r.key = k.key
       ), put as (
         insert into platform.records (pod, space, key, value, version, expires)
         select $1, * from unnest($6::text[], $7::bytea[], $8::text[], $9::bigint[], $10::bigint[])
         on conflict (pod, space, key) do update
           set value = excluded.value, version = excluded.version, expires = excluded.expires
       ), ids as (
         insert into platform.writes (pod, id, outcome)
         select $1, * from unnest($11::uuid[], $12::jsonb[]) on conflict do nothing
       ) update platform.stores set version = $2, db_size = $3 where pod = $1`,
      [
        pod,
        version,
        dbSize,
        gone.map(({ space }) => space),
        gone.map(({ key }) => key),
        put.map(({ space }) => space),
        put.map(({ key }) => key),
        put.map(({ value }) => value),
        put.map(({ version }) => version),
        put.map(({ expires }) => expires),
        done.map(({ id }) => id),
        done.map(({ outcome }) => JSON.stringify(outcome)),
      ],
    )
    return outcomes
  }

  async function drain(pod: string, queue: Pending[]): Promise<void> {
    while (queue.length > 0) {
      const batch = queue.splice(0, maxBatch)
      try {
        const outcomes = await db.transaction((tx) => decide(tx, pod, batch))
        for (const [at, { resolve, reject }] of batch.entries()) {
          const outcome = outcomes[at]
          if (!outcome || outcome instanceof Error) reject(outcome)
          else resolve(outcome)
        }
      } catch (error) {
        for (const { reject } of batch) reject(error)
      }
    }
    queues.delete(pod)
  }

  /**
   * Does all of `raw` or nothing; resolves when it is committed.
   * @param id of this write (a UUID), so that it may be repeated; `retry` says that it is a repetition
   * @throws TpError `quota_exceeded`, `not_a_number`, `bad_value`, `bad_key`; PlatformError `unavailable`, `invalid`
   */
  async function write(pod: string, raw: readonly unknown[], id?: string, retry = false): Promise<Outcome> {
    const ops = parseOps(raw)
    return new Promise((resolve, reject) => {
      const waiting = queues.get(pod)
      const mine: Pending = { id, retry, ops, resolve, reject }
      if (waiting) {
        waiting.push(mine)
        return
      }
      const queue = [mine]
      queues.set(pod, queue)
      // The other writes of this turn join.
      setImmediate(() => void drain(pod, queue))
    })
  }

  function found({ key, value, version, expires, now }: Row & { now: number }): Found {
    const entry = { key: keyText(key), json: value, version }
    return expires === 0 ? entry : { ...entry, expiresIn: expires - now }
  }

  /** The records asked for, in that order; null where there is none. */
  async function read(pod: string, asked: readonly (readonly [Space, string])[]): Promise<(Found | null)[]> {
    const rows = await db.query<Row & { now: number; at: number }>(
      `select k.at, r.space, r.key, r.value, r.version, r.expires, n.now
         from unnest($2::text[], $3::bytea[]) with ordinality k (space, key, at)
         cross join (select ${nowSql} as now) n
         join platform.records r on r.pod = $1 and r.space = k.space and r.key = k.key
        where r.expires = 0 or r.expires > n.now`,
      [pod, asked.map(([space]) => space), asked.map(([, key]) => keyBytes(key))],
    )
    const answers: (Found | null)[] = asked.map(() => null)
    for (const row of rows) answers[row.at - 1] = found(row)
    return answers
  }

  function range({ prefix = '', after, reverse = false }: ScanOptions): {
    where: string
    order: string
    values: unknown[]
  } {
    const start = keyBytes(prefix)
    const where = ['r.key >= $3', 'substring(r.key for $4) = $3']
    const values: unknown[] = [start, start.length]
    if (after !== undefined) {
      values.push(keyBytes(after))
      where.push(reverse ? 'r.key < $5' : 'r.key > $5')
    }
    // The end of the range, so that the index stops there: the prefix with its last unit one higher.
    const end = endOf(start)
    if (end) {
      values.push(end)
      where.push(`r.key < $${values.length + 2}`)
    }
    return { where: where.join(' and '), order: reverse ? 'desc' : 'asc', values }
  }

  /** Records in key order. */
  async function scan(pod: string, space: Space, { limit = 1000, ...options }: ScanOptions): Promise<Found[]> {
    const { where, order, values } = range(options)
    const rows = await db.query<Row & { now: number }>(
      `select r.space, r.key, r.value, r.version, r.expires, n.now from platform.records r
         cross join (select ${nowSql} as now) n
        where r.pod = $1 and r.space = $2 and ${where} and (r.expires = 0 or r.expires > n.now)
        order by r.key ${order} limit ${Math.max(0, Math.trunc(limit))}`,
      [pod, space, ...values],
    )
    return rows.map(found)
  }

  /** Keys in order. */
  async function keys(pod: string, space: Space, { limit, ...options }: ScanOptions): Promise<string[]> {
    const { where, order, values } = range(options)
    const rows = await db.query<{ key: Buffer }>(
      `select r.key from platform.records r
        where r.pod = $1 and r.space = $2 and ${where} and (r.expires = 0 or r.expires > ${nowSql})
        order by r.key ${order} ${limit === undefined ? '' : `limit ${Math.max(0, Math.trunc(limit))}`}`,
      [pod, space, ...values],
    )
    return rows.map(({ key }) => keyText(key))
  }

  /** How many records have keys with this prefix. */
  async function count(pod: string, space: Space, prefix = ''): Promise<number> {
    const { where, values } = range({ prefix })
    const [row] = await db.query<{ count: number }>(
      `select count(*) as count from platform.records r
        where r.pod = $1 and r.space = $2 and ${where} and (r.expires = 0 or r.expires > ${nowSql})`,
      [pod, space, ...values],
    )
    return row?.count ?? 0
  }

  /** Removes what has expired and ids that nobody repeats any more. */
  async function sweep(): Promise<void> {
    await db.query(
      `delete from platform.records where ctid = any (array(
         select ctid from platform.records where expires > 0 and expires < ${nowSql} - 60000 limit 5000))`,
    )
    await db.query(
      `delete from platform.writes where ctid = any (array(
         select ctid from platform.writes where at < now() - interval '1 hour' limit 20000))`,
    )
  }

  return { write, read, scan, keys, count, sweep }
}

export type Store = ReturnType<typeof createStore>

function endOf(prefix: Buffer): Buffer | undefined {
  for (let at = prefix.length - 2; at >= 0; at -= 2) {
    const unit = prefix.readUInt16BE(at)
    if (unit === 0xffff) continue
    const end = Buffer.from(prefix.subarray(0, at + 2))
    end.writeUInt16BE(unit + 1, at)
    return end
  }
  return undefined
}
