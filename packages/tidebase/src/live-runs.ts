// Live runs: those that have not ended. Each has a row in tidebase.live_runs, which says what claims, caps, lists,
// deadlines and the reconciler go by; its run says all else.
//
// The one rule: a statement that changes a run's status (or what else its row here repeats) writes the row here too, in the
// same statement, and whoever writes the row here has changed the run's row in that statement. So
// - the lock of the run is the lock of both: nobody ever waits for a row here, and no order of locks has to be kept;
// - where the run's row is as the snapshot shows it, its row here is as well.
// Claims go from here to the runs (claim-statements.ts): they read without a lock, lock the runs, and skip those that others hold.

/** Statuses of runs that have not ended. */
export const liveStatuses = ['pending', 'queued', 'running', 'waiting'] as const

/** SQL: whether row `l` of tidebase.live_runs is of this run. No other index than the primary key begins like this. */
export const liveIs = (l: string, project: string, run: string) => `${l}.run_id = ${run} and ${l}.project = ${project}`

const live = `(${liveStatuses.map((status) => `'${status}'`).join(', ')})`

/**
 * SQL: writes the rows of runs that live on, or live again.
 *
 * @param source rows of tidebase.runs as the statement leaves them; those that have ended are passed by
 */
export const keepLive = (source: string) => `kept_live as (
    insert into tidebase.live_runs as l (run_id, project, status, queue, concurrency_key, priority, run_at, deadline_at,
      recovers, created_at)
    select k.id, k.project, k.status, k.queue, coalesce(k.concurrency_key, ''), k.priority, k.run_at, k.deadline_at,
      k.recovery_webhook is not null, k.created_at
    from ${source} k where k.status in ${live}
    on conflict (run_id, project) do update set status = excluded.status, run_at = excluded.run_at, orphaned_at = null
  )`

/** SQL: the places of the rows of some runs (project, id). Lateral and with `offset 0`: see `leftJoinRow`. */
const placesOf = (source: string, condition = 'true') => `(
      select t.tid from ${source} k cross join lateral (
        select t.ctid as tid, t.orphaned_at from tidebase.live_runs t where ${liveIs('t', 'k.project', 'k.id')} offset 0
      ) t where ${condition}
    )`

/** SQL: deletes the rows of runs (project, id) that have ended. */
export const endLive = (source: string) => `ended_live as (
    delete from tidebase.live_runs l using ${placesOf(source)} p where l.ctid = p.tid
  )`

/** SQL: notes that runs (project, id) are orphaned, or that their worker is back. */
export const orphanLive = (source: string, orphaned: boolean) => `${orphaned ? 'orphaned' : 'found'}_live as (
    update tidebase.live_runs l set orphaned_at = ${orphaned ? 'now()' : 'null'}
    from ${placesOf(source, orphaned ? 'true' : 't.orphaned_at is not null')} p where l.ctid = p.tid
  )`
