// The project that a key belongs to, and what holds for all of its runs.
import { z } from 'zod'
import { Text } from './json.ts'
import { route } from './route.ts'

export const Project = z
  .object({
    name: z.string(),
    retentionDays: z
      .int()
      .nullable()
      .describe('Days that ended runs are kept; 0 is for ever, null is the server’s default'),
    effectiveRetentionDays: z.int().nullable().describe('What holds now; null is for ever'),
  })
  .meta({ id: 'Project' })

export const getProject = route({
  method: 'GET',
  path: '/project',
  summary: 'The project and scope of the key, and how long ended runs of the project are kept.',
  scopes: ['worker', 'enqueue', 'read'],
  reply: z.object({ project: Project, scope: z.enum(['admin', 'worker', 'enqueue', 'read']) }),
  errors: [],
})

export const configureProject = route({
  method: 'PUT',
  path: '/project',
  summary:
    'Set how long ended runs of the project are kept. An absent field keeps its value, null is the server’s default.',
  scopes: [],
  body: z.object({ retentionDays: z.int().min(0).max(36_500).nullish() }),
  reply: z.object({ project: Project }),
  errors: [],
})

export const createProjectKey = route({
  method: 'POST',
  path: '/projects/:project/keys',
  summary:
    'Make a key in any project, which is made if need be. For the server’s own key (TIDEBASE_API_KEY) only. Repeating the call with one secret makes one key.',
  scopes: [],
  body: z.object({
    name: Text.min(1).max(200),
    scope: z.enum(['admin', 'worker', 'enqueue', 'read']),
    secret: z.string().min(32).max(200).nullish().describe('Chosen by the caller; random unless given'),
  }),
  reply: z.object({ id: z.string(), project: z.string(), secret: z.string() }),
  errors: [],
})
