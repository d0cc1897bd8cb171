// Schedules: enqueue a run at the times of a cron expression.
import { z } from 'zod'
import { Json, Name, Timestamp } from './json.ts'
import { route } from './route.ts'

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
    nextRunAt: Timestamp.nullable(),
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

export const deleteSchedule = route({
  method: 'DELETE',
  path: '/schedules/:name',
  summary: 'Delete a schedule. Runs it has made stay.',
  scopes: ['worker'],
  reply: z.object({ deleted: z.boolean() }),
  errors: ['schedule_not_found'],
})
