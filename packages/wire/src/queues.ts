// Queues: a job is a run that waits to be claimed.
import { z } from 'zod'
import { IntParam, LeaseOwner, Name, Timestamp, WebUrl } from './json.ts'
import { route } from './route.ts'
import { JobOptions, NewRun, Run } from './runs.ts'
import { Checkpoint } from './steps.ts'

export const QueueConfig = z
  .object({
    name: z.string(),
    concurrency: z.int().nullable(),
    ratePerMinute: z.int().nullable(),
    perKeyConcurrency: z.int().nullable().describe('Runs of one `concurrencyKey` at a time'),
    invokeUrl: z.string().nullable(),
    paused: z.boolean(),
  })
  .meta({ id: 'QueueConfig' })

export const Queue = z
  .object({
    name: z.string(),
    queued: z.int(),
    running: z.int(),
    failed: z.int(),
    completed: z.int(),
    cancelled: z.int(),
    config: QueueConfig.nullable(),
  })
  .meta({ id: 'Queue' })

export const enqueue = route({
  method: 'POST',
  path: '/queues/:queue/enqueue',
  summary: 'Create a run that waits in a queue. At most one active run has a given `dedupeKey`.',
  scopes: ['worker', 'enqueue'],
  body: NewRun.extend(JobOptions.shape).extend({ workflowName: Name }),
  reply: z.object({ run: Run, deduplicated: z.boolean() }),
  errors: ['run_conflict', 'webhook_target_refused'],
})

const Enqueued = z.object({
  run: z.union([Run, Run.pick({ id: true })]).describe('Its id alone when `brief` was asked for'),
  deduplicated: z.boolean(),
})

export const enqueueBatch = route({
  method: 'POST',
  path: '/queues/:queue/enqueue/batch',
  summary: 'Enqueue up to 1,000 jobs in one call; answers in their order. With an `id` each, the call may be repeated.',
  scopes: ['worker', 'enqueue'],
  body: z.object({
    jobs: z
      .array(NewRun.extend(JobOptions.shape).extend({ workflowName: Name }))
      .min(1)
      .max(1_000),
    brief: z.boolean().nullish().describe('Answer with the ids of the runs, not all of them'),
  }),
  reply: z.object({ jobs: z.array(Enqueued) }),
  errors: ['run_conflict', 'webhook_target_refused'],
})

export const pauseQueue = route({
  method: 'POST',
  path: '/queues/:queue/pause',
  summary: 'Hand out no more runs of a queue. What runs already goes on; enqueueing does too.',
  scopes: [],
  body: z.object({}),
  reply: z.object({ config: QueueConfig }),
  errors: [],
})

export const resumeQueue = route({
  method: 'POST',
  path: '/queues/:queue/resume',
  summary: 'Hand out runs of a paused queue again.',
  scopes: [],
  body: z.object({}),
  reply: z.object({ config: QueueConfig }),
  errors: [],
})

/** What whoever executes a claimed run has to know of it. */
export const ClaimedRun = Run.pick({
  id: true,
  workflowName: true,
  input: true,
  metadata: true,
  queue: true,
  concurrencyKey: true,
  attempt: true,
  maxAttempts: true,
}).meta({ id: 'ClaimedRun' })
export type ClaimedRun = z.infer<typeof ClaimedRun>

export const claim = route({
  method: 'POST',
  path: '/queues/claim',
  summary: 'Take ready runs, by priority and then by time. With `waitMs` the answer waits until there is one.',
  scopes: ['worker'],
  alone: true,
  body: z.object({
    queues: z.array(Name).min(1).max(100),
    leaseOwner: LeaseOwner.nullish(),
    limit: z.int().min(1).max(100).nullish(),
    waitMs: z.int().min(0).max(30_000).nullish(),
    include: z.array(z.enum(['checkpoints'])).nullish(),
    brief: z.boolean().nullish().describe('Answer with what is needed to execute the runs, not all of them'),
  }),
  reply: z.object({
    runs: z.array(z.union([Run, ClaimedRun])).describe('Whole unless `brief` was asked for'),
    leaseOwner: z.string(),
    leaseMs: z.number().describe('How long the leases are'),
    checkpoints: z.record(z.string(), z.array(Checkpoint)).optional().describe('By run id, when asked for'),
  }),
  errors: [],
})

export const listQueues = route({
  method: 'GET',
  path: '/queues',
  summary: 'Every queue that has runs or a configuration, with its counts.',
  scopes: ['worker', 'read'],
  reply: z.object({ queues: z.array(Queue) }),
  errors: [],
})

export const configureQueue = route({
  method: 'PUT',
  path: '/queues/:queue/config',
  summary: 'Set a queue’s caps and push address. An absent field keeps its value, null clears it.',
  scopes: [],
  body: z.object({
    concurrency: z.int().min(1).max(1_000_000).nullish(),
    ratePerMinute: z.int().min(1).max(100_000_000).nullish(),
    perKeyConcurrency: z.int().min(1).max(1_000_000).nullish(),
    invokeUrl: WebUrl.nullish(),
  }),
  reply: z.object({ config: QueueConfig }),
  errors: ['webhook_target_refused'],
})

export const queueStats = route({
  method: 'GET',
  path: '/queues/:queue/stats',
  summary:
    'The last minutes of a queue in 60 equal parts: what came, began and ended, how deep it was, how long runs waited.',
  scopes: ['worker', 'read'],
  query: z.object({ minutes: IntParam(1, 1_440).optional().describe('60 unless given') }),
  reply: z.object({
    points: z.array(
      z.object({
        at: Timestamp.describe('Where the part begins'),
        enqueued: z.int(),
        started: z.int(),
        ended: z.int(),
        depth: z.int().describe('Runs that waited when the part ended'),
        waitP50Ms: z.number().nullable(),
        waitP95Ms: z.number().nullable(),
      }),
    ),
    sampled: z.boolean().describe('Only the latest 5,000 runs were looked at: older parts show less than there was'),
  }),
  errors: ['invalid_query'],
})
