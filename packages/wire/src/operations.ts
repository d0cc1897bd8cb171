// Routes about the server itself.
import { z } from 'zod'
import { route } from './route.ts'

export const health = route({
  method: 'GET',
  path: '/health',
  summary: 'Whether the server and its database answer. Never authenticated; 503 while the database is away.',
  scopes: ['worker', 'enqueue', 'read'],
  keyless: true,
  reply: z.object({ ok: z.literal(true) }),
  errors: ['database_unavailable'],
})

export const llms = route({
  method: 'GET',
  path: '/llms.txt',
  summary: 'What this server is and every route in a line, for language models.',
  scopes: ['worker', 'enqueue', 'read'],
  reply: null,
  errors: [],
})

export const metrics = route({
  method: 'GET',
  path: '/metrics',
  summary: 'Prometheus metrics: the process, requests by route, live runs of the project by queue and status.',
  scopes: ['read'],
  reply: null,
  errors: [],
})

export const mcp = route({
  method: 'POST',
  path: '/mcp',
  summary:
    'Model Context Protocol over Streamable HTTP: tools to look at runs, gates and queues and, where the key may, to decide, retry and cancel.',
  scopes: ['worker', 'enqueue', 'read'],
  reply: null,
  errors: [],
})

export const openapi = route({
  method: 'GET',
  path: '/openapi.json',
  summary: 'This contract as OpenAPI 3.1.',
  scopes: ['worker', 'enqueue', 'read'],
  reply: null,
  errors: [],
})
