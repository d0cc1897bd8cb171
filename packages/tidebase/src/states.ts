// State: set, patch, save, snapshot; one statement appends a version to a stream in each of these ways.
// Version numbers rise by one per stream, without gaps, because the run's row lock is held while they are given.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { statement } from './coalesce.ts'
import type { Queryable } from './db.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { ApiError } from './errors.ts'
import { appendEvents, leftJoinRow, lockRuns } from './events.ts'
import { newId, wireId, wireIdSql } from './ids.ts'
import { refuse } from './runs.ts'

type StateVersion = ReplyOf<Routes['saveState']>['stateVersion']
type StateStream = ReplyOf<Routes['getRun']>['stateStreams'][number]
type State = ReplyOf<Routes['setState']>['state']

/** A row of tidebase.state_versions. */
export interface VersionRow {
  id: string
  stream_id: string
  run_id: string
  step_id: string | null
  version: number
  value: unknown
  patch: unknown
  label: string | null
  reason: string | null
  importance: StateVersion['importance']
  metadata: Record<string, unknown>
  created_by: string | null
  created_at: Date
}

/** A row of tidebase.state_streams. */
export interface StreamRow {
  id: string
  run_id: string
  name: string
  target_type: string
  target_id: string
  current_version: number
  current_value: unknown
  metadata: Record<string, unknown>
  created_at: Date
  updated_at: Date
}

/** A version as the wire shows it. */
export function toVersion(row: VersionRow): StateVersion {
  return {
    id: wireId('ver', row.id),
    streamId: wireId('stream', row.stream_id),
    runId: wireId('run', row.run_id),
    stepId: row.step_id,
    version: row.version,
    value: row.value,
    patch: row.patch,
    label: row.label,
    reason: row.reason,
    importance: row.importance,
    metadata: row.metadata,
    createdBy: row.created_by,
    createdAt: row.created_at.toISOString(),
  }
}

/** A stream as the wire shows it. */
export function toStream(row: StreamRow): StateStream {
  return {
    id: wireId('stream', row.id),
    runId: wireId('run', row.run_id),
    name: row.name,
    targetType: row.target_type,
    targetId: row.target_id,
    currentVersion: row.current_version,
    currentValue: row.current_value,
    metadata: row.metadata,
    createdAt: row.created_at.toISOString(),
    updatedAt: row.updated_at.toISOString(),
  }
}

/** The default stream of a run as its state. */
export function toState(row: StreamRow): State {
  return {
    runId: wireId('run', row.run_id),
    value: row.current_value,
    version: row.current_version,
    updatedAt: row.updated_at.toISOString(),
  }
}

interface WriteCall {
  project: number
  run: string
  id: string
  stream_id: string
  stream: string
  target_type: string
  target_id: string
  how: 'set' | 'patch' | 'save'
  value?: unknown
  label?: string | null
  reason?: string | null
  importance: string
  metadata?: object | null
  created_by?: string | null
  step_id?: string | null
  event: 'state.updated' | 'state.saved' | 'snapshot.created'
}

const writes = statement<WriteCall, VersionRow>(
  'states.write',
  [
    'project integer',
    'run uuid',
    'id uuid',
    'stream_id uuid',
    'stream text',
    'target_type text',
    'target_id text',
    'how text',
    'value json',
    'label text',
    'reason text',
    'importance text',
    'metadata json',
    'created_by text',
    'step_id text',
    'event text',
  ],
  `${lockRuns}, decided as materialized (
    select c.*, l.tid, l.event_seq, s.id as known, coalesce(s.current_version, 0) + 1 as version,
      case c.how
        when 'set' then c.value
        when 'save' then s.current_value
        else case when json_typeof(s.current_value) = 'object'
          then (s.current_value::jsonb || c.value::jsonb)::json else c.value end
      end as written, case
      when l.id is null then 'missing'
      when not l.fresh or row_number() over (partition by c.project, c.run, c.stream order by c.i) > 1 then 'again'
      when l.status = 'cancelled' then 'cancelled'
      when c.how = 'save' and s.id is null then 'no_state'
      else 'written' end as action
    from calls c
    left join locked l on l.project = c.project and l.id = c.run
    ${leftJoinRow('state_streams', 's', 't.project = c.project and t.run_id = c.run and t.name = c.stream')}
  ), numbered as materialized (
    select *, event_seq + row_number() over (partition by project, run order by i)::integer as seq
    from decided where action = 'written'
  ), streams as (
    insert into tidebase.state_streams as s (project, run_id, name, id, target_type, target_id, current_version, current_value)
    select project, run, stream, stream_id, target_type, target_id, version, written from numbered
    on conflict (project, run_id, name) do update set current_version = excluded.current_version,
      current_value = excluded.current_value, updated_at = now()
  ), versions as (
    insert into tidebase.state_versions (project, run_id, stream, version, id, stream_id, step_id, value, patch, label,
      reason, importance, metadata, created_by)
    select project, run, stream, version, id, coalesce(known, stream_id), step_id, written,
      case when how = 'patch' then value end, label, reason, importance, coalesce(metadata, '{}'), created_by
    from numbered returning *
  ), bumped as (
    update tidebase.runs r set event_seq = n.last, updated_at = now()
    from (select tid, max(seq) as last from numbered group by tid) n where r.ctid = n.tid
  ), news as materialized (
    select project, run, seq, event as type, json_build_object('stream', stream, 'version', version,
      'versionId', ${wireIdSql('ver', 'id')}, 'label', label, 'reason', reason, 'importance', importance) as payload
    from numbered
  ), ${appendEvents}
  select d.i, d.action, v.* from decided d
  left join versions v on v.project = d.project and v.run_id = d.run and v.id = d.id and d.action = 'written'`,
)

type Note = Pick<BodyOf<Routes['saveState']>, 'stream' | 'reason' | 'importance' | 'metadata' | 'createdBy' | 'stepId'>

async function write(
  engine: Engine,
  caller: Caller,
  run: string,
  note: Note & { label?: string | null; value?: unknown; target?: { type: string; id: string } | null },
  how: WriteCall['how'],
  event: WriteCall['event'],
  importance: string,
): Promise<VersionRow> {
  const target = note.target ?? { type: 'run', id: wireId('run', run) }
  const row = await submit(engine, writes, {
    project: caller.project,
    run,
    id: newId(),
    stream_id: newId(),
    stream: note.stream ?? 'run',
    target_type: target.type,
    target_id: target.id,
    how,
    value: note.value,
    label: note.label,
    reason: note.reason,
    importance: note.importance ?? importance,
    metadata: note.metadata,
    created_by: note.createdBy,
    step_id: note.stepId,
    event,
  })
  refuse(row.action)
  if (row.action === 'no_state') throw new ApiError('state_not_found')
  engine.wakeups.run(caller.project, run)
  return row
}

function stateOf(row: VersionRow): { state: State } {
  return {
    state: {
      runId: wireId('run', row.run_id),
      value: row.value,
      version: row.version,
      updatedAt: row.created_at.toISOString(),
    },
  }
}

/** Replaces a stream's value. @throws ApiError `run_not_found`, `run_cancelled` */
export async function setState(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['setState']>,
): Promise<ReplyOf<Routes['setState']>> {
  return stateOf(await write(engine, caller, run, body, 'set', 'state.updated', 'normal'))
}

/** Merges top-level keys into a stream's value. @throws ApiError `run_not_found`, `run_cancelled` */
export async function patchState(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['patchState']>,
): Promise<ReplyOf<Routes['patchState']>> {
  return stateOf(await write(engine, caller, run, body, 'patch', 'state.updated', 'normal'))
}

/** Labels the stream's current value. @throws ApiError `run_not_found`, `run_cancelled`, `state_not_found` */
export async function saveState(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['saveState']>,
): Promise<ReplyOf<Routes['saveState']>> {
  return { stateVersion: toVersion(await write(engine, caller, run, body, 'save', 'state.saved', 'milestone')) }
}

/** Records a labelled state of some target. @throws ApiError `run_not_found`, `run_cancelled` */
export async function createSnapshot(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['createSnapshot']>,
): Promise<ReplyOf<Routes['createSnapshot']>> {
  const target = body.target ?? { type: 'run', id: wireId('run', run) }
  const note = { ...body, target, stream: `${target.type}:${target.id}`, value: body.state }
  return { snapshot: toVersion(await write(engine, caller, run, note, 'set', 'snapshot.created', 'milestone')) }
}

/** Versions by stream, then number. */
export async function listStateVersions(
  db: Queryable,
  caller: Caller,
  run: string,
  { stream, labeled }: { stream?: string; labeled?: boolean },
): Promise<ReplyOf<Routes['listStateVersions']>> {
  const rows = await db.query<VersionRow>(
    `select * from tidebase.state_versions where project = $1 and run_id = $2
      and ($3::text is null or stream = $3) and (not $4 or label is not null) order by stream, version`,
    [caller.project, run, stream ?? null, labeled ?? false],
  )
  return { stateVersions: rows.map(toVersion) }
}

/** Labelled versions of all streams, newest first. */
export async function listSnapshots(
  db: Queryable,
  caller: Caller,
  run: string,
): Promise<ReplyOf<Routes['listSnapshots']>> {
  const rows = await db.query<VersionRow>(
    `select * from tidebase.state_versions where project = $1 and run_id = $2 and label is not null
      order by created_at desc, id desc`,
    [caller.project, run],
  )
  return { snapshots: rows.map(toVersion) }
}
