// Steps: the units of work whose outputs are checkpoints.
import { z } from 'zod'
import { ErrorText, Json, LeaseOwner, Name, Text, Timestamp, TimestampInput } from './json.ts'
import { route } from './route.ts'

export const StepStatus = z.enum(['running', 'completed', 'failed_retryable', 'manual_review', 'failed'])

/** What a step may do to the world and how it may be repeated; recorded when it begins. */
export const StepOptions = z
  .looseObject({
    retries: z.int().min(0).max(10_000).nullish(),
    timeoutMs: z.number().min(0).nullish(),
    sideEffects: z.array(z.string().max(300)).max(100).nullish(),
    idempotencyKey: z.string().max(1_000).nullish(),
    replay: z.enum(['auto', 'manual', 'never']).nullish(),
    checkpointInvariant: z.string().max(10_000).nullish(),
    verifiedBy: Json.optional(),
    credentials: Json.optional(),
    sideEffect: z.string().max(300).nullish().describe('Older spelling of sideEffects: none, read, write or external'),
    onAmbiguousFailure: z.string().max(300).nullish().describe('Older spelling of replay: retry, review or fail'),
  })
  .meta({ id: 'StepOptions' })

export const ResumeContract = z
  .object({
    sideEffects: z.array(z.string()),
    idempotencyKey: z.string().nullable(),
    replay: z.string().nullable(),
    checkpointInvariant: z.string().nullable(),
    verifiedBy: Json,
    credentials: Json,
  })
  .meta({ id: 'ResumeContract' })

export const ResumeDecision = z.enum(['auto_retry', 'safe_replay', 'manual_review', 'fail_hard'])

export const Step = z
  .object({
    id: z.string(),
    runId: z.string(),
    name: z.string(),
    inputHash: z.string(),
    input: Json,
    options: Json,
    resumeContract: ResumeContract,
    status: StepStatus,
    output: Json,
    error: z.string().nullable(),
    needsReview: z
      .boolean()
      .describe('Its worker died in the middle; somebody must decide whether its effect happened'),
    leaseOwner: z.string().nullable(),
    leaseExpiresAt: Timestamp.nullable(),
    attempt: z.int(),
    startedAt: Timestamp.nullable(),
    completedAt: Timestamp.nullable(),
    createdAt: Timestamp,
    updatedAt: Timestamp,
  })
  .meta({ id: 'Step' })
export type Step = z.infer<typeof Step>

/** What a resuming worker needs of a completed step. */
export const Checkpoint = z
  .object({ id: z.string(), name: z.string(), inputHash: z.string(), output: Json })
  .meta({ id: 'Checkpoint' })
export type Checkpoint = z.infer<typeof Checkpoint>

const StepStart = z.object({
  name: Name,
  inputHash: z.string().min(1).max(200),
  input: Json.optional(),
  options: StepOptions.nullish(),
})

export const beginStep = route({
  method: 'POST',
  path: '/runs/:runId/steps/begin',
  summary: 'Begin a step, or learn what is recorded of it. Exactly one of several first begins may execute it.',
  scopes: ['worker'],
  body: StepStart.extend({
    leaseOwner: LeaseOwner.nullish(),
    /** What the try before failed with, when a worker tries again by itself. The event says it. */
    lastError: ErrorText.nullish(),
  }),
  reply: z.discriminatedUnion('action', [
    z.object({ action: z.literal('execute'), step: Step, leaseOwner: z.string() }),
    z.object({ action: z.literal('return'), step: Step, output: Json }),
    z.object({ action: z.literal('locked'), step: Step }),
    z.object({
      action: z.literal('input_mismatch'),
      step: Step,
      expectedInputHash: z.string(),
      actualInputHash: z.string(),
    }),
    z.object({ action: z.literal('cancelled') }),
  ]),
  errors: ['run_not_found', 'run_completed', 'manual_review', 'step_failed'],
})

export const completeStep = route({
  method: 'POST',
  path: '/runs/:runId/steps/:stepId/complete',
  summary: 'Record the step’s output: the checkpoint. Only the holder of the step’s lease may.',
  scopes: ['worker'],
  body: z.object({ leaseOwner: LeaseOwner, output: Json.optional() }),
  reply: z.object({ step: Step }),
  errors: ['run_not_found', 'step_not_found', 'run_cancelled', 'lease_lost'],
})

export const failStep = route({
  method: 'POST',
  path: '/runs/:runId/steps/:stepId/fail',
  summary: 'Record that the step failed and release its lease.',
  scopes: ['worker'],
  body: z.object({
    leaseOwner: LeaseOwner,
    error: ErrorText,
    retryable: z.boolean().nullish(),
    resumeDecision: ResumeDecision.nullish(),
  }),
  reply: z.object({ step: Step }),
  errors: ['run_not_found', 'step_not_found', 'run_cancelled', 'lease_lost'],
})

export const recordStep = route({
  method: 'POST',
  path: '/runs/:runId/steps/record',
  summary:
    'Begin and complete a replay-safe step in one durable write, under the run’s lease. What was recorded before wins.',
  scopes: ['worker'],
  body: StepStart.extend({
    leaseOwner: LeaseOwner,
    output: Json.optional(),
    attempt: z.int().min(1).max(100_000).nullish().describe('How often the function was tried'),
    startedAt: TimestampInput.nullish(),
  }),
  reply: z.discriminatedUnion('action', [
    z.object({ action: z.literal('recorded'), stepId: z.string() }),
    z.object({ action: z.literal('return'), step: Step, output: Json }),
    z.object({ action: z.literal('locked'), step: Step }),
    z.object({
      action: z.literal('input_mismatch'),
      step: Step,
      expectedInputHash: z.string(),
      actualInputHash: z.string(),
    }),
    z.object({ action: z.literal('cancelled') }),
  ]),
  errors: ['run_not_found', 'lease_lost', 'manual_review', 'step_failed'],
})

export const resolveStep = route({
  method: 'POST',
  path: '/runs/:runId/steps/:stepId/resolve',
  summary: 'Decide about a step in review: run it again, take an output as its result, or let it fail.',
  scopes: [],
  body: z.object({
    decision: z.enum(['retry', 'complete', 'fail']),
    output: Json.optional().describe('The step’s output, for `complete`'),
    actor: Text.nullish(),
  }),
  reply: z.object({ step: Step }),
  errors: ['run_not_found', 'step_not_found', 'run_cancelled', 'step_not_in_review'],
})
