// Runs: one execution of a workflow, from creation to its end.
import { z } from 'zod'
import {
  ErrorText,
  Id,
  IntParam,
  Json,
  JsonObject,
  LeaseOwner,
  Name,
  Text,
  Timestamp,
  TimestampInput,
  WebUrl,
} from './json.ts'
import { route } from './route.ts'
import { Checkpoint } from './steps.ts'
import { ChannelInput, RecoveryAttempt } from './webhooks.ts'

export const RunStatus = z.enum(['pending', 'queued', 'running', 'waiting', 'completed', 'failed', 'cancelled'])
export type RunStatus = z.infer<typeof RunStatus>

export const UsageTotals = z.object({
  inputTokens: z.number(),
  outputTokens: z.number(),
  totalTokens: z.number(),
  costUsd: z.number(),
})

/** What a run may use up; crossing it cancels the run. */
export const Budget = z.object({
  costUsd: z.number().min(0).max(1e12).nullish(),
  totalTokens: z.int().min(0).max(Number.MAX_SAFE_INTEGER).nullish(),
})

export const Run = z
  .object({
    id: z.string(),
    workflowName: z.string(),
    input: Json,
    metadata: JsonObject,
    status: RunStatus,
    result: Json,
    error: z.string().nullable(),
    recoveryWebhook: z.string().nullable(),
    leaseOwner: z.string().nullable(),
    leaseExpiresAt: Timestamp.nullable(),
    attempt: z.int(),
    queue: z.string().nullable(),
    dedupeKey: z.string().nullable(),
    concurrencyKey: z.string().nullable(),
    priority: z.int(),
    runAt: Timestamp.nullable(),
    maxAttempts: z.int(),
    deadlineAt: Timestamp.nullable(),
    cancelRequestedAt: Timestamp.nullable(),
    cancelledAt: Timestamp.nullable(),
    cancelReason: z.string().nullable(),
    cancelActor: z.string().nullable(),
    failureClass: z.string().nullable(),
    usageTotals: UsageTotals,
    budget: Budget.nullable(),
    createdAt: Timestamp,
    updatedAt: Timestamp,
    completedAt: Timestamp.nullable(),
  })
  .meta({ id: 'Run' })
export type Run = z.infer<typeof Run>

/** What a new run is made of, however it is made. */
export const NewRun = z.object({
  id: Id('run').nullish().describe('Chosen by the caller, so that a repeated call makes one run'),
  input: Json.optional(),
  metadata: JsonObject.nullish(),
  recoveryWebhook: WebUrl.nullish(),
  channels: z.array(ChannelInput).max(20).nullish(),
  budget: Budget.nullish(),
})

export const createRun = route({
  method: 'POST',
  path: '/runs/:workflowName',
  summary: 'Create a run; it is pending until a worker begins it, unless `begin` says who does so at once.',
  scopes: ['worker', 'enqueue'],
  body: NewRun.extend({
    begin: z
      .object({ leaseOwner: LeaseOwner })
      .nullish()
      .describe(
        'Begin the new run in the same write. A run that was there already is only shown, without `leaseOwner`',
      ),
  }),
  reply: z.object({ run: Run, leaseOwner: z.string().optional() }),
  errors: ['run_conflict', 'webhook_target_refused'],
})

export const listRuns = route({
  method: 'GET',
  path: '/runs',
  summary: 'List runs, newest first, a page at a time. `metadata.<key>=<value>` filters by metadata.',
  scopes: ['worker', 'enqueue', 'read'],
  query: z
    .object({
      status: RunStatus,
      workflow: Name,
      queue: Name,
      search: z.string().min(1).max(200).describe('Part of the workflow name, or the start of a run id'),
      from: TimestampInput.describe('Created at this time or later'),
      to: TimestampInput.describe('Created before this time'),
      cancelReason: Text.describe('Cancelled for this reason, such as `budget` or `deadline`'),
      before: z.string().max(100).describe('`nextCursor` of the page before: older runs'),
      after: z.string().max(100).describe('A run id or cursor: newer runs'),
      limit: IntParam(1, 500).default(100),
    })
    .partial({
      status: true,
      workflow: true,
      queue: true,
      search: true,
      from: true,
      to: true,
      cancelReason: true,
      before: true,
      after: true,
    })
    .catchall(z.string()),
  reply: z.object({ runs: z.array(Run), nextCursor: z.string().nullable() }),
  errors: ['invalid_query'],
})

export const beginRun = route({
  method: 'POST',
  path: '/runs/:runId/begin',
  summary:
    'Take the run’s lease and start an attempt. The header `x-tidebase-worker` names the lease owner. A completed run answers with its result.',
  scopes: ['worker'],
  query: z.object({ include: z.enum(['checkpoints']).optional() }),
  reply: z.object({
    run: Run,
    leaseOwner: z.string().nullable(),
    checkpoints: z.array(Checkpoint).optional(),
  }),
  errors: ['run_not_found', 'run_cancelled', 'run_leased', 'dedupe_conflict'],
})

export const heartbeatRun = route({
  method: 'POST',
  path: '/runs/:runId/heartbeat',
  summary: 'Extend the run’s lease and the leases of its running steps that the same owner holds.',
  scopes: ['worker'],
  body: z.object({ leaseOwner: LeaseOwner }),
  reply: z.object({ run: Run }),
  errors: ['run_not_found', 'run_cancelled', 'lease_lost'],
})

export const completeRun = route({
  method: 'POST',
  path: '/runs/:runId/complete',
  summary: 'End the run with its result.',
  scopes: ['worker'],
  body: z.object({
    result: Json.optional(),
    leaseOwner: LeaseOwner.nullish(),
    brief: z.boolean().nullish().describe('Answer with the status alone: the run itself is known to who executed it'),
  }),
  reply: z.union([z.object({ run: Run }), z.object({ status: RunStatus })]),
  errors: ['run_not_found', 'lease_lost'],
})

export const failRun = route({
  method: 'POST',
  path: '/runs/:runId/fail',
  summary: 'End the attempt with an error. A queue run with attempts left is queued again with backoff.',
  scopes: ['worker'],
  body: z.object({ error: ErrorText, failureClass: Text.nullish(), leaseOwner: LeaseOwner.nullish() }),
  reply: z.object({ run: Run, requeued: z.boolean() }),
  errors: ['run_not_found', 'lease_lost'],
})

export const retryRun = route({
  method: 'POST',
  path: '/runs/:runId/retry',
  summary:
    'Put a failed run back: queued again at once (or pending, without a queue). Completed steps are not repeated.',
  scopes: ['enqueue'],
  body: z.object({ actor: Text.nullish() }),
  reply: z.object({ run: Run }),
  errors: ['run_not_found', 'run_not_failed', 'dedupe_conflict'],
})

export const forkRun = route({
  method: 'POST',
  path: '/runs/:runId/fork',
  summary:
    'A new run that starts with the completed steps and the state of this one. `fromStep` and what came after it run again.',
  scopes: ['worker'],
  body: z.object({
    id: Id('run').nullish().describe('Of the new run, so that a repeated call makes one'),
    fromStep: Name.nullish().describe('Name of the first step that is not taken over; all are unless given'),
    stateVersion: z
      .int()
      .min(1)
      .max(2_147_483_647)
      .nullish()
      .describe('Version of the state to start with; the latest unless given'),
    input: Json.optional().describe('In place of this run’s input'),
  }),
  reply: z.object({ run: Run }),
  errors: ['run_not_found', 'step_not_found', 'state_not_found', 'run_conflict'],
})

export const cancelRun = route({
  method: 'POST',
  path: '/runs/:runId/cancel',
  summary: 'Cancel the run at once and for good. Its worker learns it at the next step or gate.',
  scopes: ['worker'],
  body: z.object({ reason: Text.nullish(), actor: Text.nullish() }),
  reply: z.object({ run: Run }),
  errors: ['run_not_found', 'run_completed'],
})

export const recoverRun = route({
  method: 'POST',
  path: '/runs/:runId/recover',
  summary: 'Ask the run’s recovery webhook to resume it.',
  scopes: ['worker'],
  body: z.object({ reason: Text.nullish() }),
  reply: z.object({ recoveryAttempt: RecoveryAttempt }),
  errors: ['run_not_found', 'no_recovery_webhook', 'run_cancelled', 'run_completed'],
})

/** When a queue run may start and how it competes; part of an enqueue. */
export const JobOptions = z.object({
  dedupeKey: z.string().min(1).max(500).nullish(),
  concurrencyKey: z
    .string()
    .min(1)
    .max(500)
    .nullish()
    .describe('A tenant: keys take turns, and `perKeyConcurrency` of the queue caps each'),
  delayMs: z.int().min(0).max(315_576_000_000).nullish(),
  runAt: TimestampInput.nullish(),
  maxAttempts: z.int().min(1).max(1_000).nullish(),
  priority: z.int().min(-1_000_000).max(1_000_000).nullish(),
  deadlineMs: z.int().min(1).max(315_576_000_000).nullish(),
})
