// Reads for people and dashboards: the list of runs and a run with its whole history.
import type { QueryOf, ReplyOf, Routes } from '@tidebase/wire'
import { type EdgeRow, toEdge } from './children.ts'
import type { Queryable } from './db.ts'
import type { Caller, Engine } from './engine.ts'
import { ApiError } from './errors.ts'
import { readEvents, toEvent } from './events.ts'
import { type GateRow, selectGates, toGate } from './gates.ts'
import { parseId } from './ids.ts'
import { hasEnded, type RunRow, readRun, toRun } from './runs.ts'
import { type StreamRow, toState, toStream, toVersion, type VersionRow } from './states.ts'
import { type StepRow, toStep } from './steps.ts'
import { toUsage, type UsageRow } from './usage.ts'
import { type SignalRow, toSignal, toWait, type WaitRow } from './waits.ts'
import { type ChannelRow, type DeliveryRow, toChannel, toChannelDelivery, toRecoveryAttempt } from './webhooks.ts'

type Detail = ReplyOf<Routes['getRun']>

const defaultEventsLimit = 1_000

/**
 * A run with its history.
 *
 * @throws ApiError `run_not_found`, `invalid_query` for a part that does not exist
 */
export async function getRun(
  engine: Engine,
  caller: Caller,
  run: string,
  { include, eventsAfter = 0, eventsLimit = defaultEventsLimit }: QueryOf<Routes['getRun']>,
): Promise<Detail> {
  const db = engine.db.cold
  const { project } = caller
  const ofRun = <Row extends object>(table: string, order: string) =>
    db.query<Row>(`select * from tidebase.${table} where project = $1 and run_id = $2 order by ${order}`, [
      project,
      run,
    ])
  const streams = async () => ofRun<StreamRow>('state_streams', 'name')
  const parts = {
    steps: async () => (await ofRun<StepRow>('steps', 'position')).map(toStep),
    state: async () => (await streams()).filter(({ name }) => name === 'run').map(toState)[0] ?? null,
    stateStreams: async () => (await streams()).map(toStream),
    stateVersions: async () => (await ofRun<VersionRow>('state_versions', 'stream, version')).map(toVersion),
    runEdges: async () => (await readEdges(db, project, run)).map(toEdge),
    childRuns: async () => (await readChildren(db, project, run)).map(toRun),
    recoveryAttempts: async () => (await readDeliveries(db, project, run, false)).map(toRecoveryAttempt),
    channels: async () => (await ofRun<ChannelRow>('channels', 'created_at, id')).map(toChannel),
    channelDeliveries: async () => (await readDeliveries(db, project, run, true)).map(toChannelDelivery),
    gates: async () => (await readGates(db, project, run)).map((row) => toGate(row, caller)),
    waits: async () => (await ofRun<WaitRow>('waits', 'position')).map(toWait),
    signals: async () => (await ofRun<SignalRow>('signals', 'position')).map(toSignal),
    usage: async () => (await ofRun<UsageRow>('usage', 'created_at, id')).map(toUsage),
    events: async () => (await readEvents(db, [{ project, run, after: eventsAfter }], eventsLimit)).map(toEvent),
  }
  const wanted = include === undefined ? Object.keys(parts) : include.split(',').map((name) => name.trim())
  const unknown = wanted.find((name) => name !== '' && name !== 'run' && !(name in parts))
  if (unknown !== undefined) {
    const message = `must be some of ${Object.keys(parts).join(', ')}`
    throw new ApiError('invalid_query', `There is no part ${JSON.stringify(unknown.slice(0, 60))}.`, {
      issues: [{ path: 'include', message }],
    })
  }
  const part = async <Name extends keyof typeof parts, Empty>(name: Name, empty: Empty) =>
    wanted.includes(name) ? ((await parts[name]()) as Awaited<ReturnType<(typeof parts)[Name]>>) : empty
  const found = toRun(await readRun(db, caller, run))
  const events = await part('events', [])
  const detail = {
    run: found,
    steps: await part('steps', []),
    state: await part('state', null),
    stateStreams: await part('stateStreams', []),
    stateVersions: await part('stateVersions', []),
    runEdges: await part('runEdges', []),
    childRuns: await part('childRuns', []),
    recoveryAttempts: await part('recoveryAttempts', []),
    channels: await part('channels', []),
    channelDeliveries: await part('channelDeliveries', []),
    gates: await part('gates', []),
    waits: await part('waits', []),
    signals: await part('signals', []),
    usage: await part('usage', []),
    events,
    nextEventsAfter: events.length === eventsLimit ? (events.at(-1)?.seq ?? null) : null,
  }
  // Deleted while it was read, in parts: then it is not there, rather than there without them.
  if (hasEnded(found.status)) await readRun(db, caller, run)
  return detail
}

const readGates = (db: Queryable, project: number, run: string) =>
  db.query<GateRow>(`${selectGates} where g.project = $1 and g.run_id = $2 order by g.created_at, g.id`, [project, run])

const readEdges = (db: Queryable, project: number, run: string) =>
  db.query<EdgeRow>(
    'select * from tidebase.edges where project = $1 and parent_run_id = $2 order by created_at, name',
    [project, run],
  )

const readChildren = (db: Queryable, project: number, run: string) =>
  db.query<RunRow>(
    `select r.* from tidebase.edges e join tidebase.runs r on r.project = e.project and r.id = e.child_run_id
      where e.project = $1 and e.parent_run_id = $2 order by e.created_at, e.name`,
    [project, run],
  )

const readDeliveries = (db: Queryable, project: number, run: string, ofChannels: boolean) =>
  db.query<DeliveryRow>(
    `select * from tidebase.deliveries where project = $1 and run_id = $2 and (kind = 'channel') = $3
      order by created_at, id`,
    [project, run, ofChannels],
  )

/**
 * A page of runs, newest first.
 *
 * @throws ApiError `invalid_query` for a cursor that is none
 */
export async function listRuns(
  db: Queryable,
  caller: Caller,
  query: QueryOf<Routes['listRuns']>,
): Promise<ReplyOf<Routes['listRuns']>> {
  const values: unknown[] = [caller.project]
  const value = (item: unknown) => `$${values.push(item)}`
  const where = ['r.project = $1']
  if (caller.scope === 'enqueue') where.push(`r.created_by = ${value(caller.keyId)}`)
  if (query.status) where.push(`r.status = ${value(query.status)}`)
  if (query.queue) where.push(`r.queue = ${value(query.queue)}`)
  for (const [key, wanted] of Object.entries(query)) {
    if (!key.startsWith('metadata.') || typeof wanted !== 'string') continue
    // The value in the query is text; in the metadata it may be a number or a boolean.
    const spellings = [wanted, ...jsonScalar(wanted)].map((item) =>
      value(JSON.stringify({ [key.slice('metadata.'.length)]: item })),
    )
    where.push(`(${spellings.map((json) => `r.metadata @> ${json}::jsonb`).join(' or ')})`)
  }
  if (query.before !== undefined) {
    where.push(`(r.created_at, r.id) < ${await place(db, caller, query.before, 'before', value)}`)
  }
  if (query.after !== undefined) {
    where.push(`(r.created_at, r.id) > ${await place(db, caller, query.after, 'after', value)}`)
  }
  const limit = value(query.limit + 1)
  const page = (condition: string) => `select r.*, ${micros} as micros from tidebase.runs r where ${condition}
    order by r.created_at desc, r.id desc limit ${limit}`

  const search = query.search
  const byId = search === undefined ? null : idPrefix(search)
  let text: string
  if (byId) {
    text = page([...where, `r.id between ${value(byId[0])} and ${value(byId[1])}`].join(' and '))
  } else if (search === undefined && query.workflow === undefined) {
    text = page(where.join(' and '))
  } else {
    // Names are few and runs are many: find the names first, then the newest runs of each.
    const names = query.workflow !== undefined ? [query.workflow] : await workflowNames(db, caller)
    const wanted = search?.toLowerCase() ?? ''
    const matching = value(names.filter((name) => name.toLowerCase().includes(wanted)))
    text = `select r.* from unnest(${matching}::text[]) n
      cross join lateral (${page([...where, 'r.workflow_name = n'].join(' and '))}) r
      order by r.created_at desc, r.id desc limit ${limit}`
  }
  const rows = await db.query<RunRow & { micros: string }>(text, values)
  const runs = rows.slice(0, query.limit)
  const last = runs.at(-1)
  return {
    runs: runs.map(toRun),
    nextCursor: rows.length > query.limit && last ? `${last.micros}.${last.id.replaceAll('-', '')}` : null,
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
async function place(
  db: Queryable,
  caller: Caller,
  text: string,
  path: string,
  value: (item: unknown) => string,
): Promise<string> {
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
