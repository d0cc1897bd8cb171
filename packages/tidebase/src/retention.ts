// Retention: runs that ended long ago are deleted with all that belongs to them. Off unless a server or a project says
// for how many days they are kept.
//
// A run stays while something may still ask for it: its parent, which would make the child anew, and its schedule, which
// would fire that time again. Counts of queues are kept apart and stay; the ledger belongs to the runs and goes.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import type { Queryable } from './db.ts'
import type { Caller, Engine } from './engine.ts'

/** Runs deleted by one statement at most, and events: small enough to hold nobody up. */
const batch = 200
const batchEvents = 20_000
/** Statements of one round; the next round goes on. */
const batchesPerRound = 5

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

const deleteBatch = `with due as materialized (
    select r.ctid as tid, r.xmin as version, r.project, r.id, r.event_seq, r.completed_at from tidebase.runs r
    where r.project = $1 and r.completed_at < now() - $2 * interval '1 day' and r.status in ${ended}
      and not exists (
        select from tidebase.edges e join tidebase.runs p on p.project = e.project and p.id = e.parent_run_id
        where e.project = r.project and e.child_run_id = r.id and p.status not in ${ended})
      and not exists (
        select from tidebase.schedules s where s.project = r.project and s.next_run_at <= r.created_at
          and starts_with(r.dedupe_key, 'sched:' || s.name || ':'))
    order by r.completed_at limit ${batch} for update of r skip locked
  ), old as materialized (
    -- What was written to it between the snapshot and the lock would stay: such a run goes the next time.
    select * from (
      select d.*, sum(event_seq) over (order by completed_at, id) - event_seq as before from due d
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
  )
  delete from tidebase.runs r using old where r.ctid = old.tid returning (select count(*) from due) as due`

/**
 * Deletes what is due. Called by the reconciler.
 *
 * @returns whether there may be more
 */
export async function deleteOldRuns(engine: Engine): Promise<boolean> {
  const projects = await engine.db.cold.query<{ id: number; days: number }>(
    `select id, coalesce(retention_days, $1::integer) as days from tidebase.projects
      where coalesce(retention_days, $1::integer) > 0`,
    [engine.settings.retentionDays ?? null],
  )
  let more = false
  for (const { id, days } of projects) {
    for (let n = 0; ; n++) {
      const rows = await engine.db.cold.query<{ due: number }>(deleteBatch, [id, days])
      const left = (rows[0]?.due ?? 0) > rows.length || rows.length === batch
      if (!left) break
      if (n + 1 < batchesPerRound) continue
      more = true
      break
    }
  }
  return more
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
