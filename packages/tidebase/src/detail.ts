// A run with its whole history.
import type { QueryOf, ReplyOf, Routes } from '@tidebase/wire'
import { type EdgeRow, toEdge } from './children.ts'
import type { Queryable } from './db.ts'
import { Encoded, objectText } from './encoded.ts'
import type { Caller, Engine } from './engine.ts'
import { ApiError } from './errors.ts'
import { readEventPage } from './events.ts'
import { type GateRow, selectGates, toGate } from './gates.ts'
import { hasEnded, type RunRow, readRun, toRun } from './runs.ts'
import { type StreamRow, toState, toStream, toVersion, type VersionRow } from './states.ts'
import { readSteps } from './step-rows.ts'
import { toUsage, type UsageRow } from './usage.ts'
import { type SignalRow, toSignal, toWait, type WaitRow } from './waits.ts'
import { type ChannelRow, type DeliveryRow, toChannel, toChannelDelivery, toRecoveryAttempt } from './webhooks.ts'

type Detail = ReplyOf<Routes['getRun']>

const defaultEventsLimit = 1_000
const noSteps = { steps: new Encoded<Detail['steps']>('[]'), nextStepsAfter: null }
const noEvents = { events: new Encoded<Detail['events']>('[]'), nextEventsAfter: null }

/** The table in which a part has rows, of the parts that most runs have not. */
const tables = {
  state: 'state_streams',
  stateStreams: 'state_streams',
  stateVersions: 'state_versions',
  runEdges: 'edges',
  childRuns: 'edges',
  recoveryAttempts: 'deliveries',
  channels: 'channels',
  channelDeliveries: 'deliveries',
  gates: 'gates',
  waits: 'waits',
  signals: 'signals',
  usage: 'usage',
} as const satisfies Partial<Record<keyof Detail, string>>
type Part = keyof typeof tables
type Table = (typeof tables)[Part]

/** The parts without their rows, as text. */
const empty: Readonly<Record<Part, string>> = {
  state: 'null',
  stateStreams: '[]',
  stateVersions: '[]',
  runEdges: '[]',
  childRuns: '[]',
  recoveryAttempts: '[]',
  channels: '[]',
  channelDeliveries: '[]',
  gates: '[]',
  waits: '[]',
  signals: '[]',
  usage: '[]',
}
const isPart = (name: string): name is Part => Object.hasOwn(empty, name)
const partNames = ['steps', ...Object.keys(empty), 'events']

/**
 * A run with its history.
 *
 * @throws ApiError `run_not_found`, `invalid_query` for a part that does not exist
 */
export async function getRun(
  engine: Engine,
  caller: Caller,
  run: string,
  { include, eventsAfter = 0, eventsLimit = defaultEventsLimit, stepsAfter, stepsLimit }: QueryOf<Routes['getRun']>,
): Promise<Encoded<Detail>> {
  const { cold, hot } = engine.db
  const { project } = caller
  const ofRun = <Row extends object>(table: Table, order: string) =>
    cold.query<Row>(`select * from tidebase.${table} where project = $1 and run_id = $2 order by ${order}`, [
      project,
      run,
    ])
  const streams = () => ofRun<StreamRow>('state_streams', 'name')
  const parts: { [Name in Part]: () => Promise<Detail[Name]> } = {
    state: async () => (await streams()).filter(({ name }) => name === 'run').map(toState)[0] ?? null,
    stateStreams: async () => (await streams()).map(toStream),
    stateVersions: async () => (await ofRun<VersionRow>('state_versions', 'stream, version')).map(toVersion),
    runEdges: async () => (await readEdges(cold, project, run)).map(toEdge),
    childRuns: async () => (await readChildren(cold, project, run)).map(toRun),
    recoveryAttempts: async () => (await readDeliveries(cold, project, run, false)).map(toRecoveryAttempt),
    channels: async () => (await ofRun<ChannelRow>('channels', 'created_at, id')).map(toChannel),
    channelDeliveries: async () => (await readDeliveries(cold, project, run, true)).map(toChannelDelivery),
    gates: async () => (await readGates(cold, project, run)).map((row) => toGate(row, caller)),
    waits: async () => (await ofRun<WaitRow>('waits', 'position')).map(toWait),
    signals: async () => (await ofRun<SignalRow>('signals', 'position')).map(toSignal),
    usage: async () => (await ofRun<UsageRow>('usage', 'created_at, id')).map(toUsage),
  }
  const wanted = include === undefined ? partNames : include.split(',').map((name) => name.trim())
  const unknown = wanted.find((name) => name !== '' && name !== 'run' && !partNames.includes(name))
  if (unknown !== undefined) {
    const message = `must be some of ${partNames.join(', ')}`
    throw new ApiError('invalid_query', `There is no part ${JSON.stringify(unknown.slice(0, 60))}.`, {
      issues: [{ path: 'include', message }],
    })
  }
  // Before the rest: who follows the run from the last of them must not have missed what it changed.
  const { events, nextEventsAfter } = wanted.includes('events')
    ? await readEventPage(hot, { project, run, after: eventsAfter }, eventsLimit)
    : noEvents
  const others = { ...empty }
  const readOthers = async () => {
    const names = await filled(hot, project, run, wanted.filter(isPart))
    await Promise.all(
      names.map(async (name) => {
        others[name] = JSON.stringify(await parts[name]())
      }),
    )
  }
  const [found, { steps, nextStepsAfter }] = await Promise.all([
    readRun(hot, caller, run).then(toRun),
    wanted.includes('steps') ? readSteps(hot, project, run, { after: stepsAfter, limit: stepsLimit }) : noSteps,
    readOthers(),
  ])
  // Deleted while it was read, in parts: then it is not there, rather than there without them.
  if (hasEnded(found.status)) await readRun(hot, caller, run)
  return new Encoded(
    objectText<Detail>({
      run: JSON.stringify(found),
      steps: steps.text,
      ...others,
      events: events.text,
      nextStepsAfter: JSON.stringify(nextStepsAfter),
      nextEventsAfter: JSON.stringify(nextEventsAfter),
    }),
  )
}

/**
 * The parts that have rows in this run: one look at all their tables costs less than reading nothing from each. Few are
 * not worth the look.
 */
async function filled(db: Queryable, project: number, run: string, names: Part[]): Promise<Part[]> {
  if (names.length <= 2) return names
  const [row] = await db.query<Record<Table, boolean>>(presence, [project, run])
  return names.filter((name) => row?.[tables[name]])
}

/** SQL: whether a table has rows of the run, each by its primary key. */
const has = (table: Table) => {
  const runId = table === 'edges' ? 'parent_run_id' : 'run_id'
  // The key of `usage` begins with the run; an index that begins with the project must not take its place.
  const ofProject = table === 'usage' ? 'project is not distinct from $1::integer' : 'project = $1'
  return `exists (select from tidebase.${table} where ${runId} = $2 and ${ofProject}) as ${table}`
}

const presence = { name: 'runs.parts', text: `select ${[...new Set(Object.values(tables))].map(has).join(', ')}` }

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
