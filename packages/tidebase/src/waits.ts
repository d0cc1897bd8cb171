// Waits: timers, and waits for a signal. A wait costs a row: no process, connection or lease is needed for it.
//
//   pending ─time, signal→ resolved
//   pending ─time, when a signal was waited for→ timed_out
//
// Signals of one name are taken in the order they came, by the waits for it in the order these began: each by one wait.
// What comes before anybody waits is kept.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { statement } from './coalesce.ts'
import type { Queryable } from './db.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { ApiError } from './errors.ts'
import { appendEvents, leftJoinRow, lockRuns } from './events.ts'
import { derivedId, newId, parseId, wireId, wireIdSql } from './ids.ts'
import { announceWake, joinWoken, type Woken, wakeNews, wakeParked, wokenColumns } from './park.ts'
import { hasEnded, readRun, refuse } from './runs.ts'
import { waitFor } from './wait.ts'

type Wait = ReplyOf<Routes['getWait']>['wait']
type Signal = ReplyOf<Routes['sendSignal']>['signal']

/** A row of tidebase.waits. */
export interface WaitRow {
  id: string
  run_id: string
  name: string
  kind: Wait['kind']
  signal: string | null
  status: Wait['status']
  payload: unknown
  due_at: Date | null
  created_at: Date
  resolved_at: Date | null
}

/** A wait as the wire shows it. */
export function toWait(row: WaitRow): Wait {
  return {
    id: wireId('wait', row.id),
    runId: wireId('run', row.run_id),
    name: row.name,
    kind: row.kind,
    signal: row.signal,
    status: row.status,
    payload: row.payload,
    dueAt: row.due_at?.toISOString() ?? null,
    createdAt: row.created_at.toISOString(),
    resolvedAt: row.resolved_at?.toISOString() ?? null,
  }
}

/** A row of tidebase.signals. */
export interface SignalRow {
  id: string
  run_id: string
  name: string
  payload: unknown
  wait_id: string | null
  created_at: Date
}

/** A signal as the wire shows it. */
export function toSignal(row: SignalRow): Signal {
  return {
    id: wireId('sig', row.id),
    runId: wireId('run', row.run_id),
    name: row.name,
    payload: row.payload,
    waitId: row.wait_id && wireId('wait', row.wait_id),
    createdAt: row.created_at.toISOString(),
  }
}

interface WaitCall {
  project: number
  run: string
  id: string
}

const begins = statement<
  WaitCall & {
    name: string
    kind: Wait['kind']
    signal?: string
    due_at?: string | null
    due_ms?: number | null
  },
  WaitRow
>(
  'waits.begin',
  [
    'project integer',
    'run uuid',
    'id uuid',
    'name text',
    'kind text',
    'signal text',
    'due_at timestamptz',
    'due_ms double precision',
  ],
  `${lockRuns}, decided as materialized (
    select c.*, l.tid, l.event_seq, u.id as unread, u.payload, case
      when l.id is null then 'missing'
      when not l.fresh or row_number() over (partition by c.project, c.run order by c.i) > 1 then 'again'
      when w.id is not null then 'known'
      when l.status = 'cancelled' then 'cancelled'
      else 'begun' end as action
    from calls c
    left join locked l on l.project = c.project and l.id = c.run
    ${leftJoinRow('waits', 'w', 't.project = c.project and t.run_id = c.run and t.id = c.id')}
    left join lateral (
      select s.id, s.payload from tidebase.signals s
      where s.project = c.project and s.run_id = c.run and s.name = c.signal and s.wait_id is null
      order by s.position limit 1
    ) u on true
  ), numbered as materialized (
    select *, event_seq + 1 as seq from decided where action = 'begun'
  ), begun as (
    insert into tidebase.waits (project, run_id, id, name, kind, signal, due_at, status, payload, position, resolved_at)
    select project, run, id, name, kind, signal, coalesce(due_at, now() + due_ms * interval '1 ms'),
      case when unread is null then 'pending' else 'resolved' end, payload, seq,
      case when unread is not null then now() end
    from numbered returning *
  ), taken as (
    update tidebase.signals s set wait_id = n.id
    from numbered n where s.project = n.project and s.run_id = n.run and s.id = n.unread
  ), bumped as (
    update tidebase.runs r set event_seq = n.seq, updated_at = now() from numbered n where r.ctid = n.tid
  ), news as materialized (
    select project, run, seq, 'wait.started' as type, json_build_object('waitId', ${wireIdSql('wait', 'id')},
      'name', name, 'kind', kind, 'signal', signal) as payload
    from numbered
  ), ${appendEvents}
  select d.i, d.action, b.* from decided d
  left join begun b on b.project = d.project and b.run_id = d.run and b.id = d.id and d.action = 'begun'`,
)

type Begun = ReplyOf<Routes['createTimer']>

async function begin(engine: Engine, call: Parameters<typeof submitBegin>[1]): Promise<Begun> {
  const row = await submitBegin(engine, call)
  refuse(row.action)
  const known = row.action === 'known'
  const wait = toWait(known ? await readWait(engine.db.hot, call) : row)
  if (!known) engine.wakeups.run(call.project, call.run)
  return { action: wait.status === 'pending' ? 'wait' : 'return', wait }
}

const submitBegin = (engine: Engine, call: Required<typeof begins>['call']) => submit(engine, begins, call)

/** Starts a timer, or tells what became of it. @throws ApiError `run_not_found`, `run_cancelled`, `invalid_body` */
export async function createTimer(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['createTimer']>,
): Promise<Begun> {
  if ((body.wakeAt == null) === (body.delayMs == null)) {
    throw new ApiError('invalid_body', 'A timer needs either `wakeAt` or `delayMs`.', {
      issues: [{ path: body.wakeAt == null ? 'delayMs' : 'wakeAt', message: 'give exactly one of wakeAt and delayMs' }],
    })
  }
  return begin(engine, {
    project: caller.project,
    run,
    id: derivedId(run, 'timer', body.name),
    name: body.name,
    kind: 'timer',
    due_at: body.wakeAt,
    due_ms: body.delayMs,
  })
}

/** Waits for the next signal of a name. @throws ApiError `run_not_found`, `run_cancelled` */
export async function waitForSignal(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['waitForSignal']>,
): Promise<Begun> {
  return begin(engine, {
    project: caller.project,
    run,
    id: derivedId(run, 'wait', body.name),
    name: body.name,
    kind: 'signal',
    signal: body.signal,
    due_ms: body.timeoutMs,
  })
}

async function readWait(db: Queryable, { project, run, id }: WaitCall): Promise<WaitRow> {
  const [row] = await db.query<WaitRow>(
    { name: 'waits.read', text: 'select * from tidebase.waits where project = $1 and run_id = $2 and id = $3' },
    [project, run, id],
  )
  if (!row) throw new ApiError('wait_not_found')
  return row
}

/**
 * Reads a wait. While it is pending and its run goes on, waits up to `waitMs`.
 *
 * @throws ApiError `run_not_found`, `wait_not_found`
 */
export async function getWait(
  engine: Engine,
  caller: Caller,
  run: string,
  waitId: string,
  waitMs: number,
  signals: readonly AbortSignal[],
): Promise<ReplyOf<Routes['getWait']>> {
  const id = parseId('wait', waitId)
  if (!id) throw new ApiError('wait_not_found')
  return waitFor({
    look: async () => {
      const { status } = await readRun(engine.db.hot, caller, run)
      return { wait: toWait(await readWait(engine.db.hot, { project: caller.project, run, id })), runStatus: status }
    },
    enough: ({ wait, runStatus }) => wait.status !== 'pending' || hasEnded(runStatus),
    subscribe: (wake) => engine.wakeups.onRun(caller.project, run, wake),
    waitMs,
    signals,
  })
}

const ends = statement<WaitCall, Woken>(
  'waits.end',
  ['project integer', 'run uuid', 'id uuid'],
  `${lockRuns}, decided as materialized (
    select c.*, l.tid, l.event_seq, w.name, w.kind, case
      when l.id is null then 'missing'
      when not l.fresh or row_number() over (partition by c.project, c.run, c.id order by c.i) > 1 then 'again'
      when w.status is distinct from 'pending' or w.due_at > now() then 'unchanged'
      when l.status in ('cancelled', 'completed') then 'dropped'
      else 'ended' end as action
    from calls c
    left join locked l on l.project = c.project and l.id = c.run
    ${leftJoinRow('waits', 'w', 't.project = c.project and t.run_id = c.run and t.id = c.id')}
  ), numbered as materialized (
    select *, event_seq + row_number() over (partition by project, run order by i)::integer as seq
    from decided where action = 'ended'
  ), ended as (
    update tidebase.waits w set status = case n.kind when 'timer' then 'resolved' else 'timed_out' end, resolved_at = now()
    from numbered n where w.project = n.project and w.run_id = n.run and w.id = n.id
  ), dropped as (
    -- An ended run does not change; its timer must not be looked at again.
    update tidebase.waits w set due_at = null
    from decided n where n.action = 'dropped' and w.project = n.project and w.run_id = n.run and w.id = n.id
  ), ${wakeParked}, news as materialized (
    select project, run, seq, 'wait.ended' as type, json_build_object('waitId', ${wireIdSql('wait', 'id')},
      'name', name, 'kind', kind, 'timedOut', kind = 'signal') as payload
    from numbered ${wakeNews}
  ), ${appendEvents}
  select d.i, d.action, ${wokenColumns} from decided d ${joinWoken}`,
)

/** Ends a wait whose time has come. Called by the reconciler. */
export async function endWait(engine: Engine, project: number, run: string, id: string): Promise<void> {
  const row = await submit(engine, ends, { project, run, id })
  if (row.action === 'ended') announceWake(engine, { project, run }, row)
}

const sends = statement<WaitCall & { name: string; payload?: unknown }, SignalRow & Woken>(
  'signals.send',
  ['project integer', 'run uuid', 'id uuid', 'name text', 'payload json'],
  `${lockRuns}, decided as materialized (
    select c.*, l.tid, l.event_seq, w.id as wait_id, w.name as wait_name, case
      when l.id is null then 'missing'
      when not l.fresh or row_number() over (partition by c.project, c.run order by c.i) > 1 then 'again'
      when s.id is not null then 'known'
      when l.status in ('cancelled', 'completed') then l.status
      else 'sent' end as action
    from calls c
    left join locked l on l.project = c.project and l.id = c.run
    ${leftJoinRow('signals', 's', 't.project = c.project and t.run_id = c.run and t.id = c.id')}
    left join lateral (
      select w.id, w.name from tidebase.waits w
      where w.project = c.project and w.run_id = c.run and w.signal = c.name and w.status = 'pending'
      order by w.position limit 1
    ) w on true
  ), sending as materialized (
    select * from decided where action = 'sent'
  ), sent as (
    insert into tidebase.signals (project, run_id, id, name, payload, position, wait_id)
    select project, run, id, name, payload, event_seq + 1, wait_id from sending returning *
  ), received as (
    update tidebase.waits w set status = 'resolved', payload = s.payload, resolved_at = now()
    from sending s where w.project = s.project and w.run_id = s.run and w.id = s.wait_id
  ), numbered as materialized (
    select project, run, tid, event_seq + case when wait_id is null then 1 else 2 end as seq from sending
  ), parked as materialized (
    -- Only what somebody waited for wakes the run.
    select l.* from locked l join sending s on s.tid = l.tid where s.wait_id is not null
  ), ${wakeParked.replace('join locked l', 'join parked l')}, news as materialized (
    select project, run, event_seq + 1 as seq, 'signal.received' as type,
      json_build_object('signalId', ${wireIdSql('sig', 'id')}, 'name', name) as payload
    from sending
    union all
    select project, run, event_seq + 2, 'wait.ended', json_build_object('waitId', ${wireIdSql('wait', 'wait_id')},
      'name', wait_name, 'kind', 'signal', 'timedOut', false)
    from sending where wait_id is not null ${wakeNews}
  ), ${appendEvents}
  select d.i, d.action, ${wokenColumns}, s.* from decided d ${joinWoken}
  left join sent s on s.project = d.project and s.run_id = d.run and s.id = d.id and d.action = 'sent'`,
)

/** Sends a signal to a run. @throws ApiError `run_not_found`, `run_cancelled`, `run_completed` */
export async function sendSignal(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['sendSignal']>,
): Promise<ReplyOf<Routes['sendSignal']>> {
  const key = body.idempotencyKey
  const id = key == null ? newId() : derivedId(run, 'signal', `${body.name}\0${key}`)
  const call = { project: caller.project, run, id, name: body.name, payload: body.payload }
  const row = await submit(engine, sends, call)
  refuse(row.action)
  if (row.action === 'completed') throw new ApiError('run_completed')
  if (row.action === 'known') {
    const [known] = await engine.db.hot.query<SignalRow>(
      { name: 'signals.read', text: 'select * from tidebase.signals where project = $1 and run_id = $2 and id = $3' },
      [call.project, run, id],
    )
    if (known) return { signal: toSignal(known) }
  }
  announceWake(engine, call, row)
  return { signal: toSignal(row) }
}
