// Runs: create, read. What happens between begin and end is in attempts.ts, cancelling in cancel.ts.
//
//   pending ─begin→ running ─complete→ completed
//   queued ─claim/begin→ running ─fail, attempts left→ queued
//   running ─park→ waiting ─what it waits for ends→ queued | pending      (park.ts)
//   running ─fail→ failed ─begin→ running
//   any but completed ─cancel→ cancelled (for good)
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { type Answer, statement } from './coalesce.ts'
import type { Queryable } from './db.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { ApiError } from './errors.ts'
import { runIs } from './events.ts'
import { newId, parseId, wireId } from './ids.ts'
import { keepLive } from './live-runs.ts'
import { checkWebhookTarget } from './target.ts'

export type Run = ReplyOf<Routes['createRun']>['run']

/** A row of tidebase.runs as far as the wire shows it. */
export interface RunRow {
  id: string
  workflow_name: string
  input: unknown
  metadata: Record<string, unknown>
  status: Run['status']
  result: unknown
  error: string | null
  recovery_webhook: string | null
  lease_owner: string | null
  lease_expires_at: Date | null
  attempt: number
  queue: string | null
  dedupe_key: string | null
  concurrency_key: string | null
  priority: number
  run_at: Date | null
  max_attempts: number
  deadline_at: Date | null
  cancel_requested_at: Date | null
  cancelled_at: Date | null
  cancel_reason: string | null
  cancel_actor: string | null
  failure_class: string | null
  usage_input_tokens: number
  usage_output_tokens: number
  usage_total_tokens: number
  usage_cost_usd: number
  budget_cost_usd: number | null
  budget_total_tokens: number | null
  event_seq: number
  created_by: string | null
  created_at: Date
  updated_at: Date
  completed_at: Date | null
}

const iso = (date: Date | null) => date?.toISOString() ?? null

/** A run as the wire shows it. */
export function toRun(row: RunRow): Run {
  return {
    id: wireId('run', row.id),
    workflowName: row.workflow_name,
    input: row.input,
    metadata: row.metadata,
    status: row.status,
    result: row.result,
    error: row.error,
    recoveryWebhook: row.recovery_webhook,
    leaseOwner: row.lease_owner,
    leaseExpiresAt: iso(row.lease_expires_at),
    attempt: row.attempt,
    queue: row.queue,
    dedupeKey: row.dedupe_key,
    concurrencyKey: row.concurrency_key,
    priority: row.priority,
    runAt: iso(row.run_at),
    maxAttempts: row.max_attempts,
    deadlineAt: iso(row.deadline_at),
    cancelRequestedAt: iso(row.cancel_requested_at),
    cancelledAt: iso(row.cancelled_at),
    cancelReason: row.cancel_reason,
    cancelActor: row.cancel_actor,
    failureClass: row.failure_class,
    usageTotals: {
      inputTokens: row.usage_input_tokens,
      outputTokens: row.usage_output_tokens,
      totalTokens: row.usage_total_tokens,
      costUsd: row.usage_cost_usd,
    },
    budget:
      row.budget_cost_usd === null && row.budget_total_tokens === null
        ? null
        : { costUsd: row.budget_cost_usd, totalTokens: row.budget_total_tokens },
    createdAt: row.created_at.toISOString(),
    updatedAt: row.updated_at.toISOString(),
    completedAt: iso(row.completed_at),
  }
}

/** The stored form of a run id from a path. @throws ApiError `run_not_found` when it cannot be one */
export function runKey(id: string): string {
  const run = parseId('run', id)
  if (!run) throw new ApiError('run_not_found', `No run ${printable(id)} in this project.`)
  return run
}

const printable = (text: string) => JSON.stringify(text.slice(0, 60))

/** Reads one run of the caller's project. @throws ApiError `run_not_found`, also for a run the caller may not see */
export async function readRun(db: Queryable, caller: Caller, run: string): Promise<RunRow> {
  const rows = await db.query<RunRow>(
    { name: 'runs.read', text: `select * from tidebase.runs r where ${runIs('r', '$1::integer', '$2')}` },
    [caller.project, run],
  )
  const row = rows[0]
  if (!row || !mayRead(caller, row)) throw new ApiError('run_not_found')
  return row
}

const ends = new Set<Run['status']>(['completed', 'failed', 'cancelled'])

/** Whether nobody works on a run of this status any more. */
export const hasEnded = (status: Run['status']) => ends.has(status)

/** An `enqueue` key reads back only what it created. */
export function mayRead(caller: Caller, row: { created_by: string | null }): boolean {
  return caller.scope !== 'enqueue' || (caller.keyId !== null && row.created_by === caller.keyId)
}

interface NewRunCall {
  project: number
  id: string
  workflow_name: string
  input?: unknown
  metadata?: object | null
  recovery_webhook?: string | null
  channels?: { id: string; type: string; url: string; secret?: string | null; events?: string[] | null }[] | null
  queue?: string | null
  dedupe_key?: string | null
  concurrency_key?: string | null
  priority?: number | null
  run_at?: string | null
  delay_ms?: number | null
  max_attempts?: number | null
  deadline_ms?: number | null
  budget_cost_usd?: number | null
  budget_total_tokens?: number | null
  created_by?: string | null
  owner?: string | null
  lease_ms?: number | null
}

/** SQL: the columns a call needs to become a run; shared by create, enqueue and child. */
export const newRunColumns = [
  'project integer',
  'id uuid',
  'workflow_name text',
  'input json',
  'metadata jsonb',
  'recovery_webhook text',
  'channels json',
  'queue text',
  'dedupe_key text',
  'concurrency_key text',
  'priority integer',
  'run_at timestamptz',
  'delay_ms double precision',
  'max_attempts integer',
  'deadline_ms double precision',
  'budget_cost_usd numeric',
  'budget_total_tokens bigint',
  'created_by uuid',
  'owner text',
  'lease_ms double precision',
]

/** SQL: inserts the rows of `source` as runs and their channels, announcing each; a row with an owner is begun by it. */
export const insertRuns = (source: string) => `inserted as (
  insert into tidebase.runs (project, id, workflow_name, input, metadata, status, recovery_webhook, has_channels,
    queue, dedupe_key, concurrency_key, priority, run_at, max_attempts, deadline_at, budget_cost_usd,
    budget_total_tokens, event_seq, created_by, lease_owner, lease_expires_at, attempt)
  select project, id, workflow_name, coalesce(input, '{}'), coalesce(metadata, '{}'),
    case when owner is not null then 'running' when queue is null then 'pending' else 'queued' end,
    recovery_webhook, channels is not null,
    queue, dedupe_key, case when queue is not null then concurrency_key end, coalesce(priority, 0),
    case when queue is not null then coalesce(run_at, now() + coalesce(delay_ms, 0) * interval '1 ms') end,
    coalesce(max_attempts, 1), now() + deadline_ms * interval '1 ms', budget_cost_usd, budget_total_tokens,
    case when owner is null then 1 else 2 end, created_by, owner,
    case when owner is not null then now() + lease_ms * interval '1 ms' end, case when owner is null then 0 else 1 end
  from ${source} order by project, queue, dedupe_key, i
  on conflict do nothing
  returning *
), ${keepLive('inserted')}, keyed as (
  -- Once per queue; without a lock that a claim would wait for.
  insert into tidebase.queues (project, name, keyed)
  select n.project, n.queue, true
  from (select distinct project, queue from inserted where concurrency_key is not null order by project, queue) n
  left join lateral (
    select q.keyed from tidebase.queues q where q.project = n.project and q.name = n.queue offset 0
  ) q on true
  where q.keyed is not true
  on conflict (project, name) do update set keyed = true
), listening as (
  insert into tidebase.channels (project, run_id, id, type, url, secret, events)
  select c.project, c.id, h.id, h.type, h.url, h.secret, coalesce(h.events, '{}')
  from ${source} c
  join inserted n on n.project = c.project and n.id = c.id
  cross join lateral json_to_recordset(c.channels) as h(id uuid, type text, url text, secret text, events text[])
  where n.has_channels
  returning *
), born as materialized (
  select project, id as run, 1 as seq, case when queue is null then 'run.created' else 'run.enqueued' end as type,
    case when queue is null then json_build_object('workflowName', workflow_name)
      else json_build_object('workflowName', workflow_name, 'queue', queue, 'runAt', run_at) end as payload
  from inserted
  union all
  select project, id, 2, 'run.started', json_build_object('leaseOwner', lease_owner, 'attempt', attempt)
  from inserted where lease_owner is not null
), announced as (
  insert into tidebase.events (project, run_id, seq, type, payload) select * from born order by seq
), announced_to as (
  insert into tidebase.deliveries (project, run_id, kind, reason, channel_id, url, payload)
  select b.project, b.run, 'channel', b.type, l.id, l.url, b.payload from born b
  join listening l on l.project = b.project and l.run_id = b.run
  where l.events = '{}' or b.type = any (l.events)
)`

// A repeated id answers with the run it made; an active dedupe key with the run that holds it. A holder that this
// statement's snapshot does not show yet is found by the next batch.
const createStatement = <Row extends MadeRow>(name: string, shown: string) =>
  statement<NewRunCall, Row>(
    name,
    newRunColumns,
    `${insertRuns('calls')}, existing as (
    select c.i as call, case when r.id = c.id then 'repeated' else 'deduplicated' end as did, ${shown}
    from calls c
    cross join lateral (
      select r.* from tidebase.runs r where ${runIs('r', 'c.project', 'c.id')}
      union all
      select r.* from tidebase.runs r where r.project = c.project and r.queue = c.queue
        and r.held_key = c.dedupe_key
      limit 1
    ) r
    where not exists (select from inserted n where n.project = c.project and n.id = c.id)
  ), answers as (
    select c.i as call, 'created' as did, ${shown} from calls c join inserted r on r.project = c.project and r.id = c.id
    union all select * from existing
  )
  select c.i, coalesce(a.did, 'again') as action, a.* from calls c left join answers a on a.call = c.i`,
  )

/** What must be known of a run that was made or found. */
type MadeRow = Pick<RunRow, 'id' | 'workflow_name' | 'queue'>
const createRuns = createStatement<RunRow>('runs.create', 'r.*')
const createRunsBriefly = createStatement<MadeRow>('runs.create_brief', 'r.id, r.workflow_name, r.queue')

type NewRunBody = BodyOf<Routes['createRun']> &
  Partial<Omit<BodyOf<Routes['enqueue']>, keyof BodyOf<Routes['createRun']> | 'workflowName'>>

/**
 * The row of a new run as a call. Checks where its webhooks point.
 *
 * @throws ApiError `webhook_target_refused`
 */
export function newRun(
  engine: Engine,
  caller: Caller,
  workflowName: string,
  body: NewRunBody,
  queue: string | null = null,
): NewRunCall {
  if (body.recoveryWebhook) checkWebhookTarget(engine.settings, body.recoveryWebhook, 'recoveryWebhook')
  for (const [n, { url }] of (body.channels ?? []).entries()) {
    checkWebhookTarget(engine.settings, url, `channels[${n}].url`)
  }
  return {
    project: caller.project,
    id: body.id ? runKey(body.id) : newId(),
    workflow_name: workflowName,
    input: body.input,
    metadata: body.metadata,
    recovery_webhook: body.recoveryWebhook,
    channels: body.channels?.length ? body.channels.map((channel) => ({ ...channel, id: newId() })) : null,
    queue,
    dedupe_key: body.dedupeKey,
    concurrency_key: body.concurrencyKey,
    priority: body.priority,
    run_at: body.runAt,
    delay_ms: body.delayMs,
    max_attempts: body.maxAttempts,
    deadline_ms: body.deadlineMs,
    budget_cost_usd: body.budget?.costUsd,
    budget_total_tokens: body.budget?.totalTokens,
    created_by: caller.keyId,
  }
}

interface Made<Row extends MadeRow> {
  row: Row
  created: boolean
  deduplicated: boolean
}

/** Creates the run of a call, or finds the one that stands in its place. */
export async function insertRun(engine: Engine, call: NewRunCall): Promise<Made<RunRow>> {
  return made(engine, call, await submit(engine, createRuns, call))
}

/** As `insertRun`, for who only asks for the run's id. */
export async function insertRunBriefly(engine: Engine, call: NewRunCall): Promise<Made<MadeRow>> {
  return made(engine, call, await submit(engine, createRunsBriefly, call))
}

function made<Row extends MadeRow & Answer>(engine: Engine, call: NewRunCall, row: Row): Made<Row> {
  if (row.action === 'repeated' && row.workflow_name !== call.workflow_name) throw new ApiError('run_conflict')
  if (row.action === 'created') {
    if (row.queue !== null) engine.wakeups.queued(call.project, row.queue)
    else engine.wakeups.created(call.project)
    if (call.channels) engine.wakeups.outbox()
  }
  return { row, created: row.action === 'created', deduplicated: row.action === 'deduplicated' }
}

/**
 * Creates a run: pending, or begun at once.
 *
 * @throws ApiError `run_conflict`, `webhook_target_refused`; `forbidden` for a key that may not begin runs
 */
export async function createRun(
  engine: Engine,
  caller: Caller,
  workflowName: string,
  body: BodyOf<Routes['createRun']>,
): Promise<ReplyOf<Routes['createRun']>> {
  const owner = body.begin?.leaseOwner
  if (owner !== undefined && caller.scope === 'enqueue') {
    throw new ApiError('forbidden', 'A key of scope enqueue may create runs, but not begin them.', {
      hint: 'Leave `begin` out, or use a key of scope worker.',
    })
  }
  const call = { ...newRun(engine, caller, workflowName, body), owner, lease_ms: engine.settings.leaseMs }
  const { row, created } = await insertRun(engine, call)
  return { run: toRun(row), ...(created && owner !== undefined ? { leaseOwner: owner } : {}) }
}

/** Throws the error that an action of a statement stands for, if it stands for one. */
export function refuse(action: string): void {
  if (action === 'missing') throw new ApiError('run_not_found')
  if (action === 'cancelled') throw new ApiError('run_cancelled')
  if (action === 'lease_lost') throw new ApiError('lease_lost')
}
