// Routes about the server itself.
import { z } from 'zod'
import { route } from './route.ts'

export const health = route({
  method: 'GET',
  path: '/health',
  summary: 'Whether the server and its database answer. Never authenticated; 503 while the database is away.',
  scopes: ['worker', 'enqueue', 'read'],
  reply: z.object({ ok: z.literal(true) }),
  errors: ['database_unavailable'],
})

export const openapi = route({
  method: 'GET',
  path: '/openapi.json',
  summary: 'This contract as OpenAPI 3.1.',
  scopes: ['worker', 'enqueue', 'read'],
  reply: null,
  errors: [],
})
