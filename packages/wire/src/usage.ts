// Usage: an append-only ledger of tokens and money per run.
import { z } from 'zod'
import { Id, Json, JsonObject, Text, Timestamp, TimestampInput } from './json.ts'
import { route } from './route.ts'

export const Usage = z
  .object({
    id: z.string(),
    runId: z.string(),
    stepId: z.string().nullable(),
    kind: z.string(),
    provider: z.string().nullable(),
    model: z.string().nullable(),
    label: z.string().nullable(),
    quantity: z.number().nullable(),
    unit: z.string().nullable(),
    inputTokens: z.number().nullable(),
    outputTokens: z.number().nullable(),
    totalTokens: z.number().nullable(),
    costUsd: z.number().nullable(),
    metadata: Json,
    createdAt: Timestamp,
  })
  .meta({ id: 'Usage' })

const Tokens = z.int().min(0).max(Number.MAX_SAFE_INTEGER)

export const sumUsage = route({
  method: 'GET',
  path: '/usage',
  summary: 'Sums of the project’s ledger by workflow, model, provider or day (UTC).',
  scopes: ['read'],
  query: z.object({
    groupBy: z.enum(['workflow', 'model', 'provider', 'day']).optional().describe('day unless given'),
    from: TimestampInput.optional(),
    to: TimestampInput.optional().describe('exclusive'),
  }),
  reply: z.object({
    sums: z.array(
      z.looseObject({
        key: z.string().nullable(),
        entries: z.int(),
        inputTokens: z.number(),
        outputTokens: z.number(),
        totalTokens: z.number(),
        costUsd: z.number(),
      }),
    ),
  }),
  errors: ['invalid_query'],
})

export const recordUsage = route({
  method: 'POST',
  path: '/runs/:runId/usage',
  summary: 'Append to the run’s ledger. `totalTokens` defaults to input plus output.',
  scopes: ['worker'],
  body: z.object({
    id: Id('use').nullish().describe('Chosen by the caller, so that a repeated call is counted once'),
    stepId: z.string().max(100).nullish(),
    kind: Text.min(1).nullish(),
    provider: Text.nullish(),
    model: Text.nullish(),
    label: Text.nullish(),
    quantity: z.number().nullish(),
    unit: Text.nullish(),
    inputTokens: Tokens.nullish(),
    outputTokens: Tokens.nullish(),
    totalTokens: Tokens.nullish(),
    costUsd: z.number().min(-1e12).max(1e12).nullish(),
    metadata: JsonObject.nullish(),
  }),
  reply: z.object({ usage: Usage }),
  errors: ['run_not_found'],
})
