// The list of runs: pages of it, how many there are, and changing all that a filter finds.
import type { BodyOf, QueryOf, ReplyOf, Routes } from '@tidebase/wire'
import { cancelRun } from './cancel.ts'
import type { Queryable } from './db.ts'
import type { Caller, Engine } from './engine.ts'
import { ApiError } from './errors.ts'
import { parseId } from './ids.ts'
import { liveStatuses } from './live-runs.ts'
import { retryRun } from './retry.ts'
import { type Run, type RunRow, toRun } from './runs.ts'
import { allEnded } from './settle.ts'

type Filter = QueryOf<Routes['countRuns']>

/** Puts a value among a statement's parameters. */
type Value = (item: unknown) => string

/** SQL: what a filter asks of a run `r`, apart from its name. */
function conditions(caller: Caller, filter: Filter, value: Value): string[] {
  const t = timed(filter)
  const where = [`${t}.project = $1`]
  if (caller.scope === 'enqueue') where.push(`r.created_by = ${value(caller.keyId)}`)
  if (filter.status) where.push(hasStatus(filter.status, value))
  if (filter.queue) where.push(`${t}.queue = ${value(filter.queue)}`)
  if (filter.from) where.push(`${t}.created_at >= ${value(filter.from)}`)
  if (filter.to) where.push(`${t}.created_at < ${value(filter.to)}`)
  if (filter.cancelReason !== undefined)
    where.push(`r.stopped = 'cancelled' and r.cancel_reason = ${value(filter.cancelReason)}`)
  for (const [key, wanted] of Object.entries(filter)) {
    if (!key.startsWith('metadata.') || typeof wanted !== 'string') continue
    // The value in the query is text; in the metadata it may be a number or a boolean.
    const spellings = [wanted, ...jsonScalar(wanted)].map((item) =>
      value(JSON.stringify({ [key.slice('metadata.'.length)]: item })),
    )
    // The first is what makes the partial index of metadata usable.
    where.push(`r.metadata <> '{}' and (${spellings.map((json) => `r.metadata @> ${json}::jsonb`).join(' or ')})`)
  }
  return where
}

const live: readonly (Run['status'] | undefined)[] = liveStatuses

/** Live runs are found by their rows in tidebase.live_runs, however many others there are. */
const isLive = ({ status }: Filter) => live.includes(status)

/** SQL: what a filter is looked for in: runs `r`, with the rows `l` of live ones when it asks for these. */
const among = (filter: Filter) =>
  isLive(filter)
    ? 'tidebase.live_runs l join tidebase.runs r on r.id = l.run_id and r.project = l.project'
    : 'tidebase.runs r'

/** SQL: whose time, id and queue a list goes by. */
const timed = (filter: Filter) => (isLive(filter) ? 'l' : 'r')
const idOf = (filter: Filter) => (isLive(filter) ? 'l.run_id' : 'r.id')

/** SQL: whether a run has a status, so that an index tells. */
function hasStatus(status: Run['status'], value: Value): string {
  if (live.includes(status)) return `l.status = ${value(status)}`
  return `r.${status === 'completed' ? 'status' : 'stopped'} = ${value(status)}`
}

/**
 * SQL: the first runs that a filter finds, by what leads to them fastest.
 *
 * @param page makes the statement that finds them of a condition; it stops at a limit
 * @param around makes one of what was found per name
 */
async function find(
  db: Queryable,
  caller: Caller,
  filter: Filter,
  where: string[],
  value: Value,
  page: (condition: string) => string,
  around: (perName: string) => string,
): Promise<string> {
  const { search, workflow } = filter
  const byId = search === undefined ? null : idPrefix(search)
  if (byId) {
    const named = workflow === undefined ? [] : [`r.workflow_name = ${value(workflow)}`]
    return page([...where, ...named, `${idOf(filter)} between ${value(byId[0])} and ${value(byId[1])}`].join(' and '))
  }
  if (search === undefined && workflow === undefined) return page(where.join(' and '))
  // Names are few and runs are many: find the names first, then the newest runs of each.
  const names = workflow !== undefined ? [workflow] : await workflowNames(db, caller)
  const wanted = search?.toLowerCase() ?? ''
  const matching = names.filter((name) => name.toLowerCase().includes(wanted))
  // A name that has run a million times may have no run that is live.
  if (isLive(filter)) return page([...where, `r.workflow_name = any(${value(matching)}::text[])`].join(' and '))
  return around(`select r.* from unnest(${value(matching)}::text[]) n
      cross join lateral (${page([...where, 'r.workflow_name = n'].join(' and '))}) r`)
}

const statuses: Run['status'][] = [...liveStatuses, 'completed', 'failed', 'cancelled']
/** Runs of one status that are counted: what people read as a number. */
const countLimit = 10_000

async function count(db: Queryable, caller: Caller, filter: Filter): Promise<number> {
  const values: unknown[] = [caller.project]
  const value: Value = (item) => `$${values.push(item)}`
  const where = conditions(caller, filter, value)
  const found = await find(
    db,
    caller,
    filter,
    where,
    value,
    (condition) => `select 1 as one from ${among(filter)} where ${condition} limit ${countLimit + 1}`,
    (perName) => `${perName} limit ${countLimit + 1}`,
  )
  const [row] = await db.query<{ runs: number }>(`select count(*) as runs from (${found}) f`, values)
  return row?.runs ?? 0
}

/** The statuses that runs found by a filter can have. */
function statusesOf({ status, cancelReason }: Filter): Run['status'][] {
  const possible: Run['status'][] = cancelReason === undefined ? statuses : ['cancelled']
  return status === undefined ? possible : possible.filter((each) => each === status)
}

/** How many runs of each status a filter finds. @throws ApiError `invalid_query` */
export async function countRuns(db: Queryable, caller: Caller, filter: Filter): Promise<ReplyOf<Routes['countRuns']>> {
  const wanted = statusesOf(filter)
  const counts = { pending: 0, queued: 0, running: 0, waiting: 0, completed: 0, failed: 0, cancelled: 0 }
  const found = await Promise.all(wanted.map((status) => count(db, caller, { ...filter, status })))
  wanted.forEach((status, n) => {
    counts[status] = Math.min(found[n] ?? 0, countLimit)
  })
  return { counts, atLeast: wanted.filter((_, n) => (found[n] ?? 0) > countLimit) }
}

/** Runs that one bulk call changes at most. */
const bulkLimit = 500

async function change(
  engine: Engine,
  caller: Caller,
  { filter, dryRun }: BodyOf<Routes['retryRuns']>,
  changeable: Run['status'][],
  act: (run: string) => Promise<unknown>,
): Promise<ReplyOf<Routes['retryRuns']>> {
  const db = engine.db.cold
  const wanted = statusesOf(filter).filter((status) => changeable.includes(status))
  const found = await Promise.all(wanted.map((status) => count(db, caller, { ...filter, status })))
  const matched = Math.min(
    found.reduce((sum, each) => sum + each, 0),
    countLimit,
  )
  if (dryRun) return { matched, done: 0, more: matched > 0 }
  const runs: string[] = []
  for (const status of wanted) {
    const page = await pageOf(db, caller, { ...filter, status }, { limit: bulkLimit })
    runs.push(...page.runs.slice(0, bulkLimit - runs.length).map(({ id }) => id))
  }
  let done = 0
  // They leave together: one statement for up to 256 of them.
  await allEnded(
    runs.map(async (id) => {
      try {
        await act(parseId('run', id) ?? '')
        done++
      } catch (error) {
        // It ended meanwhile, or another run holds its dedupe key.
        if (!(error instanceof ApiError && error.status < 500)) throw error
      }
    }),
  )
  // Those that refuse are found again: a call that changed none is the last.
  return { matched, done, more: done > 0 && matched > done }
}

/** Cancels the live runs that a filter finds. @throws ApiError `invalid_query` */
export function cancelRuns(
  engine: Engine,
  caller: Caller,
  body: BodyOf<Routes['cancelRuns']>,
): Promise<ReplyOf<Routes['cancelRuns']>> {
  const { actor, reason } = body
  return change(engine, caller, body, [...liveStatuses], (run) =>
    cancelRun(engine, caller, run, { actor, reason: reason ?? 'bulk' }),
  )
}

/** Retries the failed runs that a filter finds. @throws ApiError `invalid_query` */
export function retryRuns(
  engine: Engine,
  caller: Caller,
  body: BodyOf<Routes['retryRuns']>,
): Promise<ReplyOf<Routes['retryRuns']>> {
  return change(engine, caller, body, ['failed'], (run) => retryRun(engine, caller, run, { actor: body.actor }))
}

/**
 * A page of runs, newest first.
 *
 * @throws ApiError `invalid_query` for a cursor that is none
 */
export function listRuns(
  db: Queryable,
  caller: Caller,
  query: QueryOf<Routes['listRuns']>,
): Promise<ReplyOf<Routes['listRuns']>> {
  const { limit, before, after, ...filter } = query
  return pageOf(db, caller, filter, { limit, before, after })
}

async function pageOf(
  db: Queryable,
  caller: Caller,
  filter: Filter,
  page: { limit: number; before?: string; after?: string },
): Promise<ReplyOf<Routes['listRuns']>> {
  // Contradictory: asked of the database, it would be looked for in every run there is.
  if (statusesOf(filter).length === 0) return { runs: [], nextCursor: null }
  const values: unknown[] = [caller.project]
  const value: Value = (item) => `$${values.push(item)}`
  const where = conditions(caller, filter, value)
  const [at, id] = [`${timed(filter)}.created_at`, idOf(filter)]
  if (page.before !== undefined) {
    where.push(`(${at}, ${id}) < ${await place(db, caller, page.before, 'before', value)}`)
  }
  if (page.after !== undefined) {
    where.push(`(${at}, ${id}) > ${await place(db, caller, page.after, 'after', value)}`)
  }
  const limit = value(page.limit + 1)
  const text = await find(
    db,
    caller,
    filter,
    where,
    value,
    (condition) => `select r.*, ${micros} as micros from ${among(filter)} where ${condition}
      order by ${at} desc, ${id} desc limit ${limit}`,
    (perName) => `${perName} order by r.created_at desc, r.id desc limit ${limit}`,
  )
  const rows = await db.query<RunRow & { micros: string }>(text, values)
  const runs = rows.slice(0, page.limit)
  const last = runs.at(-1)
  return {
    runs: runs.map(toRun),
    nextCursor: rows.length > page.limit && last ? `${last.micros}.${last.id.replaceAll('-', '')}` : null,
  }
}

function jsonScalar(text: string): (number | boolean)[] {
  if (text === 'true' || text === 'false') return [text === 'true']
  const number = Number(text)
  return text.trim() !== '' && Number.isFinite(number) ? [number] : []
}

/** SQL: a run's creation in microseconds, as text, because a Date would lose what the order goes by. */
const micros = '(extract(epoch from r.created_at) * 1000000)::bigint::text'

/**
 * SQL: a place in the order of the list. A cursor names it by itself, so it holds when its run is deleted.
 *
 * @throws ApiError `invalid_query` for what is neither a cursor nor a run id; `run_not_found`
 */
async function place(db: Queryable, caller: Caller, text: string, path: string, value: Value): Promise<string> {
  const at = (time: string, run: string) =>
    `(timestamptz 'epoch' + ${value(time)}::bigint * interval '1 microsecond', ${value(run)}::uuid)`
  const [, time, id] = /^(\d{1,17})\.([0-9a-f]{32})$/.exec(text) ?? []
  if (time !== undefined && id !== undefined) return at(time, id)
  const run = parseId('run', text)
  if (!run) {
    throw new ApiError('invalid_query', `\`${path}\` is not a cursor.`, {
      issues: [{ path, message: 'must be a nextCursor of this list, or a run id' }],
    })
  }
  const [row] = await db.query<{ micros: string }>(
    `select ${micros} as micros from tidebase.runs r where r.project = $1 and r.id = $2`,
    [caller.project, run],
  )
  if (!row) throw new ApiError('run_not_found', 'The run that the cursor names does not exist.')
  return at(row.micros, run)
}

/** The range of ids that start like this, or null when the text cannot be the start of an id. */
function idPrefix(search: string): [string, string] | null {
  const match = /^run_([0-9a-f]{0,32})$/.exec(search) ?? /^([0-9a-f]{8,32})$/.exec(search)
  const digits = match?.[1]
  return digits === undefined ? null : [digits.padEnd(32, '0'), digits.padEnd(32, 'f')]
}

/** The distinct workflow names of a project, by one index probe each. */
async function workflowNames(db: Queryable, caller: Caller): Promise<string[]> {
  const rows = await db.query<{ name: string }>(
    `with recursive names as (
      (select workflow_name as name from tidebase.runs where project = $1 order by workflow_name limit 1)
      union all
      select (select r.workflow_name from tidebase.runs r where r.project = $1 and r.workflow_name > n.name
        order by r.workflow_name limit 1)
      from names n where n.name is not null
    ) select name from names where name is not null`,
    [caller.project],
  )
  return rows.map(({ name }) => name)
}
