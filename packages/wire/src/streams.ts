// Token streams: text that a step produces while it runs, for those who watch. Never in the event log.
import { z } from 'zod'
import { LeaseOwner, Name } from './json.ts'
import { route } from './route.ts'

/** What a frame `event: chunk` of a run's event stream carries. */
export const Chunk = z
  .object({
    runId: z.string(),
    stream: z.string(),
    offset: z.int().describe('Characters (code points) before this chunk; 0 again when the writer started over'),
    chunk: z.string(),
  })
  .meta({ id: 'Chunk' })
export type Chunk = z.infer<typeof Chunk>

export const appendStream = route({
  method: 'POST',
  path: '/runs/:runId/stream',
  summary:
    'Append text to a stream of a run at an offset, counted in characters (code points). Watchers of the run get it as `event: chunk`; it is dropped when the step of that name completes. An offset that was written already changes nothing.',
  scopes: ['worker'],
  body: z
    .object({
      stream: Name,
      offset: z.int().min(0).max(100_000_000),
      chunk: z.string().max(1_000_000),
      reset: z.boolean().nullish().describe('Start over at offset 0: what was written before is dropped'),
      leaseOwner: LeaseOwner.nullish(),
    })
    .refine(({ reset, offset }) => !reset || offset === 0, { path: ['offset'], message: 'must be 0 with reset' }),
  reply: z.object({
    nextOffset: z.int().describe('Where to go on'),
    closed: z.boolean().describe('The step of that name is completed: nothing is kept any more'),
  }),
  errors: ['run_not_found', 'run_cancelled', 'run_completed', 'lease_lost', 'stream_gap'],
})
