// Park and wake: a run that waits for a gate, a timer or a signal needs no worker, no lease and no connection.
//
//   running ─park→ waiting ─what it waits for ends→ queued (queue runs, at once) | pending (others; their webhook is called)
//
// Whatever ends a gate or a wait wakes the run in the same statement (`wakeParked`), under the run's lock: a run cannot
// be parked between that and its own look, so no wake-up is lost. Waking uses no attempt.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { statement } from './coalesce.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { appendEvents, lockRuns } from './events.ts'
import { keepLive } from './live-runs.ts'
import { type RunRow, readRun, refuse, toRun } from './runs.ts'

const parks = statement<{ project: number; run: string; owner: string; reason?: string | null; on: string[] }, RunRow>(
  'runs.park',
  ['project integer', 'run uuid', 'owner text', 'reason text', '"on" json'],
  `${lockRuns}, looked as materialized (
    select c.i, exists (
        select from tidebase.waits w where w.project = c.project and w.run_id = c.run
          and w.id = any (ids.ids) and w.status <> 'pending'
        union all
        select from tidebase.gates g where g.project = c.project and g.run_id = c.run
          and g.id = any (ids.ids) and g.status <> 'pending'
        union all
        select from tidebase.steps s where s.project = c.project and s.run_id = c.run
          and s.id = any (ids.ids) and s.status <> 'manual_review'
      ) as over, exists (
        select from tidebase.waits w where w.project = c.project and w.run_id = c.run and w.id = any (ids.ids)
        union all
        select from tidebase.gates g where g.project = c.project and g.run_id = c.run and g.id = any (ids.ids)
        union all
        select from tidebase.steps s where s.project = c.project and s.run_id = c.run and s.id = any (ids.ids)
      ) as any
    from calls c cross join lateral (
      select array_agg(e::uuid) as ids from json_array_elements_text(c."on") e
    ) ids
  ), decided as materialized (
    select c.i, c.owner, c.reason, l.*, case
      when l.id is null then 'missing'
      when not l.fresh or row_number() over (partition by c.project, c.run order by c.i) > 1 then 'again'
      when l.status = 'cancelled' then 'cancelled'
      when l.status in ('waiting', 'queued', 'pending') and l.last_owner = c.owner and l.claimed then 'unchanged'
      when l.status <> 'running' or l.lease_owner is distinct from c.owner then 'lease_lost'
      when k.over or not k.any then 'continue'
      else 'parked' end as action
    from calls c join looked k using (i) left join locked l on l.project = c.project and l.id = c.run
  ), parked as (
    update tidebase.runs r set status = 'waiting', lease_owner = null, lease_expires_at = null, last_owner = d.owner,
      claimed = true, event_seq = d.event_seq + 1, updated_at = now()
    from decided d where r.ctid = d.tid and d.action = 'parked'
    returning r.*
  ), ${keepLive('parked')}, news as materialized (
    select project, id as run, event_seq + 1 as seq, 'run.waiting' as type,
      json_build_object('reason', reason, 'leaseOwner', owner) as payload
    from decided where action = 'parked'
  ), ${appendEvents}
  select d.i, d.action, r.* from decided d
  left join parked r on r.project = d.project and r.id = d.id and d.action = 'parked'`,
)

/**
 * Gives a run up until one of the things it waits for is over.
 *
 * @throws ApiError `run_not_found`, `run_cancelled`, `lease_lost`
 */
export async function parkRun(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['parkRun']>,
): Promise<ReplyOf<Routes['parkRun']>> {
  // Ids carry their kind in front; anything else names nothing and so cannot be waited for.
  const on = body.waitingFor.map((id) => id.slice(id.indexOf('_') + 1)).filter((id) => /^[0-9a-f]{32}$/.test(id))
  const call = { project: caller.project, run, owner: body.leaseOwner, reason: body.reason, on }
  const row = await submit(engine, parks, call)
  refuse(row.action)
  if (row.action !== 'parked') {
    const known = toRun(await readRun(engine.db.hot, caller, run))
    return { action: row.action === 'continue' ? 'continue' : 'parked', run: known }
  }
  engine.wakeups.run(caller.project, run)
  if (row.queue !== null) engine.wakeups.freed(caller.project, row.queue)
  return { action: 'parked', run: toRun(row) }
}

/**
 * SQL: moves the event numbers of the runs in `numbered (project, run, tid, seq)` and wakes those that are parked:
 * gives `woken (project, run, seq, queue, calls)`; `wakeNews` are its events, for `news`.
 */
export const wakeParked = `woken as materialized (
    select l.project, l.id as run, l.tid, l.queue, l.recovery_webhook, n.last + 1 as seq,
      l.queue is null and l.recovery_webhook is not null as calls
    from (select tid, max(seq) as last from numbered group by tid) n join locked l on l.tid = n.tid
    where l.status = 'waiting'
  ), bumped as (
    update tidebase.runs r set event_seq = n.last, updated_at = now(),
      status = case when n.wakes then case when r.queue is null then 'pending' else 'queued' end else r.status end,
      run_at = case when n.wakes and r.queue is not null then now() else r.run_at end
    from (
      select tid, max(seq) as last, bool_or(wakes) as wakes from (
        select tid, seq, false as wakes from numbered
        union all select tid, seq + case when calls then 1 else 0 end, true from woken
      ) s group by tid
    ) n where r.ctid = n.tid
    returning r.*, n.wakes
  ), ${keepLive('(select * from bumped where wakes)')}, resuming as (
    insert into tidebase.deliveries (project, run_id, kind, reason, url)
    select project, run, 'recovery', 'wait_over', recovery_webhook from woken where calls
  )`

/** SQL: the events of `woken`. */
export const wakeNews = `
    union all
    select project, run, seq, 'run.resumed', json_build_object('queue', queue) from woken
    union all
    select project, run, seq + 1, 'recovery.started', json_build_object('reason', 'wait_over') from woken where calls`

/** SQL: what a statement with `decided d` selects besides, for `announceWake`; goes with `joinWoken`. */
export const wokenColumns = 'k.queue as woken_queue, coalesce(k.calls, false) as woken_calls'
export const joinWoken = 'left join woken k on k.project = d.project and k.run = d.run'

/** What `wokenColumns` give. */
export interface Woken {
  woken_queue: string | null
  woken_calls: boolean
}

/** Tells whoever waits for work, and those who watch the run. */
export function announceWake(engine: Engine, { project, run }: { project: number; run: string }, woken: Woken): void {
  engine.wakeups.run(project, run)
  engine.wakeups.outbox()
  if (woken.woken_queue !== null) engine.wakeups.queued(project, woken.woken_queue)
}
