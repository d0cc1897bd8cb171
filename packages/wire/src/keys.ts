// API keys of a project, for its admins; and who a key is, for everybody who holds one.
import { z } from 'zod'
import { Text, Timestamp } from './json.ts'
import { route } from './route.ts'

export const KeyScope = z.enum(['admin', 'worker', 'enqueue', 'read'])

export const ApiKey = z
  .object({
    id: z.string(),
    project: z.string(),
    name: z.string(),
    scope: KeyScope,
    hint: z.string().describe('Its last four characters'),
    createdAt: Timestamp,
    revokedAt: Timestamp.nullable(),
  })
  .meta({ id: 'ApiKey' })

export const whoAmI = route({
  method: 'GET',
  path: '/whoami',
  summary: 'The project and the scope of the key that asks.',
  scopes: ['worker', 'enqueue', 'read'],
  reply: z.object({
    project: z.string(),
    scope: KeyScope,
    keyId: z.string().nullable().describe('null for the server’s own key, and without keys'),
    keyless: z.boolean().describe('Nobody needs a key here'),
  }),
  errors: [],
})

export const listKeys = route({
  method: 'GET',
  path: '/keys',
  summary: 'The keys of the project, revoked ones included. Their secrets are stored nowhere.',
  scopes: [],
  reply: z.object({ keys: z.array(ApiKey) }),
  errors: [],
})

export const createKey = route({
  method: 'POST',
  path: '/keys',
  summary: 'Make a key for the project. The answer is the only time its secret is shown.',
  scopes: [],
  body: z.object({ name: Text.min(1), scope: KeyScope }),
  reply: z.object({ key: ApiKey, secret: z.string() }),
  errors: [],
})

export const revokeKey = route({
  method: 'DELETE',
  path: '/keys/:keyId',
  summary: 'Revoke a key of the project. Servers notice within five seconds.',
  scopes: [],
  reply: z.object({ revoked: z.literal(true) }),
  errors: ['key_not_found'],
})
