// Gates: a run asks, a human decides, exactly once.
//
//   pending ─resolve→ approved | rejected | canceled
//   pending ─timeout→ what `onTimeout` says (actor `timeout`)
//
// The token that opens a gate is a signature of its id with the project's secret: it is stored nowhere, and only an
// admin key is shown it.
import { createHmac, timingSafeEqual } from 'node:crypto'
import type { BodyOf, QueryOf, ReplyOf, Routes } from '@tidebase/wire'
import { statement } from './coalesce.ts'
import type { Queryable } from './db.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { ApiError } from './errors.ts'
import { appendEvents, leftJoinRow, lockRuns } from './events.ts'
import { derivedId, parseId, wireId, wireIdSql } from './ids.ts'
import { announceWake, joinWoken, type Woken, wakeNews, wakeParked, wokenColumns } from './park.ts'
import { hasEnded, type Run, readRun, refuse } from './runs.ts'
import { waitFor } from './wait.ts'

type Gate = ReplyOf<Routes['getGate']>['gate']

/** A row of tidebase.gates with its project's secret. */
export interface GateRow {
  id: string
  run_id: string
  name: string
  prompt: string
  data: unknown
  status: Gate['status']
  actor: string | null
  decision_payload: unknown
  capability: unknown
  channels: unknown
  timeout_at: Date | null
  on_timeout: Gate['onTimeout']
  created_at: Date
  updated_at: Date
  resolved_at: Date | null
  secret: Buffer
}

/** SQL: gates with what the wire needs to show them. */
export const selectGates = `select g.*, p.secret from tidebase.gates g join tidebase.projects p on p.id = g.project`

/**
 * The token that opens a gate.
 *
 * @param secret the project's
 * @param gateId the gate's id as the wire shows it
 */
export function gateToken(secret: Buffer, gateId: string): string {
  return createHmac('sha256', secret).update(`gate:${gateId}`).digest('base64url')
}

/** Whether two tokens are one; in constant time. */
export function sameToken(expected: string, given: string): boolean {
  const [a, b] = [Buffer.from(expected), Buffer.from(given)]
  return a.length === b.length && timingSafeEqual(a, b)
}

/** A gate as the wire shows it to this caller. */
export function toGate(row: GateRow, caller: Caller): Gate {
  const id = wireId('gate', row.id)
  return {
    id,
    runId: wireId('run', row.run_id),
    name: row.name,
    prompt: row.prompt,
    data: row.data,
    status: row.status,
    decision: row.status === 'pending' ? null : row.status,
    actor: row.actor,
    decisionPayload: row.decision_payload,
    capability: row.capability,
    channels: row.channels,
    resolveToken: caller.scope === 'admin' ? gateToken(row.secret, id) : null,
    timeoutAt: row.timeout_at?.toISOString() ?? null,
    onTimeout: row.on_timeout,
    createdAt: row.created_at.toISOString(),
    updatedAt: row.updated_at.toISOString(),
    resolvedAt: row.resolved_at?.toISOString() ?? null,
  }
}

interface GateCall {
  project: number
  run: string
  id: string
}

const begins = statement<
  GateCall & {
    name: string
    prompt: string
    data?: unknown
    capability?: unknown
    channels?: unknown
    timeout_ms?: number | null
    on_timeout?: string | null
  },
  GateRow
>(
  'gates.begin',
  [
    'project integer',
    'run uuid',
    'id uuid',
    'name text',
    'prompt text',
    'data json',
    'capability json',
    'channels json',
    'timeout_ms double precision',
    'on_timeout text',
  ],
  `${lockRuns}, decided as materialized (
    select c.*, l.tid, l.event_seq, case
      when l.id is null then 'missing'
      when not l.fresh or row_number() over (partition by c.project, c.run, c.id order by c.i) > 1 then 'again'
      when l.status = 'cancelled' then 'cancelled'
      when g.id is not null then 'known'
      else 'begun' end as action
    from calls c
    left join locked l on l.project = c.project and l.id = c.run
    ${leftJoinRow('gates', 'g', 't.project = c.project and t.run_id = c.run and t.id = c.id')}
  ), numbered as materialized (
    select *, event_seq + row_number() over (partition by project, run order by i)::integer as seq
    from decided where action = 'begun'
  ), begun as (
    insert into tidebase.gates (project, run_id, id, name, prompt, data, capability, channels, timeout_at, on_timeout)
    select project, run, id, name, prompt, data, capability, channels, now() + timeout_ms * interval '1 ms',
      coalesce(on_timeout, 'canceled')
    from numbered
  ), bumped as (
    update tidebase.runs r set event_seq = n.last, updated_at = now()
    from (select tid, max(seq) as last from numbered group by tid) n where r.ctid = n.tid
  ), news as materialized (
    select project, run, seq, 'gate.created' as type, json_build_object('gateId', ${wireIdSql('gate', 'id')},
      'name', name, 'prompt', prompt, 'data', data) as payload
    from numbered
  ), ${appendEvents}
  select i, action from decided`,
)

/** Opens a gate, or tells what became of it. @throws ApiError `run_not_found`, `run_cancelled` */
export async function beginGate(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['beginGate']>,
): Promise<ReplyOf<Routes['beginGate']>> {
  const id = derivedId(run, 'gate', body.name)
  const { action } = await submit(engine, begins, {
    project: caller.project,
    run,
    id,
    name: body.name,
    prompt: body.prompt,
    data: body.data,
    capability: body.capability,
    channels: body.channels,
    timeout_ms: body.timeoutMs,
    on_timeout: body.onTimeout,
  })
  refuse(action)
  if (action === 'begun') {
    engine.wakeups.run(caller.project, run)
    engine.wakeups.outbox()
  }
  const gate = toGate(await readGate(engine.db.hot, { project: caller.project, run, id }), caller)
  return { action: gate.status === 'pending' ? 'wait' : 'return', gate }
}

async function readGate(db: Queryable, { project, run, id }: GateCall): Promise<GateRow> {
  const [row] = await db.query<GateRow>(
    { name: 'gates.read', text: `${selectGates} where g.project = $1 and g.run_id = $2 and g.id = $3` },
    [project, run, id],
  )
  if (!row) throw new ApiError('gate_not_found')
  return row
}

/**
 * Reads a gate. While it is pending and its run goes on, waits up to `waitMs`.
 *
 * @throws ApiError `run_not_found`, `gate_not_found`
 */
export async function getGate(
  engine: Engine,
  caller: Caller,
  run: string,
  gateId: string,
  waitMs: number,
  signals: readonly AbortSignal[],
): Promise<ReplyOf<Routes['getGate']>> {
  const read = async () => {
    const { status } = await readRun(engine.db.hot, caller, run)
    const gate = toGate(await readGate(engine.db.hot, gateCall(caller, run, gateId)), caller)
    return { gate, runStatus: status }
  }
  return waitFor({
    look: read,
    enough: ({ gate, runStatus }) => gate.status !== 'pending' || hasEnded(runStatus),
    subscribe: (wake) => engine.wakeups.onRun(caller.project, run, wake),
    waitMs,
    signals,
  })
}

function gateCall(caller: Caller, run: string, gateId: string): GateCall {
  const id = parseId('gate', gateId)
  if (!id) throw new ApiError('gate_not_found')
  return { project: caller.project, run, id }
}

const resolutions = statement<
  GateCall & { open: boolean; due: boolean; decision?: string; actor?: string | null; payload?: unknown },
  Woken
>(
  'gates.resolve',
  [
    'project integer',
    'run uuid',
    'id uuid',
    'open boolean',
    'due boolean',
    'decision text',
    'actor text',
    'payload json',
  ],
  `${lockRuns}, decided as materialized (
    select c.i, c.project, c.run, c.id, c.payload, l.tid, l.event_seq, g.name,
      case when c.due then 'timeout' else c.actor end as actor,
      case when c.due then g.on_timeout else c.decision end as decision, case
      when l.id is null then 'missing'
      when not l.fresh or row_number() over (partition by c.project, c.run, c.id order by c.i) > 1 then 'again'
      when g.id is null then 'no_gate'
      when not c.open then 'gate_token'
      when g.status <> 'pending' then 'gate_resolved'
      when c.due and g.timeout_at > now() then 'gate_resolved'
      when l.status = 'cancelled' then 'cancelled'
      else 'resolved' end as action
    from calls c
    left join locked l on l.project = c.project and l.id = c.run
    ${leftJoinRow('gates', 'g', 't.project = c.project and t.run_id = c.run and t.id = c.id')}
  ), numbered as materialized (
    select *, event_seq + row_number() over (partition by project, run order by i)::integer as seq
    from decided where action = 'resolved'
  ), resolved as (
    update tidebase.gates g set status = n.decision, actor = n.actor, decision_payload = n.payload,
      resolved_at = now(), updated_at = now()
    from numbered n where g.project = n.project and g.run_id = n.run and g.id = n.id
  ), ${wakeParked}, news as materialized (
    select project, run, seq, 'gate.resolved' as type, json_build_object('gateId', ${wireIdSql('gate', 'id')},
      'name', name, 'decision', decision, 'actor', actor, 'payload', payload) as payload
    from numbered ${wakeNews}
  ), ${appendEvents}
  select d.i, d.action, ${wokenColumns} from decided d ${joinWoken}`,
)

/** Decides a gate. @throws ApiError `run_not_found`, `gate_not_found`, `gate_token`, `gate_resolved`, `run_cancelled` */
export async function resolveGate(
  engine: Engine,
  caller: Caller,
  run: string,
  gateId: string,
  body: BodyOf<Routes['resolveGate']>,
): Promise<ReplyOf<Routes['resolveGate']>> {
  const call = gateCall(caller, run, gateId)
  const open = body.token == null ? caller.scope === 'admin' : await opens(engine, caller.project, gateId, body.token)
  const row = await submit(engine, resolutions, {
    ...call,
    open,
    due: false,
    decision: body.decision,
    actor: body.actor,
    payload: body.payload,
  })
  const { action } = row
  refuse(action)
  if (action === 'no_gate') throw new ApiError('gate_not_found')
  if (action === 'gate_token' || action === 'gate_resolved') throw new ApiError(action)
  announceWake(engine, call, row)
  return { gate: toGate(await readGate(engine.db.hot, call), caller) }
}

async function opens(engine: Engine, project: number, gateId: string, token: string): Promise<boolean> {
  const [row] = await engine.db.hot.query<{ secret: Buffer }>(
    { name: 'projects.secret', text: 'select secret from tidebase.projects where id = $1' },
    [project],
  )
  if (!row) return false
  return sameToken(gateToken(row.secret, gateId), token)
}

/** Decides a gate whose time is up. Called by the reconciler. */
export async function timeOutGate(engine: Engine, project: number, run: string, gate: string): Promise<void> {
  const row = await submit(engine, resolutions, { project, run, id: gate, open: true, due: true })
  if (row.action === 'resolved') announceWake(engine, { project, run }, row)
}

/**
 * Pending gates of all runs that go on, oldest first.
 *
 * @throws ApiError `invalid_query` for a cursor that is none
 */
export async function listGates(
  db: Queryable,
  caller: Caller,
  { after, limit = 100 }: QueryOf<Routes['listGates']>,
): Promise<ReplyOf<Routes['listGates']>> {
  const [, micros, id] = /^(\d{1,17})_([0-9a-f]{32})$/.exec(after ?? '0_00000000000000000000000000000000') ?? []
  if (micros === undefined || id === undefined) {
    throw new ApiError('invalid_query', 'This cursor is not one of ours.', {
      issues: [{ path: 'after', message: 'must be the nextCursor of the page before' }],
    })
  }
  const rows = await db.query<GateRow & { workflow_name: string; run_status: Run['status']; micros: string }>(
    `select g.*, p.secret, r.workflow_name, r.status as run_status,
      (extract(epoch from g.created_at) * 1000000)::bigint::text as micros
    from tidebase.gates g join tidebase.projects p on p.id = g.project
    join tidebase.runs r on r.project = g.project and r.id = g.run_id
    where g.project = $1 and g.status = 'pending' and r.status not in ('completed', 'cancelled')
      and (g.created_at, g.id) > (to_timestamp(0) + $2::bigint * interval '1 microsecond', $3::uuid)
    order by g.created_at, g.id limit $4`,
    [caller.project, micros, id, limit],
  )
  const last = rows.at(-1)
  return {
    gates: rows.map((row) => ({
      ...toGate(row, caller),
      workflowName: row.workflow_name,
      runStatus: row.run_status,
    })),
    nextCursor: last && rows.length === limit ? `${last.micros}_${last.id.replaceAll('-', '')}` : null,
  }
}
