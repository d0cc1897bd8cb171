// Children: runs that a run starts, joined to it by a named edge.
import { z } from 'zod'
import { JsonObject, Name, Timestamp } from './json.ts'
import { route } from './route.ts'
import { NewRun, Run } from './runs.ts'

export const Edge = z
  .object({
    id: z.string(),
    parentRunId: z.string(),
    childRunId: z.string(),
    name: z.string(),
    edgeType: z.string(),
    metadata: JsonObject,
    createdAt: Timestamp,
  })
  .meta({ id: 'Edge' })

export const createChild = route({
  method: 'POST',
  path: '/runs/:runId/children',
  summary: 'Create a child run. Idempotent by parent and name.',
  scopes: ['worker'],
  body: NewRun.extend({
    name: Name,
    workflowName: Name,
    edgeType: Name.nullish(),
    edgeMetadata: JsonObject.nullish(),
  }),
  reply: z.object({ run: Run, edge: Edge, created: z.boolean() }),
  errors: ['run_not_found', 'run_cancelled', 'run_conflict', 'webhook_target_refused'],
})
