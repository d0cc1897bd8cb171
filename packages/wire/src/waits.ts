// Waits: a run sleeps until a time or until a signal is sent to it, with or without a worker.
import { z } from 'zod'
import { IntParam, Json, LeaseOwner, Milliseconds, Name, Text, Timestamp, TimestampInput } from './json.ts'
import { route } from './route.ts'
import { Run, RunStatus } from './runs.ts'

export const Wait = z
  .object({
    id: z.string(),
    runId: z.string(),
    name: z.string(),
    kind: z.enum(['timer', 'signal']),
    signal: z.string().nullable().describe('The signal that ends it'),
    status: z.enum(['pending', 'resolved', 'timed_out']),
    payload: Json.describe('What came with the signal'),
    dueAt: Timestamp.nullable().describe('When the timer fires, or the wait for the signal is given up'),
    createdAt: Timestamp,
    resolvedAt: Timestamp.nullable(),
  })
  .meta({ id: 'Wait' })

export const Signal = z
  .object({
    id: z.string(),
    runId: z.string(),
    name: z.string(),
    payload: Json,
    waitId: z.string().nullable().describe('The wait that took it'),
    createdAt: Timestamp,
  })
  .meta({ id: 'Signal' })

const begun = z.object({ action: z.enum(['wait', 'return']), wait: Wait })

export const createTimer = route({
  method: 'POST',
  path: '/runs/:runId/timers',
  summary: 'Start a timer of a run, or learn what became of it. Idempotent by name.',
  scopes: ['worker'],
  body: z
    .object({ name: Name, wakeAt: TimestampInput.nullish(), delayMs: Milliseconds.nullish() })
    .describe('Either `wakeAt` or `delayMs`'),
  reply: begun,
  errors: ['run_not_found', 'run_cancelled', 'invalid_body'],
})

export const waitForSignal = route({
  method: 'POST',
  path: '/runs/:runId/signals/wait',
  summary: 'Wait for the next signal of a name that no other wait has taken. Idempotent by the wait’s own name.',
  scopes: ['worker'],
  body: z.object({ name: Name, signal: Name, timeoutMs: Milliseconds.nullish() }),
  reply: begun,
  errors: ['run_not_found', 'run_cancelled'],
})

export const getWait = route({
  method: 'GET',
  path: '/runs/:runId/waits/:waitId',
  summary: 'Read a timer or a wait. With `waitMs` the answer waits until it is over or the run ends.',
  scopes: ['worker', 'enqueue', 'read'],
  alone: true,
  query: z.object({ waitMs: IntParam(0, 30_000).optional() }),
  reply: z.object({ wait: Wait, runStatus: RunStatus }),
  errors: ['run_not_found', 'wait_not_found', 'invalid_query'],
})

export const sendSignal = route({
  method: 'POST',
  path: '/runs/:runId/signals',
  summary: 'Send a signal to a run. It is kept until the run waits for it.',
  scopes: ['worker', 'enqueue'],
  body: z.object({
    name: Name,
    payload: Json.optional(),
    idempotencyKey: Name.nullish().describe('A repeated call with the same key is one signal'),
  }),
  reply: z.object({ signal: Signal }),
  errors: ['run_not_found', 'run_cancelled', 'run_completed'],
})

export const parkRun = route({
  method: 'POST',
  path: '/runs/:runId/park',
  summary: 'Give the run up while it waits: no lease, no worker, no attempt used. Whatever ends a wait puts it back.',
  scopes: ['worker'],
  body: z.object({
    leaseOwner: LeaseOwner,
    reason: Text.nullish(),
    waitingFor: z.array(z.string().max(100)).min(1).max(1_000).describe('Ids of the waits, gates and steps in review'),
  }),
  reply: z.object({
    action: z.enum(['parked', 'continue']).describe('`continue` when one of them is over already: the lease stays'),
    run: Run,
  }),
  errors: ['run_not_found', 'run_cancelled', 'lease_lost'],
})
