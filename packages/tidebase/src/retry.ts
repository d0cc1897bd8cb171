// Retry: a failed run is put back by a person or a program. Its checkpoints stay, one more attempt is allowed.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { statement } from './coalesce.ts'
import { DatabaseError, sqlStates } from './db.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { ApiError } from './errors.ts'
import { appendEvents, lockRuns } from './events.ts'
import { keepLive } from './live-runs.ts'
import { type RunRow, refuse, toRun } from './runs.ts'

const retries = statement<{ project: number; run: string; actor?: string | null }, RunRow>(
  'runs.retry',
  ['project integer', 'run uuid', 'actor text'],
  `${lockRuns}, decided as materialized (
    select c.i, c.actor, l.*, case
      when l.id is null then 'missing'
      when not l.fresh or row_number() over (partition by c.project, c.run order by c.i) > 1 then 'again'
      when l.status <> 'failed' then 'not_failed'
      else 'retried' end as action
    from calls c left join locked l on l.project = c.project and l.id = c.run
  ), retried as (
    update tidebase.runs r set status = case when r.queue is null then 'pending' else 'queued' end,
      max_attempts = greatest(r.max_attempts, r.attempt + 1), run_at = case when r.queue is not null then now() end,
      error = null, failure_class = null, completed_at = null, event_seq = d.event_seq + 1, updated_at = now()
    from decided d where r.ctid = d.tid and d.action = 'retried'
    returning r.*
  ), counted as (
    insert into tidebase.queue_counts (project, queue, status, runs)
    select project, queue, 'failed', -count(*) from retried where queue is not null group by project, queue
  ), ${keepLive('retried')}, news as materialized (
    select project, id as run, event_seq + 1 as seq, 'run.retried' as type, json_build_object('actor', actor) as payload
    from decided where action = 'retried'
  ), ${appendEvents}
  select d.i, d.action, r.* from decided d
  left join retried r on r.project = d.project and r.id = d.id and d.action = 'retried'`,
)

/** Puts a failed run back. @throws ApiError `run_not_found`, `run_not_failed`, `dedupe_conflict` */
export async function retryRun(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['retryRun']>,
): Promise<ReplyOf<Routes['retryRun']>> {
  const row = await submit(engine, retries, { project: caller.project, run, actor: body.actor }).catch((error) => {
    // Its dedupe key is another's by now.
    const taken = error instanceof DatabaseError && error.sqlState === sqlStates.uniqueViolation
    throw taken ? new ApiError('dedupe_conflict') : error
  })
  refuse(row.action)
  if (row.action === 'not_failed') throw new ApiError('run_not_failed')
  engine.wakeups.run(caller.project, run)
  if (row.queue !== null) engine.wakeups.queued(caller.project, row.queue)
  return { run: toRun(row) }
}
