// Steps: begin, complete, fail; record is in records.ts, their rows are in step-rows.ts. A completed step is a
// checkpoint: its output is what every later begin gets.
//
//   ─begin→ running ─complete→ completed (for good)
//   running ─fail→ failed_retryable | manual_review | failed ─begin→ running (attempt + 1)
//   running, lease ran out ─begin by another→ running (attempt + 1)
//   running, lease ran out, not safe to replay ─begin by another→ manual_review, until resolved (reviews.ts)
//
// A step's id is derived from its run and name, so "exactly one begin may execute" is the primary key together with
// the run's row lock. `begin` and `complete` are fenced by the step's lease; `record`, which does both at once for
// steps that are safe to replay, by the run's.
import { type BodyOf, type ReplyOf, type Routes, resumeDecision } from '@tidebase/wire'
import { dropStream } from './chunks.ts'
import { statement } from './coalesce.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { messagePart } from './error-text.ts'
import { ApiError } from './errors.ts'
import { appendEvents, leftJoinRow, lockRuns } from './events.ts'
import { derivedId, newId, parseId, wireId, wireIdSql } from './ids.ts'
import { readStep, type Step, type StepRow, toStep } from './step-rows.ts'

interface StepCall {
  project: number
  run: string
  id: string
}

/** SQL: the columns of a call that starts a step. */
export const startColumns = [
  'project integer',
  'run uuid',
  'id uuid',
  'name text',
  'hash text',
  'input json',
  'options json',
  'safe boolean',
  'owner text',
]

/** A call that starts a step. */
export interface StartCall extends StepCall {
  name: string
  hash: string
  input?: unknown
  options?: object | null
  safe: boolean
  owner: string
}

/** What a worker says of a step as a call. */
export function startCall(caller: Caller, run: string, body: BodyOf<Routes['beginStep']>, owner: string): StartCall {
  return {
    project: caller.project,
    run,
    id: derivedId(run, 'step', body.name),
    name: body.name,
    hash: body.inputHash,
    // Existing clients put the input among the options.
    input: body.input === undefined ? body.options?.input : body.input,
    options: body.options,
    safe: resumeDecision(body.options) === 'safe_replay',
    owner,
  }
}

/** SQL: the payload of a step's event. */
export const stepPayload = (id: string, rest: string) =>
  `json_build_object('stepId', ${wireIdSql('step', id)}, ${rest})`
/** SQL: whether a call is the first of its step in the batch. */
export const firstOfStep = 'row_number() over (partition by c.project, c.run, c.id order by c.i) = 1'

const begins = statement<StartCall & { lease_ms: number; last_error: string | null }, StepRow>(
  'steps.begin',
  [...startColumns, 'lease_ms double precision', 'last_error text'],
  `${lockRuns}, decided as materialized (
    select c.*, l.tid, l.event_seq, case
      when l.id is null then 'missing'
      when not l.fresh or not ${firstOfStep} then 'again'
      when l.status = 'cancelled' then 'cancelled'
      when s.id is not null and s.input_hash <> c.hash then 'input_mismatch'
      when s.status = 'completed' then 'return'
      when l.status = 'completed' then 'completed'
      when s.status = 'running' and s.lease_owner <> c.owner and s.lease_expires_at > now() then 'locked'
      when s.review is not null then 'review_' || s.review
      when s.status = 'running' and s.lease_owner <> c.owner and not s.replay_safe then 'ambiguous'
      else 'execute' end as action
    from calls c
    left join locked l on l.project = c.project and l.id = c.run
    ${leftJoinRow('steps', 's', 't.project = c.project and t.run_id = c.run and t.id = c.id')}
  ), numbered as materialized (
    select *, event_seq + row_number() over (partition by project, run order by i)::integer as seq
    from decided where action in ('execute', 'ambiguous')
  ), begun as (
    insert into tidebase.steps as s (project, run_id, id, name, input_hash, input, options, replay_safe, status,
      lease_owner, lease_expires_at, position, started_at)
    select project, run, id, name, hash, input, options, safe, 'running', owner,
      now() + lease_ms * interval '1 ms', seq, now()
    from numbered where action = 'execute'
    on conflict (project, run_id, id) do update set status = 'running', attempt = s.attempt + 1,
      options = coalesce(excluded.options, s.options),
      replay_safe = case when excluded.options is null then s.replay_safe else excluded.replay_safe end, lease_owner = excluded.lease_owner,
      lease_expires_at = excluded.lease_expires_at, error = null, started_at = now(), updated_at = now()
    returning *
  ), doubted as (
    update tidebase.steps s set status = 'manual_review', review = 'open', lease_owner = null, lease_expires_at = null,
      updated_at = now()
    from numbered n where n.action = 'ambiguous' and s.project = n.project and s.run_id = n.run and s.id = n.id
  ), bumped as (
    update tidebase.runs r set event_seq = n.last, updated_at = now()
    from (select tid, max(seq) as last from numbered group by tid) n where r.ctid = n.tid
  ), news as materialized (
    select n.project, n.run, n.seq, 'step.started' as type,
      json_strip_nulls(${stepPayload('n.id', "'name', n.name, 'attempt', b.attempt, 'lastError', n.last_error")}) as payload
    from numbered n join begun b on b.project = n.project and b.run_id = n.run and b.id = n.id
    union all
    select project, run, seq, 'step.manual_review', ${stepPayload('id', "'name', name, 'reason', 'worker_lost'")}
    from numbered where action = 'ambiguous'
  ), ${appendEvents}
  select d.i, d.action, b.* from decided d
  left join begun b on b.project = d.project and b.run_id = d.run and b.id = d.id and d.action = 'execute'`,
)

/** What was decided where the step is left as it is: `recorded` has the answer. */
export const leaveAlone = new Set(['return', 'locked', 'input_mismatch'])

/**
 * Begins a step, or tells what is recorded of it.
 *
 * @throws ApiError `run_not_found`, `run_completed`, `manual_review`, `step_failed`, `contention`
 */
export async function beginStep(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['beginStep']>,
): Promise<ReplyOf<Routes['beginStep']>> {
  const owner = body.leaseOwner || `worker_${newId()}`
  const call = {
    ...startCall(caller, run, body, owner),
    lease_ms: engine.settings.leaseMs,
    last_error: messagePart(body.lastError ?? '') || null,
  }
  const row = await submit(engine, begins, call)
  if (row.action === 'missing') throw new ApiError('run_not_found')
  if (row.action === 'completed') throw new ApiError('run_completed')
  if (row.action === 'cancelled') return { action: 'cancelled' }
  if (leaveAlone.has(row.action)) return recorded(engine, call, row.action)
  if (row.action === 'ambiguous') engine.wakeups.run(caller.project, run)
  refuseReviewed(row.action, call.id)
  engine.wakeups.run(caller.project, run)
  return { action: 'execute', step: toStep(row), leaseOwner: owner }
}

/** @throws ApiError `manual_review`, `step_failed`: with the step's id */
export function refuseReviewed(action: string, id: string): void {
  const stepId = wireId('step', id)
  if (action === 'ambiguous' || action === 'review_open') throw new ApiError('manual_review', undefined, { stepId })
  if (action === 'review_fail') throw new ApiError('step_failed', undefined, { stepId })
}

type Recorded = Extract<ReplyOf<Routes['recordStep']>, { action: 'return' | 'locked' | 'input_mismatch' }>

/** The reply about a step that was left as it is. */
export async function recorded(engine: Engine, call: StartCall, action: string): Promise<Recorded> {
  const step = toStep(await readStep(engine.db.hot, call))
  if (action === 'return') return { action, step, output: step.output }
  if (action === 'locked') return { action, step }
  return {
    action: 'input_mismatch',
    step,
    expectedInputHash: step.inputHash,
    actualInputHash: call.hash,
  }
}

/** SQL: what both ends of a step check first. */
const endGuard = `when l.id is null then 'missing'
      when s.id is null then case when l.fresh then 'no_step' else 'again' end
      when not l.fresh or not ${firstOfStep} then 'again'`

const completions = statement<StepCall & { owner: string; output?: unknown }, StepRow & { has_streams: boolean }>(
  'steps.complete',
  ['project integer', 'run uuid', 'id uuid', 'owner text', 'output json'],
  `${lockRuns}, decided as materialized (
    select c.*, s.name, l.tid, l.event_seq, l.has_streams, case
      ${endGuard}
      when s.status = 'completed' and s.last_owner = c.owner then 'repeated'
      when l.status = 'cancelled' then 'cancelled'
      when l.status = 'completed' or s.status <> 'running' or s.lease_owner <> c.owner then 'lease_lost'
      else 'completed' end as action
    from calls c
    left join locked l on l.project = c.project and l.id = c.run
    ${leftJoinRow('steps', 's', 't.project = c.project and t.run_id = c.run and t.id = c.id')}
  ), numbered as materialized (
    select *, event_seq + row_number() over (partition by project, run order by i)::integer as seq
    from decided where action = 'completed'
  ), completed as (
    update tidebase.steps s set status = 'completed', output = n.output, error = null, last_owner = n.owner,
      lease_owner = null, lease_expires_at = null, completed_at = now(), updated_at = now()
    from numbered n where s.project = n.project and s.run_id = n.run and s.id = n.id
    returning s.*
  ), bumped as (
    update tidebase.runs r set event_seq = n.last, updated_at = now()
    from (select tid, max(seq) as last from numbered group by tid) n where r.ctid = n.tid
  ), news as materialized (
    select project, run, seq, 'step.completed' as type, ${stepPayload('id', "'name', name")} as payload from numbered
  ), ${appendEvents}
  select d.i, d.action, d.has_streams, s.* from decided d
  left join completed s on s.project = d.project and s.run_id = d.run and s.id = d.id and d.action = 'completed'`,
)

/**
 * Records a step's output.
 *
 * @param stepId the id as the wire shows it
 * @throws ApiError `run_not_found`, `step_not_found`, `run_cancelled`, `lease_lost`
 */
export async function completeStep(
  engine: Engine,
  caller: Caller,
  run: string,
  stepId: string,
  body: BodyOf<Routes['completeStep']>,
): Promise<ReplyOf<Routes['completeStep']>> {
  const call = { project: caller.project, run, id: stepKey(stepId), owner: body.leaseOwner, output: body.output }
  const row = await submit(engine, completions, call)
  if (row.action === 'completed' && row.has_streams) await dropStream(engine.db.hot, call.project, run, row.name)
  return endStep(engine, call, row)
}

function stepKey(stepId: string): string {
  const id = parseId('step', stepId)
  if (!id) throw new ApiError('step_not_found')
  return id
}

async function endStep(engine: Engine, call: StepCall, row: StepRow & { action: string }): Promise<{ step: Step }> {
  switch (row.action) {
    case 'missing':
      throw new ApiError('run_not_found')
    case 'no_step':
      throw new ApiError('step_not_found')
    case 'cancelled':
      throw new ApiError('run_cancelled')
    case 'lease_lost':
      throw new ApiError('lease_lost', 'The step’s lease is not yours.')
    case 'repeated':
      return { step: toStep(await readStep(engine.db.hot, call)) }
  }
  engine.wakeups.run(call.project, call.run)
  return { step: toStep(row) }
}

const failures = statement<
  StepCall & { owner: string; error: string; message: string; status: string; decision?: string | null },
  StepRow
>(
  'steps.fail',
  [
    'project integer',
    'run uuid',
    'id uuid',
    'owner text',
    'error text',
    'message text',
    'status text',
    'decision text',
  ],
  `${lockRuns}, decided as materialized (
    select c.*, s.name, s.attempt, l.tid, l.event_seq, case
      ${endGuard}
      when s.status = c.status and s.last_owner = c.owner then 'repeated'
      when l.status = 'cancelled' then 'cancelled'
      when s.status <> 'running' or s.lease_owner <> c.owner then 'lease_lost'
      else 'failed' end as action
    from calls c
    left join locked l on l.project = c.project and l.id = c.run
    ${leftJoinRow('steps', 's', 't.project = c.project and t.run_id = c.run and t.id = c.id')}
  ), numbered as materialized (
    select *, event_seq + row_number() over (partition by project, run order by i)::integer as seq
    from decided where action = 'failed'
  ), failed as (
    update tidebase.steps s set status = n.status, error = n.error, last_owner = n.owner,
      lease_owner = null, lease_expires_at = null, updated_at = now()
    from numbered n where s.project = n.project and s.run_id = n.run and s.id = n.id
    returning s.*
  ), bumped as (
    update tidebase.runs r set event_seq = n.last, updated_at = now()
    from (select tid, max(seq) as last from numbered group by tid) n where r.ctid = n.tid
  ), news as materialized (
    select project, run, seq, 'step.failed' as type, ${stepPayload(
      'id',
      "'name', name, 'attempt', attempt, 'error', message, 'status', status, 'resumeDecision', decision",
    )} as payload from numbered
  ), ${appendEvents}
  select d.i, d.action, s.* from decided d
  left join failed s on s.project = d.project and s.run_id = d.run and s.id = d.id and d.action = 'failed'`,
)

/**
 * Records that a step failed and releases its lease.
 *
 * @throws ApiError `run_not_found`, `step_not_found`, `run_cancelled`, `lease_lost`
 */
export async function failStep(
  engine: Engine,
  caller: Caller,
  run: string,
  stepId: string,
  body: BodyOf<Routes['failStep']>,
): Promise<ReplyOf<Routes['failStep']>> {
  const { retryable, resumeDecision: decision } = body
  const status =
    retryable || decision === 'auto_retry'
      ? 'failed_retryable'
      : decision === 'manual_review'
        ? 'manual_review'
        : 'failed'
  const call = { project: caller.project, run, id: stepKey(stepId), owner: body.leaseOwner, error: body.error }
  const message = messagePart(body.error)
  return endStep(engine, call, await submit(engine, failures, { ...call, message, status, decision }))
}
