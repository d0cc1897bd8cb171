// Schedules: enqueue a run at the times of a cron expression.
import { z } from 'zod'
import { Id, Json, Name, Timestamp } from './json.ts'
import { route } from './route.ts'
import { Run } from './runs.ts'

/** What becomes of the times that passed while no server ran: nothing, the last of them fires, or each. */
export const CatchUp = z.enum(['none', 'last', 'all'])

export const Schedule = z
  .object({
    name: z.string(),
    cron: z.string(),
    timezone: z.string(),
    workflowName: z.string(),
    input: Json,
    queue: z.string(),
    maxAttempts: z.int(),
    enabled: z.boolean(),
    catchUp: CatchUp,
    nextRunAt: Timestamp.nullable(),
    nextRuns: z.array(Timestamp).describe('The next five times'),
    lastEnqueuedAt: Timestamp.nullable(),
    createdAt: Timestamp,
    updatedAt: Timestamp,
  })
  .meta({ id: 'Schedule' })

export const putSchedule = route({
  method: 'PUT',
  path: '/schedules/:name',
  summary: 'Create or replace a schedule: five-field cron in `timezone` (UTC unless given).',
  scopes: ['worker'],
  body: z.object({
    cron: z.string().min(1).max(200),
    timezone: z.string().min(1).max(100).nullish(),
    workflowName: Name,
    input: Json.optional(),
    queue: Name.nullish(),
    maxAttempts: z.int().min(1).max(1_000).nullish(),
    enabled: z.boolean().nullish(),
    catchUp: CatchUp.nullish().describe('`last` unless given'),
  }),
  reply: z.object({ schedule: Schedule }),
  errors: ['invalid_cron', 'invalid_timezone'],
})

export const listSchedules = route({
  method: 'GET',
  path: '/schedules',
  summary: 'All schedules by name.',
  scopes: ['worker', 'read'],
  reply: z.object({ schedules: z.array(Schedule) }),
  errors: [],
})

export const triggerSchedule = route({
  method: 'POST',
  path: '/schedules/:name/trigger',
  summary: 'Enqueue a run of a schedule now. Its times stay as they are.',
  scopes: ['worker', 'enqueue'],
  body: z.object({ id: Id('run').nullish().describe('Of the run, so that a repeated call makes one') }),
  reply: z.object({ run: Run }),
  errors: ['schedule_not_found', 'run_conflict'],
})

export const deleteSchedule = route({
  method: 'DELETE',
  path: '/schedules/:name',
  summary: 'Delete a schedule. Runs it has made stay.',
  scopes: ['worker'],
  reply: z.object({ deleted: z.boolean() }),
  errors: ['schedule_not_found'],
})
