// Cancel: for good, and with the run its live children and theirs.
//
// The edges to the children are marked in the commit that cancels the parent, so that a crash leaves no child running:
// whoever looks next (this call, or any server's reconciler) goes through all that are marked.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { statement } from './coalesce.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { ApiError } from './errors.ts'
import { appendEvents, lockRuns } from './events.ts'
import { endLive } from './live-runs.ts'
import { type RunRow, readRun, toRun } from './runs.ts'

const cancellations = statement<
  { project: number; run: string; reason?: string | null; actor?: string | null; budget: boolean },
  RunRow & { parent: boolean }
>(
  'runs.cancel',
  ['project integer', 'run uuid', 'reason text', 'actor text', 'budget boolean'],
  `${lockRuns}, decided as materialized (
    select c.i, c.reason, c.actor, c.budget, l.*, case
      when l.id is null then 'missing'
      when not l.fresh or row_number() over (partition by c.project, c.run order by c.i) > 1 then 'again'
      when l.status = 'cancelled' then 'unchanged'
      when l.status = 'completed' then 'completed'
      else 'cancelled' end as action
    from calls c left join locked l on l.project = c.project and l.id = c.run
  ), cancelled as (
    update tidebase.runs r set status = 'cancelled', cancel_requested_at = now(), cancelled_at = now(),
      cancel_reason = d.reason, cancel_actor = d.actor, lease_owner = null, lease_expires_at = null,
      last_owner = d.lease_owner, claimed = false,
      event_seq = d.event_seq + case when d.budget then 2 else 1 end, completed_at = now(), updated_at = now()
    from decided d where r.ctid = d.tid and d.action = 'cancelled'
    returning r.*
  ), ${endLive('cancelled')}, closed as (
    -- Nobody decides the gates of a cancelled run, the clock neither.
    update tidebase.gates g set timeout_at = null from cancelled c
    where g.project = c.project and g.run_id = c.id and g.resolved_at is null and g.timeout_at is not null
  ), orphaned as (
    -- In the same commit, so that a crash in between leaves no child running.
    update tidebase.edges e set cancelling = true from cancelled c
    where e.project = c.project and e.parent_run_id = c.id
    returning e.parent_run_id
  ), counted as (
    insert into tidebase.queue_counts (project, queue, status, runs)
    select project, queue, 'cancelled', count(*) from cancelled where queue is not null group by project, queue
    union all
    select project, queue, 'failed', -count(*) from decided
    where action = 'cancelled' and status = 'failed' and queue is not null group by project, queue
  ), news as materialized (
    select project, id as run, event_seq as seq, 'run.cancelled' as type,
      json_build_object('reason', cancel_reason, 'actor', cancel_actor) as payload from cancelled
    union all
    select project, id, event_seq + 1, 'run.budget_exceeded', '{}'::json from decided
    where action = 'cancelled' and budget
  ), ${appendEvents}
  select d.i, d.action, exists (select from orphaned o where o.parent_run_id = d.id) as parent, r.* from decided d
  left join cancelled r on r.project = d.project and r.id = d.id and d.action = 'cancelled'`,
)

type CancelCall = Required<typeof cancellations>['call']

/** @returns null when it is cancelled already */
async function cancel(engine: Engine, call: CancelCall): Promise<(RunRow & { parent: boolean }) | null> {
  const row = await submit(engine, cancellations, call)
  if (row.action === 'missing') throw new ApiError('run_not_found')
  if (row.action === 'completed') throw new ApiError('run_completed')
  if (row.action === 'unchanged') return null
  engine.wakeups.run(call.project, call.run)
  if (row.queue !== null) engine.wakeups.freed(call.project, row.queue)
  return row
}

/** Cancels a run for good. `budget`: because it has used up too much. @throws ApiError `run_not_found`, `run_completed` */
export async function cancelRun(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['cancelRun']>,
  budget = false,
): Promise<ReplyOf<Routes['cancelRun']>> {
  const call = { project: caller.project, run, reason: body.reason, actor: body.actor, budget }
  const row = await cancel(engine, call)
  if (row?.parent) await cancelChildren(engine)
  return { run: toRun(row ?? (await readRun(engine.db.hot, caller, run))) }
}

const batch = 500

/** Cancels the live children of cancelled runs, generation by generation. Called by the reconciler too. */
export async function cancelChildren(engine: Engine): Promise<void> {
  for (;;) {
    const edges = await engine.db.cold.query<{ project: number; parent: string; id: string; child: string }>(
      `select project, parent_run_id as parent, id, replace(child_run_id::text, '-', '') as child from tidebase.edges
        where cancelling order by created_at limit ${batch}`,
    )
    if (edges.length === 0) return
    const outcomes = await Promise.allSettled(edges.map(({ project, child }) => cancelChild(engine, project, child)))
    // What another server has in hand it will mark itself.
    await engine.db.cold.query(
      `update tidebase.edges e set cancelling = false from (
        select e.ctid as tid from json_to_recordset($1::text::json) as d(project integer, parent uuid, id uuid)
        join tidebase.edges e on e.project = d.project and e.parent_run_id = d.parent and e.id = d.id
        where e.cancelling for no key update of e skip locked
      ) d where e.ctid = d.tid`,
      [JSON.stringify(edges.filter((_, n) => outcomes[n]?.status === 'fulfilled'))],
    )
    const failed = outcomes.find((each) => each.status === 'rejected')
    if (failed) throw failed.reason
  }
}

async function cancelChild(engine: Engine, project: number, run: string): Promise<void> {
  const call = { project, run, reason: 'parent_cancelled', actor: 'parent', budget: false }
  await cancel(engine, call).catch((error) => {
    // It ended by itself, or is gone.
    if (!(error instanceof ApiError && /^run_(completed|not_found)$/.test(error.code))) throw error
  })
}
