// Many runs at once: how many a filter finds, and cancelling or retrying what it finds.
import { z } from 'zod'
import { Name, Text, TimestampInput } from './json.ts'
import { route } from './route.ts'
import { RunStatus } from './runs.ts'

/** What the list of runs is narrowed down by. */
const filter = {
  status: RunStatus.optional(),
  workflow: Name.optional(),
  queue: Name.optional(),
  search: z.string().min(1).max(200).optional(),
  from: TimestampInput.optional(),
  to: TimestampInput.optional(),
  cancelReason: Text.optional(),
}

export const countRuns = route({
  method: 'GET',
  path: '/runs/count',
  summary: 'How many runs of each status a filter of GET /runs finds; counting stops at 10,000 of one status.',
  scopes: ['worker', 'enqueue', 'read'],
  query: z.object(filter).catchall(z.string()),
  reply: z.object({
    counts: z.record(RunStatus, z.int()),
    atLeast: z.array(RunStatus).describe('Statuses of which there are more than were counted'),
  }),
  errors: ['invalid_query'],
})

const Bulk = z.object({
  filter: z.object(filter).catchall(z.string()).describe('As the query of GET /runs'),
  dryRun: z.boolean().nullish().describe('Change nothing: `matched` says how many runs it would be'),
  actor: Text.nullish(),
})

const changed = z.object({
  matched: z.int().describe('Runs that the filter finds and that can be changed; 10,000 at most'),
  done: z.int().describe('Runs that this call changed; 500 at most'),
  more: z.boolean().describe('Whether the same call would find more'),
})

export const cancelRuns = route({
  method: 'POST',
  path: '/bulk/cancel',
  summary: 'Cancel the live runs that a filter finds, 500 per call. Call again while `more`.',
  scopes: ['worker'],
  body: Bulk.extend({ reason: Text.nullish() }),
  reply: changed,
  errors: ['invalid_query'],
})

export const retryRuns = route({
  method: 'POST',
  path: '/bulk/retry',
  summary: 'Retry the failed runs that a filter finds, 500 per call. Call again while `more`.',
  scopes: ['enqueue'],
  body: Bulk,
  reply: changed,
  errors: ['invalid_query'],
})
