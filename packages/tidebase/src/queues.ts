// Queues: enqueue, claim, list, configure. A job is a run in status `queued`.
//
// Claims are disjoint because each locks what it takes and skips what others have locked. Caps hold across servers
// because a claim from a capped queue holds the lock on the queue's row while it counts and takes.
// No claim reads finished or delayed runs: within one priority, ready runs come first in the index, and priorities are
// skipped through one probe at a time.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { statement } from './coalesce.ts'
import type { Queryable } from './db.ts'
import type { Caller, Engine } from './engine.ts'
import { appendEvents } from './events.ts'
import { newId, wireId } from './ids.ts'
import { insertRun, newRun, type RunRow, toRun } from './runs.ts'
import { readCheckpoints } from './steps.ts'
import { checkWebhookTarget } from './target.ts'
import { slowPollMs, waitFor } from './wait.ts'

type QueueConfig = ReplyOf<Routes['configureQueue']>['config']

/** Creates a run that waits in a queue. @throws ApiError `run_conflict`, `webhook_target_refused` */
export async function enqueue(
  engine: Engine,
  caller: Caller,
  queue: string,
  body: BodyOf<Routes['enqueue']>,
): Promise<ReplyOf<Routes['enqueue']>> {
  const { row, deduplicated } = await insertRun(engine, newRun(engine, caller, body.workflowName, body, queue))
  return { run: toRun(row), deduplicated }
}

/**
 * Creates several runs that wait in a queue. Each is made or found by itself: a job that is refused refuses the call,
 * which may be repeated.
 *
 * @throws ApiError `run_conflict`, `webhook_target_refused`
 */
export async function enqueueBatch(
  engine: Engine,
  caller: Caller,
  queue: string,
  body: BodyOf<Routes['enqueueBatch']>,
): Promise<ReplyOf<Routes['enqueueBatch']>> {
  // Made first, so that nothing is written when the target of one is refused. They leave together: one statement for
  // up to 256 of them.
  const calls = body.jobs.map((job) => newRun(engine, caller, job.workflowName, job, queue))
  const jobs = await Promise.all(calls.map((call) => insertRun(engine, call)))
  return { jobs: jobs.map(({ row, deduplicated }) => ({ run: toRun(row), deduplicated })) }
}

/** Pauses a queue or lets it go on. */
export async function setPaused(
  engine: Engine,
  caller: Caller,
  queue: string,
  paused: boolean,
): Promise<ReplyOf<Routes['pauseQueue']>> {
  const [row] = await engine.db.cold.query<ConfigRow>(
    `insert into tidebase.queues as q (project, name, paused) values ($1, $2, $3)
    on conflict (project, name) do update set paused = excluded.paused, updated_at = now() returning *`,
    [caller.project, queue, paused],
  )
  if (!row) throw new Error('the configuration was not returned')
  if (!paused) engine.wakeups.queued(caller.project, queue)
  return { config: toConfig(row) }
}

/** SQL: the priorities that queued runs of `room` have, highest first, one index probe each. */
const levels = `with recursive levels as (
      (select r.priority from tidebase.runs r
        where r.project = room.project and r.queue = room.queue and r.status = 'queued'
        order by r.priority desc limit 1)
      union all
      select (select r.priority from tidebase.runs r
        where r.project = room.project and r.queue = room.queue and r.status = 'queued' and r.priority < l.priority
        order by r.priority desc limit 1)
      from levels l where l.priority is not null
    )`

// All calls of a batch name the same project and queues; what is picked is dealt out to them in order.
const claims = statement<
  { project: number; queues: string[]; owner: string; lease_ms: number; max: number },
  RunRow & { next_in_ms: number | null; capped: boolean }
>(
  'queues.claim',
  ['project integer', 'queues json', 'owner text', 'lease_ms double precision', 'max integer'],
  `slots as materialized (
    select i, owner, lease_ms, sum(max) over (order by i) - max as after, sum(max) over (order by i) as upto from calls
  ), asked as materialized (
    select (select project from calls limit 1) as project, (select sum(max) from calls)::integer as total
  ), names as materialized (
    select distinct n as queue from (select queues from calls limit 1) c, json_array_elements_text(c.queues) n order by n
  ), capped as materialized (
    select l.*, l.version = s.version as fresh
    from names n
    cross join lateral (
      select q.ctid as tid, q.xmin as version, q.name, q.concurrency, q.rate_per_minute, q.paused
      from tidebase.queues q, asked a
      where q.project = a.project and q.name = n.queue
        and (q.concurrency is not null or q.rate_per_minute is not null or q.paused)
      for no key update of q
    ) l
    cross join lateral (
      select q.xmin as version from tidebase.queues q, asked a where q.project = a.project and q.name = n.queue offset 0
    ) s
  ), stale as materialized (select from capped where not fresh
  ), room as materialized (
    select a.project, n.queue, least(
      case when c.paused then 0 else a.total end,
      c.concurrency - case when c.concurrency is not null then (select count(*) from tidebase.runs r
        where r.project = a.project and r.queue = n.queue and r.status = 'running') end,
      c.rate_per_minute - case when c.rate_per_minute is not null then (select coalesce(sum(q.claims), 0)
        from tidebase.queue_claims q
        where q.project = a.project and q.queue = n.queue and q.at > now() - interval '1 minute') end
    ) as room
    from names n cross join asked a left join capped c on c.name = n.queue
    where not exists (select from stale)
  ), picked as materialized (
    select p.* from room cross join lateral (
      ${levels}
      select r.* from levels l cross join lateral (
        select r.ctid as tid, r.id, r.priority, r.run_at from tidebase.runs r
        where r.project = room.project and r.queue = room.queue and r.status = 'queued'
          and r.priority = l.priority and r.run_at <= now()
        order by r.run_at limit greatest(room.room, 0) for no key update skip locked
      ) r where l.priority is not null limit greatest(room.room, 0)
    ) p where room.room > 0
  ), chosen as materialized (
    select p.*, row_number() over (order by priority desc, run_at, id) as n from picked p
    order by n limit (select total from asked)
  ), claimed as materialized (
    update tidebase.runs r set status = 'running', lease_owner = s.owner,
      lease_expires_at = now() + s.lease_ms * interval '1 ms', attempt = r.attempt + case when r.claimed then 0 else 1 end,
      claimed = true,
      orphaned_at = null, event_seq = r.event_seq + 1, updated_at = now()
    from chosen c join slots s on c.n > s.after and c.n <= s.upto
    where r.ctid = c.tid
    returning s.i as call, r.*
  ), counted as (
    update tidebase.queues q set updated_at = now() from capped c
    where q.ctid = c.tid and c.name in (select queue from claimed)
  ), rated as (
    insert into tidebase.queue_claims (project, queue, at, claims)
    select k.project, k.queue, now(), count(*) from claimed k join capped c on c.name = k.queue
    where c.rate_per_minute is not null group by k.project, k.queue
  ), locked as materialized (select project, id, has_channels from claimed
  ), news as materialized (
    select project, id as run, event_seq as seq, 'run.claimed' as type,
      json_build_object('leaseOwner', lease_owner, 'queue', queue, 'attempt', attempt) as payload from claimed
  ), ${appendEvents}, upcoming as (
    select min(u.run_at) as at from room cross join lateral (
      ${levels}
      select r.run_at from levels l cross join lateral (
        select r.run_at from tidebase.runs r
        where r.project = room.project and r.queue = room.queue and r.status = 'queued'
          and r.priority = l.priority and r.run_at > now()
        order by r.run_at limit 1
      ) r where l.priority is not null
    ) u
  )
  select s.i, case when exists (select from stale) then 'again' else 'claimed' end as action,
    case when k.id is null then (select extract(epoch from at - now()) * 1000 from upcoming) end as next_in_ms,
    exists (select from capped) as capped, k.*
  from slots s left join claimed k on k.call = s.i`,
)

/**
 * Takes ready runs of some queues, waiting up to `waitMs` for the first.
 *
 * @param signals end the wait early: the client went away, the server stops
 */
export async function claim(
  engine: Engine,
  caller: Caller,
  body: BodyOf<Routes['claim']>,
  signals: readonly AbortSignal[],
): Promise<ReplyOf<Routes['claim']>> {
  const { project } = caller
  const owner = body.leaseOwner || `worker_${newId()}`
  const queues = [...new Set(body.queues)].sort()
  const group = JSON.stringify([project, ...queues])
  const call = { project, queues, owner, lease_ms: engine.settings.leaseMs, max: body.limit ?? 1 }
  let capped = false
  const rows = await waitFor({
    look: async () => {
      const rows = await engine.coalescers.submit(claims, call, group)
      capped = rows[0]?.capped ?? false
      return rows
    },
    enough: (rows) => rows[0]?.id != null,
    subscribe: (wake) => {
      const unsubscribe = queues.flatMap((queue) => [
        engine.wakeups.onQueue(project, queue, wake),
        engine.wakeups.onFreed(project, queue, () => capped && wake()),
      ])
      return () => {
        for (const each of unsubscribe) each()
      }
    },
    waitMs: body.waitMs ?? 0,
    signals,
    // A delayed run is claimed when it is due, not at the next look.
    soonerMs: (rows) => (rows[0]?.next_in_ms == null ? slowPollMs : rows[0].next_in_ms + 1),
  })
  const claimed = rows.filter((row) => row.id != null).sort((a, b) => b.priority - a.priority || runAt(a) - runAt(b))
  for (const row of claimed) engine.wakeups.run(project, row.id.replaceAll('-', ''))
  const reply = { runs: claimed.map(toRun), leaseOwner: owner }
  if (!body.include?.includes('checkpoints')) return reply
  // A run that was only enqueued and claimed has no steps yet.
  const resumed = claimed.filter((row) => row.event_seq > 2)
  const checkpoints = await Promise.all(
    resumed.map(async (row) => [wireId('run', row.id), await readCheckpoints(engine.db.hot, project, row.id)] as const),
  )
  return { ...reply, checkpoints: Object.fromEntries(checkpoints) }
}

const runAt = (row: RunRow) => row.run_at?.getTime() ?? 0

interface ConfigRow {
  name: string
  concurrency: number | null
  rate_per_minute: number | null
  invoke_url: string | null
  paused: boolean
}

function toConfig(row: ConfigRow): QueueConfig {
  return {
    name: row.name,
    concurrency: row.concurrency,
    ratePerMinute: row.rate_per_minute,
    invokeUrl: row.invoke_url,
    paused: row.paused,
  }
}

/** Every queue that has runs or a configuration. Its cost does not grow with finished runs. */
export async function listQueues(db: Queryable, caller: Caller): Promise<ReplyOf<Routes['listQueues']>> {
  const rows = await db.query<
    ConfigRow & { configured: boolean } & Record<'queued' | 'running' | 'failed' | 'completed' | 'cancelled', number>
  >(
    `with counts as (
      select queue, 'queued' as status, count(*) as runs from tidebase.runs
        where project = $1 and status = 'queued' and queue is not null group by queue
      union all select queue, 'running', count(*) from tidebase.runs
        where project = $1 and status = 'running' and queue is not null group by queue
      union all select queue, status, sum(runs) from tidebase.queue_counts where project = $1 group by queue, status
    )
    select coalesce(c.queue, q.name) as name, q.name is not null as configured, q.concurrency, q.rate_per_minute,
      q.invoke_url, q.paused,
      coalesce(sum(c.runs) filter (where c.status = 'queued'), 0) as queued,
      coalesce(sum(c.runs) filter (where c.status = 'running'), 0) as running,
      coalesce(sum(c.runs) filter (where c.status = 'failed'), 0) as failed,
      coalesce(sum(c.runs) filter (where c.status = 'completed'), 0) as completed,
      coalesce(sum(c.runs) filter (where c.status = 'cancelled'), 0) as cancelled
    from counts c full join (select * from tidebase.queues where project = $1) q on q.name = c.queue
    group by coalesce(c.queue, q.name), q.name, q.concurrency, q.rate_per_minute, q.invoke_url, q.paused
    order by 1`,
    [caller.project],
  )
  return {
    queues: rows.map((row) => ({
      name: row.name,
      queued: row.queued,
      running: row.running,
      failed: row.failed,
      completed: row.completed,
      cancelled: row.cancelled,
      config: row.configured ? toConfig(row) : null,
    })),
  }
}

/** Folds the counts that were appended since the last time into one row per queue and status. Called by the reconciler. */
export async function foldQueueCounts(db: Queryable): Promise<void> {
  await db.query(
    `with crowded as (
      select project, queue, status from tidebase.queue_counts group by project, queue, status having count(*) > 20
    ), taken as (
      delete from tidebase.queue_counts c using (
        select c.ctid as tid from tidebase.queue_counts c join crowded using (project, queue, status)
        for update of c skip locked
      ) t where c.ctid = t.tid returning c.*
    )
    insert into tidebase.queue_counts (project, queue, status, runs)
    select project, queue, status, sum(runs) from taken group by project, queue, status`,
  )
  await db.query(`delete from tidebase.queue_claims where at < now() - interval '2 minutes'`)
}

/** Sets the caps and the push address of a queue. @throws ApiError `webhook_target_refused` */
export async function configureQueue(
  engine: Engine,
  caller: Caller,
  queue: string,
  body: BodyOf<Routes['configureQueue']>,
): Promise<ReplyOf<Routes['configureQueue']>> {
  if (body.invokeUrl) checkWebhookTarget(engine.settings, body.invokeUrl, 'invokeUrl')
  // An absent field keeps its value; null clears it.
  const [row] = await engine.db.cold.query<ConfigRow>(
    `insert into tidebase.queues as q (project, name, concurrency, rate_per_minute, invoke_url) values ($1, $2, $3, $4, $5)
    on conflict (project, name) do update set
      concurrency = case when $6 then excluded.concurrency else q.concurrency end,
      rate_per_minute = case when $7 then excluded.rate_per_minute else q.rate_per_minute end,
      invoke_url = case when $8 then excluded.invoke_url else q.invoke_url end,
      updated_at = now()
    returning *`,
    [
      caller.project,
      queue,
      body.concurrency ?? null,
      body.ratePerMinute ?? null,
      body.invokeUrl ?? null,
      body.concurrency !== undefined,
      body.ratePerMinute !== undefined,
      body.invokeUrl !== undefined,
    ],
  )
  if (!row) throw new Error('the configuration was not returned')
  // A wider cap may let waiting claims through.
  engine.wakeups.queued(caller.project, queue)
  return { config: toConfig(row) }
}
