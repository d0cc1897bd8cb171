// Claims: the statements by which workers take jobs.
//
// A claim reads the queued jobs from tidebase.live_runs without a lock, locks the run of each, and skips those that others
// hold, until it has enough. So claims are disjoint, and none ever waits for a run: it may hold many, in the order of
// jobs, while others take one run after another in the order of ids. What was changed between the snapshot and the lock is
// left alone: its new version is not what the update by `ctid` finds. Caps hold across servers because a claim from a
// capped or keyed queue holds the lock on the queue's row while it counts and takes.
// Passing by what others hold costs more than taking it, so of one group of queues a server has one claim of a kind
// under way (coalesce.ts).
// No claim reads finished or delayed runs: within one priority, ready runs come first in the index, and priorities are
// skipped through one probe at a time.
//
// Keys (tenants) take turns. From the key after the one that was last, a claim goes round the keys that have queued
// jobs, one probe each, until it has found as many as it may take jobs; those whose cap is reached are passed by without
// reading their jobs. There are no more of these than runs that are running. The jobs without a key take turns as one
// more key, which has no cap.
// That is a statement of its own, because most queues have no keys: the plain one notices where it does not do. A third
// one, `ready`, is for busy queues without caps, where each claim finds enough: it takes what is first in line and answers
// with no more than was asked for. To all else it gives no row.
import { statement } from './coalesce.ts'
import { appendEvents, runIs } from './events.ts'
import type { RunRow } from './runs.ts'

/** SQL: the queued jobs of `k.queue` without a key, or those of `k.key`. */
const keyless = `l.project = k.project and l.queue = k.queue and l.status = 'queued' and l.concurrency_key = ''`
const ofKey = `l.project = k.project and l.queue = k.queue and l.status = 'queued' and l.concurrency_key = k.key`

/** SQL: the priorities that some jobs have, highest first, one index probe each. */
const levels = (jobs: string) => `with recursive levels as (
      (select l.priority from tidebase.live_runs l where ${jobs} order by l.priority desc limit 1)
      union all
      select (select l.priority from tidebase.live_runs l where ${jobs} and l.priority < v.priority
        order by l.priority desc limit 1)
      from levels v where v.priority is not null
    )`

/**
 * How many jobs that others have taken meanwhile a claim passes by. A job that was claimed after the claim's snapshot costs
 * several times what taking one does: without an end to it, a claim that has fallen behind others would never catch up.
 */
const maxPassed = 1_000

/** SQL: locks the first `k.take` ready ones of some jobs, by priority and then by time. */
const takeOf = (jobs: string) => `${levels(jobs)}
      select j.* from levels v cross join lateral (
        select r.tid, l.tid as live_tid, l.run_id as id, l.priority, l.run_at
        from (
          select l.ctid as tid, l.project, l.run_id, l.priority, l.run_at from tidebase.live_runs l
          where ${jobs} and l.priority = v.priority and l.run_at <= now() order by l.run_at limit k.take + ${maxPassed}
        ) l cross join lateral (
          select r.ctid as tid from tidebase.runs r where ${runIs('r', 'l.project', 'l.run_id')} and r.status = 'queued'
          for no key update skip locked
        ) r limit k.take
      ) j where v.priority is not null limit k.take`

/** SQL: whether any of some jobs is ready, and when the next one will be. */
const outlook = (jobs: string) => `${levels(jobs)}
      select coalesce(bool_or(r.ready), false) as ready, min(r.next_at) as next_at
      from levels v cross join lateral (
        select (select true from tidebase.live_runs l where ${jobs} and l.priority = v.priority and l.run_at <= now()
            order by l.run_at limit 1) as ready,
          (select l.run_at from tidebase.live_runs l where ${jobs} and l.priority = v.priority and l.run_at > now()
            order by l.run_at limit 1) as next_at
      ) r where v.priority is not null`

/** SQL: whether there are more ready ones of some jobs than a claim passes by. */
const crowd = (jobs: string) => `${levels(jobs)}
      select from levels v cross join lateral (
        select from tidebase.live_runs l where ${jobs} and l.priority = v.priority and l.run_at <= now()
        order by l.run_at offset ${maxPassed} limit 1
      ) l where v.priority is not null`

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
            select l.concurrency_key as key from tidebase.live_runs l
            where l.project = room.project and l.queue = room.queue and l.status = 'queued'
              and l.concurrency_key > g.key
            order by l.concurrency_key limit 1
          ) r where not g.wrapped or r.key <= room.last_key
          union all
          select room.project, room.queue, '', true where not g.wrapped
        ) k order by k.wrapped limit 1
      ) k
      cross join lateral (
        select case when k.key = '' or room.per_key is null then room.total else least(room.total, room.per_key - (
          select count(*) from tidebase.live_runs l where l.project = k.project and l.queue = k.queue
            and l.status = 'running' and l.concurrency_key = k.key
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
    select k.queue, k.key, k.place, p.* from shares k cross join lateral (${takeOf(ofKey)}) p
    where k.key <> ''
  )`

const plainParts = `shares as materialized (
    select project, queue, null::text as key, 0 as place, room as take from room where room > 0
  )`

/** A claim from some queues; those of a batch name the same project and queues. */
export interface ClaimCall {
  project: number
  queues: string[]
  owner: string
  lease_ms: number
  max: number
}

const columns = ['project integer', 'queues json', 'owner text', 'lease_ms double precision', 'max integer']

/** SQL: all calls of a batch name the same project and queues; what is picked is dealt out to their slots in order. */
const asked = `slots as materialized (
    select i, owner, lease_ms, sum(max) over (order by i) - max as after, sum(max) over (order by i) as upto from calls
  ), asked as materialized (
    select (select project from calls limit 1) as project, (select sum(max) from calls)::integer as total
  ), names as materialized (
    select distinct n as queue from (select queues from calls limit 1) c, json_array_elements_text(c.queues) n order by n
  )`

/** SQL: whether claims from a queue `q` must look closer. */
const isCapped = '(q.concurrency is not null or q.rate_per_minute is not null or q.paused or q.keyed)'

/** SQL: what a claim changes of a run `r` for its slot `s`. */
const taking = `status = 'running', lease_owner = s.owner, lease_expires_at = now() + s.lease_ms * interval '1 ms',
      attempt = r.attempt + case when r.claimed then 0 else 1 end, claimed = true, event_seq = r.event_seq + 1,
      updated_at = now()`

const claimStatement = (name: string, keyed: boolean) =>
  statement<ClaimCall, RunRow & { next_in_ms: number | null; capped: boolean }>(
    name,
    columns,
    `${asked}, capped as materialized (
    select l.*, l.version = s.version as fresh
    from names n
    cross join lateral (
      select q.ctid as tid, q.xmin as version, q.name, q.concurrency, q.rate_per_minute, q.paused, q.keyed, q.last_key,
        q.per_key_concurrency
      from tidebase.queues q, asked a
      where q.project = a.project and q.name = n.queue
        and ${isCapped}
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
        c.concurrency - case when c.concurrency is not null then (select count(*) from tidebase.live_runs l
          where l.project = a.project and l.queue = n.queue and l.status = 'running') end,
        c.rate_per_minute - case when c.rate_per_minute is not null then (select coalesce(sum(q.claims), 0)
          from tidebase.queue_claims q
          where q.project = a.project and q.queue = n.queue and q.at > now() - interval '1 minute') end
      ))::integer as room
    from names n cross join asked a left join capped c on c.name = n.queue
    where not exists (select from stale)
  ), ${keyed ? keyedParts : plainParts}, picked as materialized (
    select k.queue, k.key, k.place, p.* from shares k cross join lateral (${takeOf(keyless)}) p
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
    update tidebase.runs r set ${taking}
    from chosen c join slots s on c.n > s.after and c.n <= s.upto
    where r.ctid = c.tid
    returning s.i as call, c.live_tid, r.*
  ), taken as (
    update tidebase.live_runs l set status = 'running' from claimed k where l.ctid = k.live_tid
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
      -- Others were quicker with all that it looked at: there is more.
      when not exists (select from chosen)
        and exists (select from shares k cross join lateral (${crowd(keyless)}) j) then 'again'
      when exists (select from stale) then 'keyed'
      else 'claimed' end as action,
    case when k.id is null then (select extract(epoch from at - now()) * 1000 from upcoming) end as next_in_ms,
    exists (select from capped) as capped, k.*
  from slots s left join claimed k on k.call = s.i`,
  )

/** What a worker has to know of a run to execute it. */
export type ClaimedRow = Pick<
  RunRow,
  'id' | 'workflow_name' | 'input' | 'metadata' | 'queue' | 'concurrency_key' | 'attempt' | 'max_attempts' | 'event_seq'
>

const executed = 'id, workflow_name, input, metadata, queue, concurrency_key, attempt, max_attempts, event_seq'

/** @param returned the columns of runs that the statement needs and those it answers with */
const readyStatement = <Row extends ClaimedRow>(name: string, returned: string, answered: string) =>
  statement<ClaimCall, Row>(
    name,
    columns,
    `${asked}, capped as materialized (
    -- The lock makes a pause wait for this claim as for others: see ` +
      '`setPaused`' +
      `.
    select from asked a cross join names n cross join lateral (
      select from tidebase.queues q where q.project = a.project and q.name = n.queue and ${isCapped} for key share
    ) q
  ), shares as materialized (
    select a.project, n.queue, a.total as take from asked a cross join names n where not exists (select from capped)
  ), chosen as materialized (
    select p.*, row_number() over (order by p.priority desc, p.run_at, p.id) as n
    from shares k cross join lateral (${takeOf(keyless)}) p
    order by n limit (select total from asked)
  ), claimed as materialized (
    update tidebase.runs r set ${taking}
    from chosen c join slots s on c.n > s.after and c.n <= s.upto
    where r.ctid = c.tid
    returning s.i, c.n, c.live_tid, ${returned}
  ), taken as (
    update tidebase.live_runs l set status = 'running' from claimed k where l.ctid = k.live_tid
  ), news as materialized (
    select project, id, event_seq, has_channels,
      json_build_object('leaseOwner', lease_owner, 'queue', queue, 'attempt', attempt) as payload
    from claimed
  ), appended as (
    insert into tidebase.events (project, run_id, seq, type, payload)
    select project, id, event_seq, 'run.claimed', payload from news
  ), told as (
    insert into tidebase.deliveries (project, run_id, kind, reason, channel_id, url, payload)
    select n.project, n.id, 'channel', 'run.claimed', c.id, c.url, n.payload
    from (select * from news where has_channels) n
    cross join lateral (select * from tidebase.channels c where c.project = n.project and c.run_id = n.id offset 0) c
    where c.events = '{}' or 'run.claimed' = any (c.events)
  )
  select 'claimed' as action, ${answered} from claimed order by i, n`,
    { simple: true },
  )

/** What does for all but keyed queues, for which it answers `keyed`. */
export const plainClaims = claimStatement('queues.claim', false)
/** What does for all. */
export const keyedClaims = claimStatement('queues.claim_keyed', true)
/** What does for busy queues without caps, with whole runs or briefly. */
export const readyClaims = readyStatement<RunRow>('queues.claim_ready', 'r.*', '*')
export const briefClaims = readyStatement<ClaimedRow>(
  'queues.claim_brief',
  `r.project, r.lease_owner, r.has_channels, ${executed.replace(/\w+/g, 'r.$&')}`,
  `i, ${executed}`,
)
