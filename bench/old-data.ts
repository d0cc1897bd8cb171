// Rows as years of use leave them, loaded by SQL: finished runs with their steps and some of their events, and delayed
// jobs. Ids are those the server would have made: time first, so that indexes have their usual shape.
import { keepLive } from '../packages/tidebase/src/live-runs.ts'
import { openForLoading } from './servers.ts'

/** What is loaded, in rows. */
export interface OldRows {
  /** Finished runs, evenly over the last 90 days. */
  runs: number
  /** Of each run, which has three events besides: created, started, completed. */
  stepsPerRun: number
  /** The queue the runs were in; none unless given. */
  queue?: string
  /** Jobs of that queue that are due within a day. */
  delayed?: number
}

const chunk = 100_000
const perEvents = `(1, 'run.created', '{}'), (2, 'run.started', '{"leaseOwner":"worker-old"}'), (3, 'run.completed', '{}')`

/** A UUIDv7 of a time (ms) and a number that makes it unlike others. */
const idSql = (ms: string, unlike: string) =>
  `(lpad(to_hex(${ms}), 12, '0') || '7' || substr(md5(${unlike}), 1, 3) || '8' || substr(md5(${unlike}), 5, 15))::uuid`

/**
 * Loads old rows into a migrated database, then vacuums and analyses it.
 *
 * @param url of the database
 */
export async function loadOldRows(url: string, { runs, stepsPerRun, queue, delayed = 0 }: OldRows): Promise<void> {
  const db = openForLoading(url)
  try {
    for (let from = 0; from < runs; from += chunk) {
      const upTo = Math.min(runs, from + chunk)
      console.error(`loading old rows: ${upTo.toLocaleString('en')} of ${runs.toLocaleString('en')} runs`)
      await db.cold.query(
        `with made as materialized (
          select n, at, ${idSql('(extract(epoch from at) * 1000)::bigint', "'run' || n")} as id from (
            select n, now() - interval '90 days' * (1 - n::float8 / $3::float8) - interval '1 hour' as at
            from generate_series($1::integer + 1, $2::integer) n
          ) n
        ), runs as (
          insert into tidebase.runs (project, id, workflow_name, input, status, result, last_owner, attempt, queue,
            run_at, event_seq, created_at, updated_at, completed_at)
          select 1, id, 'workflow-' || n % 20, '{"topic":"something that was asked for"}', 'completed',
            '{"answer":"something that was found out"}', 'worker-old', 1, $4, at, 3, at, at, at + interval '10 seconds'
          from made
        ), steps as (
          insert into tidebase.steps (project, run_id, id, name, input_hash, replay_safe, status, output, last_owner,
            position, started_at, completed_at, created_at, updated_at)
          select 1, m.id, ${idSql('(extract(epoch from at) * 1000)::bigint', "'step' || n || '/' || s")}, 's' || s,
            md5('input') || md5('hash'), true, 'completed', '{"text":"what the step gave, a few words long"}',
            'worker-old', 2 * s + 1, at, at, at, at
          from made m cross join generate_series(1, $5::integer) s
        )
        insert into tidebase.events (project, run_id, seq, type, payload, created_at)
        select 1, m.id, e.seq, e.type, e.payload::json, m.at
        from made m cross join lateral (values ${perEvents}) as e (seq, type, payload)`,
        [from, upTo, runs, queue ?? null, stepsPerRun],
      )
    }
    if (delayed > 0) {
      await db.cold.query(
        `with made as (
          insert into tidebase.runs (project, id, workflow_name, status, queue, run_at, event_seq)
          select 1, gen_random_uuid(), 'bench', 'queued', $1, now() + interval '1 day' * (0.5 + random() / 2), 1
          from generate_series(1, $2::integer) returning *
        ), ${keepLive('made')}
        insert into tidebase.events (project, run_id, seq, type, payload)
        select 1, id, 1, 'run.enqueued', '{}' from made`,
        [queue ?? null, delayed],
      )
    }
    // Else autovacuum would do it while something is measured.
    await db.cold.query('vacuum (analyze)')
    await db.cold.query('checkpoint')
  } finally {
    await db.close()
  }
}
