// Queues: list, configure, pause. A job is a run in status `queued`; making one is in enqueue.ts, taking one in claims.ts.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import type { Queryable } from './db.ts'
import type { Caller, Engine } from './engine.ts'
import { checkWebhookTarget } from './target.ts'

type QueueConfig = ReplyOf<Routes['configureQueue']>['config']

/** Pauses a queue or lets it go on. Once a pause is answered nothing is claimed any more. */
export async function setPaused(
  engine: Engine,
  caller: Caller,
  queue: string,
  paused: boolean,
): Promise<ReplyOf<Routes['pauseQueue']>> {
  const row = await engine.db.transaction(async (tx) => {
    // Claims from a queue without a configuration lock no row. Every claim names the table before it takes its
    // snapshot: this waits for those under way, and those that follow see the pause.
    if (paused) await tx.query('lock table tidebase.queues in exclusive mode')
    const [row] = await tx.query<ConfigRow>(
      `insert into tidebase.queues as q (project, name, paused) values ($1, $2, $3)
      on conflict (project, name) do update set paused = excluded.paused, updated_at = now() returning *`,
      [caller.project, queue, paused],
    )
    return row
  })
  if (!row) throw new Error('the configuration was not returned')
  if (!paused) engine.wakeups.queued(caller.project, queue)
  return { config: toConfig(row) }
}

interface ConfigRow {
  name: string
  concurrency: number | null
  rate_per_minute: number | null
  per_key_concurrency: number | null
  invoke_url: string | null
  paused: boolean
}

function toConfig(row: ConfigRow): QueueConfig {
  return {
    name: row.name,
    concurrency: row.concurrency,
    ratePerMinute: row.rate_per_minute,
    perKeyConcurrency: row.per_key_concurrency,
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
      select queue, 'queued' as status, count(*) as runs from tidebase.live_runs
        where project = $1 and status = 'queued' and queue is not null group by queue
      union all select queue, 'running', count(*) from tidebase.live_runs
        where project = $1 and status = 'running' and queue is not null group by queue
      union all select queue, status, sum(runs) from tidebase.queue_counts where project = $1 group by queue, status
    )
    select coalesce(c.queue, q.name) as name, q.name is not null as configured, q.concurrency, q.rate_per_minute,
      q.per_key_concurrency, q.invoke_url, q.paused,
      coalesce(sum(c.runs) filter (where c.status = 'queued'), 0) as queued,
      coalesce(sum(c.runs) filter (where c.status = 'running'), 0) as running,
      coalesce(sum(c.runs) filter (where c.status = 'failed'), 0) as failed,
      coalesce(sum(c.runs) filter (where c.status = 'completed'), 0) as completed,
      coalesce(sum(c.runs) filter (where c.status = 'cancelled'), 0) as cancelled
    from counts c full join (select * from tidebase.queues where project = $1) q on q.name = c.queue
    group by coalesce(c.queue, q.name), q.name, q.concurrency, q.rate_per_minute, q.per_key_concurrency, q.invoke_url,
      q.paused
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
    `insert into tidebase.queues as q (project, name, concurrency, rate_per_minute, invoke_url, per_key_concurrency)
    values ($1, $2, $3, $4, $5, $9)
    on conflict (project, name) do update set
      concurrency = case when $6 then excluded.concurrency else q.concurrency end,
      rate_per_minute = case when $7 then excluded.rate_per_minute else q.rate_per_minute end,
      invoke_url = case when $8 then excluded.invoke_url else q.invoke_url end,
      per_key_concurrency = case when $10 then excluded.per_key_concurrency else q.per_key_concurrency end,
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
      body.perKeyConcurrency ?? null,
      body.perKeyConcurrency !== undefined,
    ],
  )
  if (!row) throw new Error('the configuration was not returned')
  // A wider cap may let waiting claims through.
  engine.wakeups.queued(caller.project, queue)
  return { config: toConfig(row) }
}
