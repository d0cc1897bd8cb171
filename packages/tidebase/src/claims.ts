// Claims: workers take jobs.
//
// Claims are disjoint because each locks what it takes and skips what others have locked. Caps hold across servers
// because a claim from a capped or keyed queue holds the lock on the queue's row while it counts and takes.
// No claim reads finished or delayed runs: within one priority, ready runs come first in the index, and priorities are
// skipped through one probe at a time.
//
// Keys (tenants) take turns. From the key after the one that was last, a claim goes round the keys that have queued
// jobs, one probe each, until it has found as many as it may take jobs; those whose cap is reached are passed by without
// reading their jobs. There are no more of these than runs that are running. The jobs without a key take turns as one
// more key, which has no cap.
// That is a statement of its own, because most queues have no keys: the plain one notices where it does not do.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { statement } from './coalesce.ts'
import { Encoded, objectText } from './encoded.ts'
import type { Caller, Engine } from './engine.ts'
import { appendEvents } from './events.ts'
import { newId, wireId } from './ids.ts'
import { type RunRow, toRun } from './runs.ts'
import { type Scout, Scouts } from './scouts.ts'
import { readCheckpoints } from './step-rows.ts'
import { waitFor } from './wait.ts'

/** SQL: the queued jobs of `k.queue` without a key, or those of `k.key`. */
const keyless = `r.project = k.project and r.queue = k.queue and r.status = 'queued' and r.concurrency_key is null`
const ofKey = `r.project = k.project and r.queue = k.queue and r.status = 'queued' and r.concurrency_key = k.key`

/** SQL: the priorities that some jobs have, highest first, one index probe each. */
const levels = (jobs: string) => `with recursive levels as (
      (select r.priority from tidebase.runs r where ${jobs} order by r.priority desc limit 1)
      union all
      select (select r.priority from tidebase.runs r where ${jobs} and r.priority < l.priority
        order by r.priority desc limit 1)
      from levels l where l.priority is not null
    )`

/** SQL: locks the first `k.take` ready ones of some jobs, by priority and then by time. */
const take = (jobs: string) => `${levels(jobs)}
      select r.* from levels l cross join lateral (
        select r.ctid as tid, r.id, r.priority, r.run_at from tidebase.runs r
        where ${jobs} and r.priority = l.priority and r.run_at <= now()
        order by r.run_at limit k.take for no key update skip locked
      ) r where l.priority is not null limit k.take`

/** SQL: whether any of some jobs is ready, and when the next one will be. */
const outlook = (jobs: string) => `${levels(jobs)}
      select coalesce(bool_or(r.ready), false) as ready, min(r.next_at) as next_at
      from levels l cross join lateral (
        select (select true from tidebase.runs r where ${jobs} and r.priority = l.priority and r.run_at <= now()
            order by r.run_at limit 1) as ready,
          (select r.run_at from tidebase.runs r where ${jobs} and r.priority = l.priority and r.run_at > now()
            order by r.run_at limit 1) as next_at
      ) r where l.priority is not null`

/** SQL: goes round the keys of `room`, as the head of this file says. Place 0 is where it starts. */
const ring = `with recursive ring as (
      select 0 as place, room.last_key as key, false as wrapped, 0 as usable, 0 as free, null::timestamptz as next_at
      union all
      select g.place + 1, k.key, k.wrapped, g.usable + case when f.free > 0 then 1 else 0 end, f.free, f.next_at
      from ring g
      cross join lateral (
        select * from (
          -- Whether it goes too far is asked of the one that was found: asked of each, it would read a key's jobs.
          select room.project, room.queue, r.key, g.wrapped from (
            select r.concurrency_key as key from tidebase.runs r
            where r.project = room.project and r.queue = room.queue and r.status = 'queued'
              and r.concurrency_key > g.key
            order by r.concurrency_key limit 1
          ) r where not g.wrapped or r.key <= room.last_key
          union all
          select room.project, room.queue, '', true where not g.wrapped
        ) k order by k.wrapped limit 1
      ) k
      cross join lateral (
        select case when k.key = '' or room.per_key is null then room.total else least(room.total, room.per_key - (
          select count(*) from tidebase.runs r where r.project = k.project and r.queue = k.queue
            and r.status = 'running' and r.concurrency_key = k.key
        )::integer) end as cap
      ) c
      cross join lateral (
        select case when o.ready then c.cap else 0 end as free, case when c.cap > 0 then o.next_at end as next_at
        from (
          select * from (${outlook(keyless)}) o where k.key = ''
          union all
          select * from (${outlook(ofKey)}) o where k.key <> '' and c.cap > 0
        ) o
        union all select 0, null where c.cap <= 0
      ) f
      where g.usable < room.total
    )
    select * from ring where place > 0`

/** SQL: what keyed queues add to a claim: whose turn it is, and the jobs of each. */
const keyedParts = `turns as materialized (
    select room.project, room.queue, room.room, room.total, g.* from room cross join lateral (${ring}) g
    where room.keyed and room.room > 0
  ), shares as materialized (
    -- Who finds few others may take more; the last of many, one.
    select project, queue, key, place, least(free, room, total - max(usable) over (partition by queue) + 1) as take
    from turns where free > 0
    union all
    select project, queue, null, 0, room from room where not keyed and room > 0
  ), picked_keyed as materialized (
    select k.queue, k.key, k.place, p.* from shares k cross join lateral (${take(ofKey)}) p
    where k.key <> ''
  )`

const plainParts = `shares as materialized (
    select project, queue, null::text as key, 0 as place, room as take from room where room > 0
  )`

// All calls of a batch name the same project and queues; what is picked is dealt out to them in order.
const claimStatement = (name: string, keyed: boolean) =>
  statement<
    { project: number; queues: string[]; owner: string; lease_ms: number; max: number },
    RunRow & { next_in_ms: number | null; capped: boolean }
  >(
    name,
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
      select q.ctid as tid, q.xmin as version, q.name, q.concurrency, q.rate_per_minute, q.paused, q.keyed, q.last_key,
        q.per_key_concurrency
      from tidebase.queues q, asked a
      where q.project = a.project and q.name = n.queue
        and (q.concurrency is not null or q.rate_per_minute is not null or q.paused or q.keyed)
      for no key update of q
    ) l
    cross join lateral (
      select q.xmin as version from tidebase.queues q, asked a where q.project = a.project and q.name = n.queue offset 0
    ) s
  ), stale as materialized (select from capped where not fresh ${keyed ? '' : 'or keyed'}
  ), room as materialized (
    select a.project, n.queue, a.total, coalesce(c.keyed, false) as keyed, c.last_key, c.per_key_concurrency as per_key,
      greatest(0, least(
        case when c.paused then 0 else a.total end,
        c.concurrency - case when c.concurrency is not null then (select count(*) from tidebase.runs r
          where r.project = a.project and r.queue = n.queue and r.status = 'running') end,
        c.rate_per_minute - case when c.rate_per_minute is not null then (select coalesce(sum(q.claims), 0)
          from tidebase.queue_claims q
          where q.project = a.project and q.queue = n.queue and q.at > now() - interval '1 minute') end
      ))::integer as room
    from names n cross join asked a left join capped c on c.name = n.queue
    where not exists (select from stale)
  ), ${keyed ? keyedParts : plainParts}, picked as materialized (
    select k.queue, k.key, k.place, p.* from shares k cross join lateral (${take(keyless)}) p
    where k.key is null or k.key = ''
  ), taking_turns as materialized (
    select *, case when key is null then 1
      else row_number() over (partition by queue, key order by priority desc, run_at, id) end as turn
    from (select * from picked ${keyed ? 'union all select * from picked_keyed' : ''}) p
  ), within_room as materialized (
    select t.* from (
      select *, row_number() over (partition by queue order by turn, place, priority desc, run_at, id) as rank
      from taking_turns
    ) t join room using (queue) where t.rank <= room.room
  ), chosen as materialized (
    select p.*, row_number() over (order by turn, priority desc, run_at, id) as n from within_room p
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
    update tidebase.queues q set updated_at = now(), last_key = coalesce((
      select t.key from chosen t where t.queue = c.name and t.key is not null and t.turn = 1 order by t.place desc limit 1
    ), q.last_key)
    from capped c
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
    select min(u.at) as at from (
      select o.next_at as at from room k cross join lateral (${outlook(keyless)}) o where not k.keyed
      ${keyed ? 'union all select next_at from turns' : ''}
    ) u
  )
  select s.i, case
      when exists (select from capped where not fresh) then 'again'
      when exists (select from stale) then 'keyed'
      else 'claimed' end as action,
    case when k.id is null then (select extract(epoch from at - now()) * 1000 from upcoming) end as next_in_ms,
    exists (select from capped) as capped, k.*
  from slots s left join claimed k on k.call = s.i`,
  )

const plainClaims = claimStatement('queues.claim', false)
const keyedClaims = claimStatement('queues.claim_keyed', true)
type Claimed = ReplyOf<Routes['claim']>

/** Groups of queues of which one is keyed, as far as this server has noticed. */
const keyedGroups = new WeakMap<Engine, Set<string>>()
const maxNoticed = 10_000
const scoutsOf = new WeakMap<Engine, Scouts>()

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
): Promise<Claimed | Encoded<Claimed>> {
  const { project } = caller
  const owner = body.leaseOwner || `worker_${newId()}`
  const queues = [...new Set(body.queues)].sort()
  const group = JSON.stringify([project, ...queues])
  const call = { project, queues, owner, lease_ms: engine.settings.leaseMs, max: body.limit ?? 1 }
  const noticed = keyedGroups.get(engine) ?? new Set()
  keyedGroups.set(engine, noticed)
  const scouts = scoutsOf.get(engine) ?? new Scouts()
  scoutsOf.set(engine, scouts)
  let scout: Scout | undefined
  let capped = false
  const rows = await waitFor({
    look: async () => {
      let rows = await engine.coalescers.submit(noticed.has(group) ? keyedClaims : plainClaims, call, group)
      if (rows[0]?.action === 'keyed') {
        if (noticed.size >= maxNoticed) noticed.clear()
        noticed.add(group)
        rows = await engine.coalescers.submit(keyedClaims, call, group)
      }
      capped = rows[0]?.capped ?? false
      return rows
    },
    enough: (rows) => rows[0]?.id != null,
    subscribe: (wake) => {
      const unsubscribe = queues.flatMap((queue) => [
        engine.wakeups.onQueue(project, queue, wake),
        engine.wakeups.onFreed(project, queue, () => capped && wake()),
      ])
      scout = scouts.join(group, wake)
      return () => {
        for (const each of unsubscribe) each()
        scout?.leave()
      }
    },
    waitMs: body.waitMs ?? 0,
    signals,
    // A delayed run is claimed when it is due, not at the next look. Under a rate, room comes with time alone.
    againMs: ([row]) => (row?.next_in_ms != null ? row.next_in_ms + 1 : capped ? untilCommonLook() : Infinity),
  })
  const claimed = rows.filter((row) => row.id != null).sort((a, b) => b.priority - a.priority || runAt(a) - runAt(b))
  if (claimed.length > 0) scout?.found()
  for (const row of claimed) engine.wakeups.run(project, row.id.replaceAll('-', ''))
  const reply = { runs: claimed.map(toRun), leaseOwner: owner }
  if (!body.include?.includes('checkpoints')) return reply
  // A run that was only enqueued and claimed has no steps yet.
  const resumed = claimed.filter((row) => row.event_seq > 2)
  const checkpoints = await Promise.all(
    resumed.map(async ({ id }) => [wireId('run', id), (await readCheckpoints(engine.db.hot, project, id)).text]),
  )
  return new Encoded(
    objectText<Claimed>({
      runs: JSON.stringify(reply.runs),
      leaseOwner: JSON.stringify(owner),
      checkpoints: objectText<Record<string, string>>(Object.fromEntries(checkpoints)),
    }),
  )
}

const cappedPollMs = 2_000

/** Those who wait look at the same moments: hundreds of idle workers cost a statement then, not one each. */
const untilCommonLook = () => cappedPollMs - (performance.now() % cappedPollMs)

const runAt = (row: RunRow) => row.run_at?.getTime() ?? 0
