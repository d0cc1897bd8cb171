// A run with its whole history.
import type { QueryOf, ReplyOf, Routes } from '@tidebase/wire'
import { type EdgeRow, toEdge } from './children.ts'
import type { Queryable } from './db.ts'
import type { Caller, Engine } from './engine.ts'
import { ApiError } from './errors.ts'
import { readEvents, toEvent } from './events.ts'
import { type GateRow, selectGates, toGate } from './gates.ts'
import { hasEnded, type RunRow, readRun, toRun } from './runs.ts'
import { type StreamRow, toState, toStream, toVersion, type VersionRow } from './states.ts'
import { type StepRow, toStep } from './step-rows.ts'
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
  // Before the rest: who follows the run from the last of them must not have missed what it changed.
  const events = await part('events', [])
  const [
    steps,
    state,
    stateStreams,
    stateVersions,
    runEdges,
    childRuns,
    recoveryAttempts,
    channels,
    channelDeliveries,
    gates,
    waits,
    signals,
    usage,
  ] = await Promise.all([
    part('steps', []),
    part('state', null),
    part('stateStreams', []),
    part('stateVersions', []),
    part('runEdges', []),
    part('childRuns', []),
    part('recoveryAttempts', []),
    part('channels', []),
    part('channelDeliveries', []),
    part('gates', []),
    part('waits', []),
    part('signals', []),
    part('usage', []),
  ])
  const detail = {
    run: found,
    steps,
    state,
    stateStreams,
    stateVersions,
    runEdges,
    childRuns,
    recoveryAttempts,
    channels,
    channelDeliveries,
    gates,
    waits,
    signals,
    usage,
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
