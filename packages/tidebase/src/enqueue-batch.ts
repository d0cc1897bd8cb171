// Many jobs in one call.
//
// Jobs that are like most (no dedupe key, no concurrency key, nobody to tell) are one call of one statement, which says once
// what is the same for all of them and answers with how many it has made. Where that is not all of them, because an id is
// a run's already, each is made or found by itself: those that are there answer as if they had just been made.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { statement } from './coalesce.ts'
import { DatabaseError } from './db.ts'
import { Encoded, objectText } from './encoded.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { newId, parseId, wireId } from './ids.ts'
import { insertRun, insertRunBriefly, newRun, toRun } from './runs.ts'

type Body = BodyOf<Routes['enqueueBatch']>
type Job = Body['jobs'][number]
type Reply = ReplyOf<Routes['enqueueBatch']>

interface NewJob {
  id: string
  workflow_name: string
  input: unknown
  metadata: object | null | undefined
  priority: number | null | undefined
  run_at: string | null | undefined
  delay_ms: number | null | undefined
  max_attempts: number | null | undefined
}

interface NewJobs {
  project: number
  queue: string
  created_by: string | null
  jobs: NewJob[]
}

const insertJobs = statement<NewJobs, { made: number }>(
  'queues.enqueue_fresh',
  ['project integer', 'queue text', 'created_by uuid', 'jobs json'],
  `jobs as (
    select c.project, c.queue, c.created_by, j.* from calls c cross join lateral json_to_recordset(c.jobs) as j(
      id uuid, workflow_name text, input json, metadata jsonb, priority integer, run_at timestamptz,
      delay_ms double precision, max_attempts integer)
  ), inserted as (
    insert into tidebase.runs (project, id, workflow_name, input, metadata, status, queue, priority, run_at, max_attempts,
      event_seq, created_by)
    select project, id, workflow_name, coalesce(input, '{}'), coalesce(metadata, '{}'), 'queued', queue,
      coalesce(priority, 0), coalesce(run_at, now() + coalesce(delay_ms, 0) * interval '1 ms'), coalesce(max_attempts, 1),
      1, created_by
    from jobs
    on conflict do nothing
    returning project, id, workflow_name, queue, priority, run_at, created_at
  ), living as (
    insert into tidebase.live_runs (run_id, project, status, queue, concurrency_key, priority, run_at, recovers, created_at)
    select id, project, 'queued', queue, '', priority, run_at, false, created_at from inserted
  ), announced as (
    insert into tidebase.events (project, run_id, seq, type, payload)
    select project, id, 1, 'run.enqueued',
      json_build_object('workflowName', workflow_name, 'queue', queue, 'runAt', run_at)
    from inserted
  )
  select 0 as i, 'created' as action, count(*)::integer as made from inserted`,
  // A call is as much as a statement should do.
  { most: 1 },
)

/** From here on a call is worth a statement of its own; fewer jobs share one with those of other calls. */
const many = 32

/**
 * Creates several runs that wait in a queue. Each is made or found by itself: a job that is refused refuses the call,
 * which may be repeated.
 *
 * @throws ApiError `run_conflict`, `webhook_target_refused`
 */
export async function enqueueBatch(
  engine: Engine,
  caller: Caller,
  queue: string,
  { jobs, brief }: Body,
): Promise<Reply | Encoded<Reply>> {
  if (brief && jobs.length >= many && jobs.every(isPlain)) {
    const ids = await insertTogether(engine, caller, queue, jobs)
    if (ids) {
      const made = ids.map((id) => `{"run":{"id":"run_${id}"},"deduplicated":false}`)
      return new Encoded(objectText<Reply>({ jobs: `[${made.join(',')}]` }))
    }
  }
  // Made first, so that nothing is written when the target of one is refused. They leave together: one statement for
  // up to 256 of them.
  const calls = jobs.map((job) => newRun(engine, caller, job.workflowName, job, queue))
  if (brief) {
    const made = await Promise.all(calls.map((call) => insertRunBriefly(engine, call)))
    return { jobs: made.map(({ row, deduplicated }) => ({ run: { id: wireId('run', row.id) }, deduplicated })) }
  }
  const made = await Promise.all(calls.map((call) => insertRun(engine, call)))
  return { jobs: made.map(({ row, deduplicated }) => ({ run: toRun(row), deduplicated })) }
}

/** Whether a job is nothing that `insertJobs` does not know. */
const isPlain = (job: Job) =>
  job.dedupeKey == null &&
  job.concurrencyKey == null &&
  job.deadlineMs == null &&
  job.channels == null &&
  job.recoveryWebhook == null &&
  job.budget == null

/** Makes plain jobs in one statement. Returns their ids, or nothing when not all of them could be made. */
async function insertTogether(
  engine: Engine,
  { project, keyId }: Caller,
  queue: string,
  jobs: Job[],
): Promise<string[] | undefined> {
  const ids = jobs.map(({ id }) => (id && parseId('run', id)) || newId())
  // What is said of one run twice is compared by itself.
  if (new Set(ids).size < ids.length) return undefined
  const call = {
    project,
    queue,
    created_by: keyId,
    jobs: jobs.map((job, n) => ({
      id: ids[n] ?? '',
      workflow_name: job.workflowName,
      input: job.input,
      metadata: job.metadata,
      priority: job.priority,
      run_at: job.runAt,
      delay_ms: job.delayMs,
      max_attempts: job.maxAttempts,
    })),
  }
  const made = await submit(engine, insertJobs, call).catch((error) => {
    // What Postgres refuses one job for is not the others' fault.
    if (error instanceof DatabaseError) return { made: 0 }
    throw error
  })
  if (made.made > 0) engine.wakeups.queued(project, queue)
  return made.made === jobs.length ? ids : undefined
}
