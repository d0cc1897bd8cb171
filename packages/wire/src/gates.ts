// Gates: a run asks a human and waits for the decision.
import { z } from 'zod'
import { IntParam, Json, Milliseconds, Name, Text, Timestamp } from './json.ts'
import { route } from './route.ts'
import { RunStatus } from './runs.ts'

export const GateDecision = z.enum(['approved', 'rejected', 'canceled'])

export const Gate = z
  .object({
    id: z.string(),
    runId: z.string(),
    name: z.string(),
    prompt: z.string(),
    data: Json,
    status: z.enum(['pending', 'approved', 'rejected', 'canceled']),
    decision: GateDecision.nullable(),
    actor: z.string().nullable(),
    decisionPayload: Json,
    capability: Json,
    channels: Json,
    resolveToken: z.string().nullable().describe('null unless the key is an admin key'),
    timeoutAt: Timestamp.nullable(),
    onTimeout: GateDecision,
    createdAt: Timestamp,
    updatedAt: Timestamp,
    resolvedAt: Timestamp.nullable(),
  })
  .meta({ id: 'Gate' })
export type Gate = z.infer<typeof Gate>

export const beginGate = route({
  method: 'POST',
  path: '/runs/:runId/gates/begin',
  summary: 'Open a gate, or learn what became of it. Idempotent by name.',
  scopes: ['worker'],
  body: z.object({
    name: Name,
    prompt: z.string().max(20_000),
    data: Json.optional(),
    channels: Json.optional(),
    capability: Json.optional(),
    timeoutMs: Milliseconds.nullish(),
    onTimeout: GateDecision.nullish(),
  }),
  reply: z.object({ action: z.enum(['wait', 'return']), gate: Gate }),
  errors: ['run_not_found', 'run_cancelled'],
})

export const listGates = route({
  method: 'GET',
  path: '/gates',
  summary: 'The inbox: gates of all runs that wait for a decision, oldest first, a page at a time.',
  scopes: ['read'],
  query: z.object({
    status: z.enum(['pending']).optional(),
    after: z.string().max(100).optional().describe('`nextCursor` of the page before'),
    limit: IntParam(1, 500).optional().describe('100 unless given'),
  }),
  reply: z.object({
    gates: z.array(Gate.extend({ workflowName: z.string(), runStatus: RunStatus })),
    nextCursor: z.string().nullable(),
  }),
  errors: ['invalid_query'],
})

export const getGate = route({
  method: 'GET',
  path: '/runs/:runId/gates/:gateId',
  summary: 'Read a gate. With `waitMs` the answer waits until the gate is resolved or the run ends.',
  scopes: ['worker', 'enqueue', 'read'],
  alone: true,
  query: z.object({ waitMs: IntParam(0, 30_000).optional() }),
  reply: z.object({ gate: Gate, runStatus: RunStatus }),
  errors: ['run_not_found', 'gate_not_found', 'invalid_query'],
})

export const gatePage = route({
  method: 'GET',
  path: '/runs/:runId/gates/:gateId/resolve',
  summary: 'A page to decide a gate on, for people who were sent its address with the token. Looking decides nothing.',
  scopes: [],
  keyless: true,
  query: z.object({ token: z.string().max(200) }),
  reply: null,
  errors: ['gate_not_found', 'invalid_query'],
})

export const decideGate = route({
  method: 'POST',
  path: '/runs/:runId/gates/:gateId/decide',
  summary: 'What the page of a gate posts: the decision as a form, with the token.',
  scopes: [],
  keyless: true,
  form: true,
  body: z.object({
    token: z.string().max(200),
    decision: z.enum(['approved', 'rejected']),
    actor: Text.optional(),
    note: z.string().max(20_000).optional(),
  }),
  reply: null,
  errors: ['gate_not_found', 'gate_resolved', 'run_cancelled'],
})

export const resolveGate = route({
  method: 'POST',
  path: '/runs/:runId/gates/:gateId/resolve',
  summary: 'Decide a gate, exactly once. The token may be left out with an admin key.',
  scopes: ['enqueue'],
  body: z.object({
    token: z.string().max(200).nullish(),
    decision: GateDecision,
    actor: Text.nullish(),
    payload: Json.optional(),
  }),
  reply: z.object({ gate: Gate }),
  errors: ['run_not_found', 'gate_not_found', 'gate_resolved', 'gate_token'],
})
