// Enqueue: jobs by themselves and many in one call.
//
// Nearly every job has no keys and nobody to tell of it. Such jobs are made by statements that know no others: one for
// single jobs, which travel together, and one for many of one call, which says once what is the same for all and answers
// with how many it has made. What these do not make, because its id is a run's already, goes to the statement that knows
// all cases (runs.ts); there a run that was just made answers as it would here.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { statement } from './coalesce.ts'
import { DatabaseError } from './db.ts'
import { Encoded, objectText } from './encoded.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { newId, wireId } from './ids.ts'
import { insertRun, insertRunBriefly, newRun, type RunRow, runKey, toRun } from './runs.ts'
import { allEnded } from './settle.ts'

type Job = BodyOf<Routes['enqueue']>
type Reply = ReplyOf<Routes['enqueue']>
type BatchReply = ReplyOf<Routes['enqueueBatch']>

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

const jobColumns = [
  'id uuid',
  'workflow_name text',
  'input json',
  'metadata jsonb',
  'priority integer',
  'run_at timestamptz',
  'delay_ms double precision',
  'max_attempts integer',
]

/** What all jobs of a call have in common. */
interface Place {
  project: number
  queue: string
  created_by: string | null
}

const placeColumns = ['project integer', 'queue text', 'created_by uuid']

/** SQL: inserts the jobs of `source`, but for those whose id is a run's. */
const insertJobs = (source: string, of: (column: string) => string, returned: string) => `inserted as (
    insert into tidebase.runs (project, id, workflow_name, input, metadata, status, queue, priority, run_at, max_attempts,
      event_seq, created_by)
    select ${of('project')}, ${of('id')}, ${of('workflow_name')}, coalesce(${of('input')}, '{}'),
      coalesce(${of('metadata')}, '{}'), 'queued', ${of('queue')}, coalesce(${of('priority')}, 0),
      coalesce(${of('run_at')}, now() + coalesce(${of('delay_ms')}, 0) * interval '1 ms'),
      coalesce(${of('max_attempts')}, 1), 1, ${of('created_by')}
    from ${source} c
    on conflict do nothing
    returning ${returned}
  ), living as (
    insert into tidebase.live_runs (run_id, project, status, queue, concurrency_key, priority, run_at, recovers, created_at)
    select id, project, 'queued', queue, '', priority, run_at, false, created_at from inserted
  ), announced as (
    insert into tidebase.events (project, run_id, seq, type, payload)
    select project, id, 1, 'run.enqueued',
      json_build_object('workflowName', workflow_name, 'queue', queue, 'runAt', run_at)
    from inserted
  )`

const single = statement<Place & NewJob, RunRow>(
  'queues.enqueue_fresh',
  [...placeColumns, ...jobColumns],
  (of) => `${insertJobs('calls', of, '*')}
  select c.i, 'created' as action, r.* from calls c join inserted r on r.id = ${of('id')} and r.project = ${of('project')}`,
  { simple: true },
)

const together = statement<Place & { jobs: NewJob[] }, { made: number }>(
  'queues.enqueue_many',
  [...placeColumns, 'jobs json'],
  `jobs as (
    select c.project, c.queue, c.created_by, j.*
    from calls c cross join lateral json_to_recordset(c.jobs) as j(${jobColumns.join(', ')})
  ), ${insertJobs('jobs', (column) => `c.${column}`, 'project, id, workflow_name, queue, priority, run_at, created_at')}
  select 1 as i, 'created' as action, count(*)::integer as made from inserted`,
  // A call is as much as a statement should do.
  { most: 1 },
)

/** From here on a call is worth a statement of its own; fewer jobs share one with those of other calls. */
const many = 32

/** Creates a run that waits in a queue. @throws ApiError `run_conflict`, `webhook_target_refused` */
export async function enqueue(engine: Engine, caller: Caller, queue: string, job: Job): Promise<Reply> {
  if (isPlain(job)) {
    const { project, keyId } = caller
    const call = Object.assign(newJob(job, idOf(job)), { project, queue, created_by: keyId })
    const made = await submit(engine, single, call)
    if (made.action === 'created') {
      engine.wakeups.queued(project, queue)
      return { run: toRun(made), deduplicated: false }
    }
  }
  const { row, deduplicated } = await insertRun(engine, newRun(engine, caller, job.workflowName, job, queue))
  return { run: toRun(row), deduplicated }
}

/**
 * Creates several runs that wait in a queue. Each is made or found by itself: a job that is refused refuses the call,
 * which may be repeated. When it is answered, every job has been tried.
 *
 * @throws ApiError `run_conflict`, `webhook_target_refused`
 */
export async function enqueueBatch(
  engine: Engine,
  caller: Caller,
  queue: string,
  { jobs, brief }: BodyOf<Routes['enqueueBatch']>,
): Promise<BatchReply | Encoded<BatchReply>> {
  let named = jobs
  if (jobs.every(isPlain)) {
    if (!brief || jobs.length < many) {
      const made = await allEnded(jobs.map((job) => enqueue(engine, caller, queue, job)))
      return { jobs: brief ? made.map(({ run: { id }, deduplicated }) => ({ run: { id }, deduplicated })) : made }
    }
    const ids = jobs.map(idOf)
    if (await enqueueTogether(engine, caller, queue, jobs, ids)) {
      const made = ids.map((id) => `{"run":{"id":"run_${id}"},"deduplicated":false}`)
      return new Encoded(objectText<BatchReply>({ jobs: `[${made.join(',')}]` }))
    }
    // Some may be made already: with their ids they are found again.
    named = jobs.map((job, n) => ({ ...job, id: wireId('run', ids[n] ?? '') }))
  }
  // Made first, so that nothing is written when the target of one is refused. They leave together: one statement for
  // up to 256 of them.
  const calls = named.map((job) => newRun(engine, caller, job.workflowName, job, queue))
  if (brief) {
    const made = await allEnded(calls.map((call) => insertRunBriefly(engine, call)))
    return { jobs: made.map(({ row, deduplicated }) => ({ run: { id: wireId('run', row.id) }, deduplicated })) }
  }
  const made = await allEnded(calls.map((call) => insertRun(engine, call)))
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

const idOf = ({ id }: Job) => (id ? runKey(id) : newId())

const newJob = (job: Job, id: string): NewJob => ({
  id,
  workflow_name: job.workflowName,
  input: job.input,
  metadata: job.metadata,
  priority: job.priority,
  run_at: job.runAt,
  delay_ms: job.delayMs,
  max_attempts: job.maxAttempts,
})

/** Makes plain jobs in one statement. Returns whether all of them were made. */
async function enqueueTogether(
  engine: Engine,
  { project, keyId }: Caller,
  queue: string,
  jobs: Job[],
  ids: string[],
): Promise<boolean> {
  // Of what is said of one run twice only one is made; which one, another statement decides.
  if (new Set(ids).size < ids.length) return false
  const call = {
    project,
    queue,
    created_by: keyId,
    jobs: jobs.map((job, n) => newJob(job, ids[n] ?? '')),
  }
  const { made } = await submit(engine, together, call).catch((error) => {
    // What Postgres refuses one job for is not the others' fault.
    if (error instanceof DatabaseError) return { made: 0 }
    throw error
  })
  if (made > 0) engine.wakeups.queued(project, queue)
  return made === jobs.length
}
