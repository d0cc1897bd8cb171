// The batch: many calls in one request.
import { z } from 'zod'
import { route } from './route.ts'

/** One call of a batch. Which route is said either by its name or by method and path. */
const BatchCall = z
  .object({
    route: z.string().max(100).optional().describe('Name of the operation, such as `recordStep`'),
    method: z.string().max(10).optional().describe('Instead of `route`, together with `path`'),
    path: z
      .string()
      .max(10_000)
      .regex(/^\/[\x21-\x7e]*$/, 'must begin with / and be percent-encoded')
      .optional()
      .describe('As in an address: percent-encoded, without a query'),
    params: z.record(z.string(), z.string()).optional().describe('Path parameters, when `route` is given'),
    query: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])).optional(),
    body: z.unknown().optional(),
  })
  .refine(
    ({ route, method, path }) => (route === undefined) !== (method === undefined || path === undefined),
    'name the operation by `route`, or by `method` and `path`',
  )
  .meta({ id: 'BatchCall' })
export type BatchCall = z.output<typeof BatchCall>

/** What a call of a batch was answered with: as it would have been alone. */
const BatchAnswer = z
  .object({
    status: z.int(),
    headers: z.record(z.string(), z.string()).optional().describe('`retry-after` and the like, where there are any'),
    body: z.unknown(),
  })
  .meta({ id: 'BatchAnswer' })
export type BatchAnswer = z.input<typeof BatchAnswer>

export const batch = route({
  method: 'POST',
  path: '/batch',
  summary:
    'Up to 500 calls in one request, each admitted, done and answered as if it came alone; the answers are in the order of the calls and leave when all are done. The calls do not wait for each other. Routes that stream, wait or answer in another form than JSON are refused inside.',
  scopes: ['worker', 'enqueue', 'read'],
  alone: true,
  body: z.object({ calls: z.array(BatchCall).max(500) }),
  reply: z.object({ answers: z.array(BatchAnswer) }),
  errors: ['not_in_batch'],
})
