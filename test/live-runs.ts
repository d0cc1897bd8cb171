import { expect } from 'vitest'
import type { Queryable } from '../packages/tidebase/src/db.ts'

/** Fails unless tidebase.live_runs has a row for each run that has not ended, saying what the run says, and no other. */
export async function expectLiveRuns(db: Queryable): Promise<void> {
  const wrong = await db.query(
    `with wanted as (
      select project, id as run_id, status, queue, coalesce(concurrency_key, '') as concurrency_key, priority, run_at,
        deadline_at, recovery_webhook is not null as recovers, created_at
      from tidebase.runs where status not in ('completed', 'failed', 'cancelled')
    ), there as (
      select project, run_id, status, queue, concurrency_key, priority, run_at, deadline_at, recovers, created_at
      from tidebase.live_runs
    )
    (select 'missing' as is, * from (select * from wanted except select * from there) m)
    union all
    (select 'too many', * from (select * from there except select * from wanted) t)
    union all
    (select 'orphaned, not running', project, run_id, status, queue, concurrency_key, priority, run_at, deadline_at,
      recovers, created_at from tidebase.live_runs where orphaned_at is not null and status <> 'running')`,
  )
  expect(wrong).toEqual([])
}
