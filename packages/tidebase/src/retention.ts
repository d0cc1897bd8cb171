// Retention: runs that ended long ago are deleted with all that belongs to them. Off unless a server or a project says
// for how many days they are kept.
//
// Runs are walked from the oldest on, by when they were made: an index on when they ended would have an entry written at
// every completion. What a walk leaves behind (runs that go on, or ended late) the next one reads again, so that one comes
// the later the more that was.
//
// A run stays while something may still ask for it: its parent, which would make the child anew, and its schedule, which
// would fire that time again. Counts of queues are kept apart and stay; the ledger belongs to the runs and goes.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import type { Queryable } from './db.ts'
import type { Caller, Engine } from './engine.ts'

/** Runs deleted by one statement at most, read by it, and events: small enough to hold nobody up. */
const batch = 200
const batchRead = 2_000
const batchEvents = 20_000
/** Statements of one round; the next round goes on. */
const batchesPerRound = 5
/** Pause before the next walk, for each run that this one left behind, ms: a few thousandths of the time that costs. */
const pausePerRunMs = 1

const ended = `('completed', 'failed', 'cancelled')`
const owned = [
  'steps',
  'events',
  'state_streams',
  'state_versions',
  'gates',
  'waits',
  'signals',
  'channels',
  'deliveries',
  'usage',
  'streams',
  'stream_chunks',
]

// Only what is a few columns wide is read of a run before it is known that it goes.
const deleteBatch = `with walked as materialized (
    select r.ctid as tid, r.id, r.created_at from tidebase.runs r
    where r.project = $1 and r.created_at < now() - $2 * interval '1 day'
      and (r.created_at, r.id) > ($3::timestamptz, $4::uuid)
    order by r.created_at, r.id limit ${batchRead}
  ), due as materialized (
    select r.* from (select * from walked order by created_at, id) w cross join lateral (
      select r.ctid as tid, r.xmin as version, r.project, r.id, r.event_seq, r.created_at from tidebase.runs r
      where r.ctid = w.tid and r.completed_at < now() - $2 * interval '1 day' and r.status in ${ended}
        and not exists (
          select from tidebase.edges e join tidebase.runs p on p.project = e.project and p.id = e.parent_run_id
          where e.project = r.project and e.child_run_id = r.id and p.status not in ${ended})
        and not exists (
          select from tidebase.schedules s where s.project = r.project and s.next_run_at <= r.created_at
            and starts_with(r.dedupe_key, 'sched:' || s.name || ':'))
      for update of r skip locked
    ) r limit ${batch}
  ), old as materialized (
    -- What was written to it between the snapshot and the lock would stay: such a run goes the next time.
    select * from (
      select d.*, sum(event_seq) over (order by created_at, id) - event_seq as before from due d
      cross join lateral (
        select r.xmin as version from tidebase.runs r where r.project = d.project and r.id = d.id offset 0
      ) s where s.version = d.version
    ) d where before < ${batchEvents}
  ), ${owned
    .map(
      (table) => `of_${table} as (
    delete from tidebase.${table} t using old where t.project = old.project and t.run_id = old.id
  )`,
    )
    .join(', ')}, of_parents as (
    delete from tidebase.edges t using old where t.project = old.project and t.parent_run_id = old.id
  ), of_children as (
    delete from tidebase.edges t using old where t.project = old.project and t.child_run_id = old.id
      and t.parent_run_id not in (select id from old)
  ), gone as (
    delete from tidebase.runs r using old where r.ctid = old.tid
  ), place as materialized (
    -- What was not looked at, or was too much for this time, is for the next statement.
    select * from (
      select created_at, id, 1 as choice from old
      where (select count(*) from due) = ${batch} or (select count(*) from old) < (select count(*) from due)
      union all
      select created_at, id, 2 from walked
    ) p order by choice, created_at desc, id desc limit 1
  )
  select p.created_at::text as at, p.id, p.choice = 1 or (select count(*) from walked) = ${batchRead} as more,
    (select count(*) from walked w where (w.created_at, w.id) <= (p.created_at, p.id))
      - (select count(*) from old) as left
  from place p`

const beginning = { at: '-infinity', id: '00000000-0000-0000-0000-000000000000' }

/** Where a walk through a project's runs stands. */
interface Walk {
  /** The last run that was looked at. */
  last: { at: string; id: string }
  leftBehind: number
  /** When the next walk may begin, by `performance.now`. */
  notBefore: number
}

/**
 * Makes what deletes the runs that are due, a round at a time, for the reconciler.
 *
 * @returns a function that does a round and tells whether there may be more
 */
export function retention(engine: Engine): () => Promise<boolean> {
  const walks = new Map<number, Walk>()
  return async () => {
    const projects = await engine.db.cold.query<{ id: number; days: number }>(
      `select id, coalesce(retention_days, $1::integer) as days from tidebase.projects
        where coalesce(retention_days, $1::integer) > 0`,
      [engine.settings.retentionDays ?? null],
    )
    let more = false
    for (const { id, days } of projects) {
      const walk = walks.get(id) ?? { last: beginning, leftBehind: 0, notBefore: 0 }
      walks.set(id, walk)
      if (performance.now() >= walk.notBefore && !(await goOn(engine.db.cold, walk, id, days))) more = true
    }
    return more
  }
}

/** Goes on with a walk. @returns whether it came to its end */
async function goOn(db: Queryable, walk: Walk, project: number, days: number): Promise<boolean> {
  for (let n = 0; n < batchesPerRound; n++) {
    const [row] = await db.query<{ at: string; id: string; more: boolean; left: number }>(deleteBatch, [
      project,
      days,
      walk.last.at,
      walk.last.id,
    ])
    walk.leftBehind += row?.left ?? 0
    if (row?.more) {
      walk.last = { at: row.at, id: row.id }
      continue
    }
    walk.notBefore = performance.now() + walk.leftBehind * pausePerRunMs
    walk.last = beginning
    walk.leftBehind = 0
    return true
  }
  return false
}

interface ProjectRow {
  name: string
  retention_days: number | null
}

function toProject(engine: Engine, row: ProjectRow | undefined): ReplyOf<Routes['configureProject']> {
  if (!row) throw new Error('the project was not found')
  const { name, retention_days: retentionDays } = row
  const effective = retentionDays ?? engine.settings.retentionDays ?? 0
  return { project: { name, retentionDays, effectiveRetentionDays: effective > 0 ? effective : null } }
}

/** The caller's project. */
export async function getProject(engine: Engine, caller: Caller): Promise<ReplyOf<Routes['getProject']>> {
  const [row] = await engine.db.cold.query<ProjectRow>(
    'select name, retention_days from tidebase.projects where id = $1',
    [caller.project],
  )
  return { ...toProject(engine, row), scope: caller.scope }
}

/** Sets how long the caller's project keeps its ended runs. */
export async function configureProject(
  engine: Engine,
  caller: Caller,
  body: BodyOf<Routes['configureProject']>,
): Promise<ReplyOf<Routes['configureProject']>> {
  const [row] = await engine.db.cold.query<ProjectRow>(
    `update tidebase.projects set retention_days = case when $3 then $2 else retention_days end
      where id = $1 returning name, retention_days`,
    [caller.project, body.retentionDays ?? null, body.retentionDays !== undefined],
  )
  return toProject(engine, row)
}

/**
 * Sets how long a project keeps its ended runs, from the command line.
 *
 * @param days null for the server's default, 0 for ever
 * @returns whether there is such a project
 */
export async function setRetention(db: Queryable, name: string, days: number | null): Promise<boolean> {
  const rows = await db.query('update tidebase.projects set retention_days = $2 where name = $1 returning id', [
    name,
    days,
  ])
  return rows.length > 0
}
