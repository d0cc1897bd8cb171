// Workers, as far as runs tell of them: who holds a lease, and who began an attempt lately.
import type { ReplyOf, Routes } from '@tidebase/wire'
import type { Caller, Engine } from './engine.ts'

/** Latest ids of events of all projects that are looked through, so that the cost does not grow with the log. */
const lookBack = 40_000

/** Lists the workers of the caller's project, those seen last first. */
export async function listWorkers(engine: Engine, caller: Caller): Promise<ReplyOf<Routes['listWorkers']>> {
  const rows = await engine.db.cold.query<{
    name: string
    running: number
    started: number
    workflows: string[]
    seen: Date
  }>(
    `with begun as (
      select e.payload->>'leaseOwner' as name, e.run_id, e.created_at as seen, 0 as running, 1 as started
      from tidebase.events e
      where e.project = $1 and e.id > (select coalesce(max(id), 0) from tidebase.events) - ${lookBack}
        and e.type in ('run.started', 'run.claimed')
    ), holding as (
      select r.lease_owner, r.id, greatest(r.lease_expires_at - $2 * interval '1 ms', r.created_at), 1, 0
      from tidebase.live_runs l join tidebase.runs r on r.id = l.run_id and r.project = l.project
      where l.project = $1 and l.status = 'running' and r.lease_owner is not null
    ), told as (select * from begun where name is not null union all select * from holding)
    select t.name, sum(t.running) as running, sum(t.started) as started, max(least(t.seen, now())) as seen,
      array_agg(distinct r.workflow_name) as workflows
    from told t join tidebase.runs r on r.project = $1 and r.id = t.run_id
    group by t.name order by max(t.seen) desc, t.name limit 500`,
    [caller.project, engine.settings.leaseMs],
  )
  return {
    workers: rows.map(({ seen, ...row }) => ({ ...row, lastSeenAt: seen.toISOString() })),
  }
}
