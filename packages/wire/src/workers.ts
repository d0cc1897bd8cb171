// Workers: whoever held a lease of a run lately. They register nowhere; this is what the runs tell of them.
import { z } from 'zod'
import { Timestamp } from './json.ts'
import { route } from './route.ts'

export const Worker = z
  .object({
    name: z.string().describe('The lease owner'),
    running: z.int().describe('Runs whose lease it holds'),
    started: z.int().describe('Attempts it began among the latest events'),
    workflows: z.array(z.string()),
    lastSeenAt: Timestamp.describe('When it began an attempt, or renewed a lease, for the last time'),
  })
  .meta({ id: 'Worker' })

export const listWorkers = route({
  method: 'GET',
  path: '/workers',
  summary: 'Workers seen among the latest 20,000 events, and those that hold a run now; the latest first.',
  scopes: ['read'],
  reply: z.object({ workers: z.array(Worker) }),
  errors: [],
})
