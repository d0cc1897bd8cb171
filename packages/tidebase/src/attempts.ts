// Attempts: begin, heartbeat, complete, fail, and what follows when a lease runs out. The states are drawn in runs.ts.
//
// The lease check stands in the statement that writes. A lease that ran out still counts until somebody else takes
// it: a worker that was only slow goes on.
import { randomBytes } from 'node:crypto'
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { statement } from './coalesce.ts'
import { DatabaseError, sqlStates } from './db.ts'
import { Encoded, objectText } from './encoded.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { ApiError } from './errors.ts'
import { appendEvents, lockRuns, runIs } from './events.ts'
import { endLive, keepLive, liveIs, orphanLive } from './live-runs.ts'
import { type RunRow, readRun, refuse, toRun } from './runs.ts'
import { readCheckpoints } from './step-rows.ts'

type Begun = ReplyOf<Routes['beginRun']>

interface RunCall {
  project: number
  run: string
}

const beginRuns = statement<RunCall & { owner: string; lease_ms: number }, RunRow & { holder: string | null }>(
  'runs.begin',
  ['project integer', 'run uuid', 'owner text', 'lease_ms double precision'],
  `${lockRuns}, decided as materialized (
    select c.i, c.owner, c.lease_ms, l.*, case
      when l.id is null then 'missing'
      when not l.fresh or row_number() over (partition by c.project, c.run order by c.i) > 1 then 'again'
      when l.status in ('cancelled', 'completed') then l.status
      when l.status = 'running' and l.lease_owner <> c.owner and l.lease_expires_at > now() then 'leased'
      else 'begun' end as action
    from calls c left join locked l on l.project = c.project and l.id = c.run
  ), begun as (
    update tidebase.runs r set status = 'running', lease_owner = d.owner,
      lease_expires_at = now() + d.lease_ms * interval '1 ms',
      attempt = d.attempt + case when d.claimed and coalesce(d.lease_owner, d.owner) = d.owner then 0 else 1 end,
      claimed = false,
      error = null, failure_class = null, completed_at = null,
      event_seq = d.event_seq + 1, updated_at = now()
    from decided d where r.ctid = d.tid and d.action = 'begun'
    returning r.*
  ), counted as (
    insert into tidebase.queue_counts (project, queue, status, runs)
    select project, queue, 'failed', -count(*) from decided
    where action = 'begun' and queue is not null and status = 'failed' group by project, queue
  ), ${keepLive('begun')}, news as materialized (
    select project, id as run, event_seq as seq, 'run.started' as type,
      json_build_object('leaseOwner', lease_owner, 'attempt', attempt) as payload from begun
  ), ${appendEvents}
  select d.i, d.action, d.lease_owner as holder, b.* from decided d
  left join begun b on b.project = d.project and b.id = d.id and d.action = 'begun'`,
)

/**
 * Takes the run's lease and starts an attempt.
 *
 * @param owner names the lease; the server makes a name unless given
 * @throws ApiError `run_not_found`, `run_cancelled`, `run_leased`, `contention`
 */
export async function beginRun(
  engine: Engine,
  caller: Caller,
  run: string,
  owner: string | undefined,
  withCheckpoints: boolean,
): Promise<Begun | Encoded<Begun>> {
  const leaseOwner = owner || `worker_${randomBytes(12).toString('hex')}`
  const call = { project: caller.project, run, owner: leaseOwner, lease_ms: engine.settings.leaseMs }
  const row = await submit(engine, beginRuns, call).catch((error) => {
    // The run had ended and its dedupe key is another's by now.
    if (error instanceof DatabaseError && error.sqlState === sqlStates.uniqueViolation) {
      throw new ApiError('dedupe_conflict')
    }
    throw error
  })
  switch (row.action) {
    case 'missing':
      throw new ApiError('run_not_found')
    case 'cancelled':
      throw new ApiError('run_cancelled')
    case 'leased':
      throw new ApiError('run_leased', undefined, { leaseOwner: row.holder })
    case 'completed':
      return { run: toRun(await readRun(engine.db.hot, caller, run)), leaseOwner: null }
  }
  engine.wakeups.run(caller.project, run)
  const begun = { run: toRun(row), leaseOwner }
  if (!withCheckpoints) return begun
  // A first attempt has only just started: there is nothing to read.
  if (row.event_seq <= 2) return { ...begun, checkpoints: [] }
  const checkpoints = await readCheckpoints(engine.db.hot, caller.project, run)
  return new Encoded(
    objectText<Begun>({
      run: JSON.stringify(begun.run),
      leaseOwner: JSON.stringify(leaseOwner),
      checkpoints: checkpoints.text,
    }),
  )
}

const heartbeats = statement<RunCall & { owner: string; lease_ms: number }, RunRow>(
  'runs.heartbeat',
  ['project integer', 'run uuid', 'owner text', 'lease_ms double precision'],
  `${lockRuns}, decided as materialized (
    select c.i, c.owner, c.lease_ms, l.*, case
      when l.id is null then 'missing'
      when not l.fresh or row_number() over (partition by c.project, c.run order by c.i) > 1 then 'again'
      when l.status = 'cancelled' then 'cancelled'
      when l.status <> 'running' or l.lease_owner is distinct from c.owner then 'lease_lost'
      else 'extended' end as action
    from calls c left join locked l on l.project = c.project and l.id = c.run
  ), extended as (
    update tidebase.runs r set lease_expires_at = now() + d.lease_ms * interval '1 ms', updated_at = now()
    from decided d where r.ctid = d.tid and d.action = 'extended'
    returning r.*
  ), steps as (
    update tidebase.steps s set lease_expires_at = now() + d.lease_ms * interval '1 ms', updated_at = now()
    from decided d where d.action = 'extended' and s.project = d.project and s.run_id = d.id
      and s.status = 'running' and s.lease_owner = d.owner
  ), ${orphanLive('extended', false)}
  select d.i, d.action, e.* from decided d
  left join extended e on e.project = d.project and e.id = d.id and d.action = 'extended'`,
)

/** Extends the lease of a run and of its owner's running steps. @throws ApiError `run_not_found`, `run_cancelled`, `lease_lost` */
export async function heartbeatRun(
  engine: Engine,
  caller: Caller,
  run: string,
  { leaseOwner }: BodyOf<Routes['heartbeatRun']>,
): Promise<ReplyOf<Routes['heartbeatRun']>> {
  const call = { project: caller.project, run, owner: leaseOwner, lease_ms: engine.settings.leaseMs }
  const row = await submit(engine, heartbeats, call)
  refuse(row.action)
  return { run: toRun(row) }
}

// Repeating a call whose reply was lost changes nothing and answers alike: `last_owner` remembers who ended the attempt.
const endGuard = (states: string) => `when l.id is null then 'missing'
      when not l.fresh or row_number() over (partition by c.project, c.run order by c.i) > 1 then 'again'
      when l.status = 'cancelled' then 'unchanged'
      when l.status in (${states}) and l.last_owner = c.owner then 'unchanged'
      when c.owner is not null and l.lease_owner is distinct from c.owner then 'lease_lost'
      when l.status in ('completed', 'failed') then 'unchanged'`

const completions = statement<
  RunCall & { owner?: string | null; result?: unknown; brief?: boolean | null },
  RunRow & { in_queue: string | null }
>(
  'runs.complete',
  ['project integer', 'run uuid', 'owner text', 'result json', 'brief boolean'],
  `${lockRuns}, decided as materialized (
    select c.i, c.owner, c.result, c.brief, l.*, case
      ${endGuard(`'completed'`)}
      else 'completed' end as action
    from calls c left join locked l on l.project = c.project and l.id = c.run
  ), completed as (
    update tidebase.runs r set status = 'completed', result = d.result, error = null, failure_class = null,
      lease_owner = null, lease_expires_at = null, last_owner = coalesce(d.owner, d.lease_owner), claimed = false,
      event_seq = d.event_seq + 1, completed_at = now(), updated_at = now()
    from decided d where r.ctid = d.tid and d.action = 'completed'
    returning r.*
  ), counted as (
    insert into tidebase.queue_counts (project, queue, status, runs)
    select project, queue, 'completed', count(*) from completed where queue is not null group by project, queue
  ), ${endLive('completed')}, news as materialized (
    select project, id as run, event_seq as seq, 'run.completed' as type,
      json_build_object('attempt', attempt) as payload from completed
  ), ${appendEvents}
  select d.i, d.action, d.queue as in_queue, r.* from decided d
  left join completed r on r.project = d.project and r.id = d.id and d.action = 'completed' and d.brief is not true`,
)

// Nearly every completion: the run is its caller's, and nobody listens to it. The update is the fence, as for
// `steps.record_fresh` (records.ts); what it gives no row for goes to the statement above.
const freshCompletions = statement<RunCall & { owner: string; result?: unknown }, { in_queue: string | null }>(
  'runs.complete_fresh',
  ['project integer', 'run uuid', 'owner text', 'result json'],
  `fit as materialized (
    select c.i, c.owner, c.result, r.tid, r.version, r.event_seq, l.tid as live_tid from calls c
    cross join lateral (
      select r.ctid as tid, r.xmin as version, r.event_seq, r.status, r.lease_owner, r.has_channels
      from tidebase.runs r where ${runIs('r', 'c.project', 'c.run')} offset 0
    ) r
    cross join lateral (
      select l.ctid as tid from tidebase.live_runs l where ${liveIs('l', 'c.project', 'c.run')} offset 0
    ) l
    where r.status = 'running' and r.lease_owner = c.owner and not r.has_channels
  ), completed as (
    update tidebase.runs r set status = 'completed', result = f.result, error = null, failure_class = null,
      lease_owner = null, lease_expires_at = null, last_owner = f.owner, claimed = false,
      event_seq = f.event_seq + 1, completed_at = now(), updated_at = now()
    from fit f where r.ctid = f.tid and r.xmin = f.version
    returning f.i, f.live_tid, r.project, r.id, r.queue, r.attempt, r.event_seq
  ), ended_live as (
    delete from tidebase.live_runs l using completed c where l.ctid = c.live_tid
  ), counted as (
    insert into tidebase.queue_counts (project, queue, status, runs)
    select project, queue, 'completed', count(*) from completed where queue is not null group by project, queue
  ), appended as (
    insert into tidebase.events (project, run_id, seq, type, payload)
    select project, id, event_seq, 'run.completed', json_build_object('attempt', attempt) from completed
  )
  select i, 'completed' as action, queue as in_queue from completed`,
  { simple: true },
)

/** Ends a run with its result. @throws ApiError `run_not_found`, `lease_lost` */
export async function completeRun(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['completeRun']>,
): Promise<ReplyOf<Routes['completeRun']>> {
  const { leaseOwner: owner, result, brief } = body
  if (brief && owner) {
    const fresh = await submit(engine, freshCompletions, { project: caller.project, run, owner, result })
    if (fresh.action === 'completed') return completed(engine, caller, run, fresh)
  }
  const row = await submit(engine, completions, { project: caller.project, run, owner, result, brief })
  refuse(row.action)
  if (row.action === 'unchanged') {
    const now = await readRun(engine.db.hot, caller, run)
    return brief ? { status: now.status } : { run: toRun(now) }
  }
  const reply = completed(engine, caller, run, row)
  return brief ? reply : { run: toRun(row) }
}

function completed(
  engine: Engine,
  { project }: Caller,
  run: string,
  { in_queue: queue }: { in_queue: string | null },
): { status: 'completed' } {
  engine.wakeups.run(project, run)
  if (queue !== null) engine.wakeups.freed(project, queue)
  return { status: 'completed' }
}

/** SQL: how a failed or expired attempt goes on; needs `decided` with action `failed` or `requeued`, error, failure_class, run_at. */
const endAttempts = (reason: string, lastOwner: string) => `ended as (
    update tidebase.runs r set
      status = case d.action when 'requeued' then 'queued' else 'failed' end,
      run_at = case d.action when 'requeued' then d.next_run_at else r.run_at end,
      error = d.error,
      failure_class = case when d.action = 'failed' then d.failure_class end,
      completed_at = case when d.action = 'failed' then now() end,
      lease_owner = null, lease_expires_at = null, last_owner = ${lastOwner}, claimed = false,
      event_seq = d.event_seq + 1 + case when d.calls then 1 else 0 end, updated_at = now()
    from decided d where r.ctid = d.tid and d.action in ('failed', 'requeued')
    returning r.*
  ), counted as (
    insert into tidebase.queue_counts (project, queue, status, runs)
    select project, queue, 'failed', count(*) from decided
    where action = 'failed' and queue is not null group by project, queue
  ), ${keepLive('ended')}, ${endLive("(select * from ended where status = 'failed')")}, recovering as (
    insert into tidebase.deliveries (project, run_id, kind, reason, url)
    select project, id, 'recovery', '${reason}', recovery_webhook from decided where calls
  ), news as materialized (
    select project, id as run, event_seq + 1 as seq, 'run.' || action as type,
      case action when 'requeued' then json_build_object(
        'error', error, 'attempt', attempt, 'maxAttempts', max_attempts, 'nextRunAt', next_run_at)
      else json_build_object('error', error, 'failureClass', failure_class) end as payload
    from decided where action in ('failed', 'requeued')
    union all
    select project, id, event_seq + 2, 'recovery.started', json_build_object('reason', '${reason}')
    from decided where calls
  ), ${appendEvents}
  select d.i, d.action, d.calls, r.* from decided d
  left join ended r on r.project = d.project and r.id = d.id and d.action in ('failed', 'requeued')`

type EndedRow = RunRow & { calls: boolean }

const failures = statement<RunCall & { owner?: string | null; error: string; failure_class?: string | null }, EndedRow>(
  'runs.fail',
  ['project integer', 'run uuid', 'owner text', 'error text', 'failure_class text'],
  `${lockRuns}, judged as materialized (
    select c.i, c.owner, c.error,
      case when l.queue is not null and l.max_attempts > 1 then 'max_retries' else c.failure_class end as failure_class,
      l.*, case
      ${endGuard(`'failed', 'queued'`)}
      when l.queue is not null and l.attempt < l.max_attempts then 'requeued'
      else 'failed' end as action
    from calls c left join locked l on l.project = c.project and l.id = c.run
  ), decided as materialized (
    select j.*, action = 'failed' and recovery_webhook is not null as calls,
      now() + least(300, 5 * power(2, least(attempt, 10) - 1)) * interval '1 second' as next_run_at
    from judged j
  ), ${endAttempts('run_failed', 'coalesce(d.owner, d.lease_owner)')}`,
)

/** Ends an attempt with an error. @throws ApiError `run_not_found`, `lease_lost` */
export async function failRun(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['failRun']>,
): Promise<ReplyOf<Routes['failRun']>> {
  const row = await submit(engine, failures, {
    project: caller.project,
    run,
    owner: body.leaseOwner,
    error: body.error,
    failure_class: body.failureClass,
  })
  refuse(row.action)
  if (row.action === 'unchanged') {
    const known = await readRun(engine.db.hot, caller, run)
    return { run: toRun(known), requeued: known.status === 'queued' }
  }
  ended(engine, caller.project, row)
  return { run: toRun(row), requeued: row.action === 'requeued' }
}

function ended(engine: Engine, project: number, row: EndedRow): void {
  engine.wakeups.run(project, row.id.replaceAll('-', ''))
  if (row.queue !== null) engine.wakeups.freed(project, row.queue)
  if (row.calls) engine.wakeups.outbox()
}

// The lease of `calls` ran out: look again under the lock, because its owner may have come back.
const expiries = statement<RunCall & { lease_ms: number }, EndedRow>(
  'runs.expire',
  ['project integer', 'run uuid', 'lease_ms double precision'],
  `${lockRuns}, judged as materialized (
    select c.i, c.lease_ms, null::text as owner, 'The worker’s lease ran out.' as error, 'max_retries' as failure_class,
      l.*, case
      when l.id is null then 'missing'
      when not l.fresh then 'again'
      when l.status <> 'running' or l.lease_expires_at > now() then 'unchanged'
      when l.queue is not null then case when l.attempt < l.max_attempts then 'requeued' else 'failed' end
      when o.orphaned_at > now() - c.lease_ms * interval '1 ms' then 'unchanged'
      else 'orphaned' end as action
    from calls c left join locked l on l.project = c.project and l.id = c.run
    left join lateral (
      select v.orphaned_at from tidebase.live_runs v where ${liveIs('v', 'l.project', 'l.id')} offset 0
    ) o on true
  ), decided as materialized (
    select j.*, action in ('failed', 'orphaned') and recovery_webhook is not null as calls, now() as next_run_at
    from judged j
  ), orphaned as (
    update tidebase.runs r set event_seq = d.event_seq + case when d.calls then 1 else 0 end
    from decided d where r.ctid = d.tid and d.action = 'orphaned'
    returning r.project, r.id
  ), ${orphanLive('orphaned', true)}, ${endAttempts('lease_expired', 'null').replace("event_seq + 2, 'recovery.started'", "event_seq + case action when 'failed' then 2 else 1 end, 'recovery.started'")}`,
)

/**
 * Ends the attempt of a run whose lease ran out: a queue run is queued again or fails, a run with a recovery webhook
 * gets a call (one per lease window), any other waits for somebody to resume it.
 */
export async function expireLease(engine: Engine, project: number, run: string): Promise<void> {
  const row = await submit(engine, expiries, { project, run, lease_ms: engine.settings.leaseMs })
  if (row.action === 'requeued' || row.action === 'failed') ended(engine, project, row)
  if (row.action === 'requeued' && row.queue !== null) engine.wakeups.queued(project, row.queue)
  if (row.calls) engine.wakeups.outbox()
}
