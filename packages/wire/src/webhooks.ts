// Webhooks: what the server calls. Recovery and invoke ask for a run to be executed, channels tell of events.
import { z } from 'zod'
import { Json, Timestamp, WebUrl } from './json.ts'
import { route } from './route.ts'

/** A channel as a client gives it. An empty list of events means all. */
export const ChannelInput = z.object({
  type: z.literal('webhook'),
  url: WebUrl,
  secret: z.string().min(1).max(1_000).nullish(),
  events: z.array(z.string().max(100)).max(100).nullish(),
})

export const Channel = z
  .object({
    id: z.string(),
    runId: z.string(),
    type: z.string(),
    url: z.string(),
    events: z.array(z.string()),
    createdAt: Timestamp,
  })
  .meta({ id: 'Channel' })

const Attempted = {
  status: z.enum(['pending', 'delivered', 'failed']),
  tries: z.int(),
  httpStatus: z.int().nullable(),
  responseBody: z.string().nullable(),
  errorText: z.string().nullable(),
  nextTryAt: Timestamp.nullable(),
  createdAt: Timestamp,
  updatedAt: Timestamp,
}

export const RecoveryAttempt = z
  .object({ id: z.string(), runId: z.string(), reason: z.string(), url: z.string(), ...Attempted })
  .meta({ id: 'RecoveryAttempt' })

export const ChannelDelivery = z
  .object({
    id: z.string(),
    runId: z.string(),
    channelId: z.string(),
    gateId: z.string().nullable(),
    type: z.string(),
    payload: Json,
    ...Attempted,
  })
  .meta({ id: 'ChannelDelivery' })

export const redeliver = route({
  method: 'POST',
  path: '/runs/:runId/deliveries/:deliveryId/redeliver',
  summary: 'Send a webhook to a channel or a recovery webhook once more, with all its tries.',
  scopes: ['worker'],
  body: z.object({}),
  reply: z.object({ delivery: z.object({ id: z.string(), runId: z.string(), ...Attempted }) }),
  errors: ['run_not_found', 'delivery_not_found'],
})
