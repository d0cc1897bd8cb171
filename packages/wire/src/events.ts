// Events: what happened to a run, numbered from 1 without gaps.
import { z } from 'zod'
import { IntParam, Json, Timestamp } from './json.ts'
import { route } from './route.ts'

export const EventType = z.enum([
  'run.created',
  'run.enqueued',
  'run.claimed',
  'run.started',
  'run.requeued',
  'run.completed',
  'run.failed',
  'run.cancelled',
  'run.retried',
  'run.forked',
  'run.budget_exceeded',
  'run.waiting',
  'run.resumed',
  'run.child.created',
  'step.started',
  'step.completed',
  'step.failed',
  'step.manual_review',
  'step.resolved',
  'state.updated',
  'state.saved',
  'snapshot.created',
  'gate.created',
  'gate.resolved',
  'wait.started',
  'wait.ended',
  'signal.received',
  'usage.recorded',
  'recovery.started',
  'recovery.delivered',
  'recovery.failed',
])
export type EventType = z.infer<typeof EventType>

export const Event = z
  .object({
    id: z.int(),
    runId: z.string(),
    seq: z.int(),
    type: z.string(),
    payload: Json,
    createdAt: Timestamp,
  })
  .meta({ id: 'Event' })
export type Event = z.infer<typeof Event>

export const streamEvents = route({
  method: 'GET',
  path: '/runs/:runId/events',
  summary:
    'Server-sent events: the backlog after `after` (or the header `Last-Event-ID`), then live. Frames with `event: chunk` carry what its steps stream. A comment every 15 s keeps the connection open.',
  scopes: ['worker', 'enqueue', 'read'],
  query: z.object({
    after: IntParam(0, 2_147_483_647).optional(),
    offsets: z
      .string()
      .max(4_000)
      .optional()
      .describe('Where to go on in token streams: `name:offset`, comma-separated, names percent-encoded'),
    token: z.string().optional().describe('The API key, for EventSource, which cannot send headers'),
  }),
  reply: null,
  errors: ['run_not_found', 'invalid_query'],
})

export const streamProjectEvents = route({
  method: 'GET',
  path: '/events',
  summary:
    'Server-sent events of all runs of the project, in the order of their ids: the backlog after the id `after` (or the header `Last-Event-ID`), then live. `after=latest` starts with what happens next.',
  scopes: ['worker', 'read'],
  query: z.object({
    after: z.union([z.literal('latest'), IntParam(0, Number.MAX_SAFE_INTEGER)]).optional(),
    token: z.string().optional().describe('The API key, for EventSource, which cannot send headers'),
  }),
  reply: null,
  errors: ['invalid_query'],
})
