// Schedules: enqueue a run at the times of a cron expression.
//
// A fire enqueues exactly once whatever the number of servers: the run's id is made from project, schedule and fire
// time, so a second insert finds the first, also after the run has ended; then the schedule moves on from that very
// fire time. A crash in between repeats a call that changes nothing.
import { createHash } from 'node:crypto'
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { Cron } from 'croner'
import type { Caller, Engine } from './engine.ts'
import { ApiError } from './errors.ts'
import { insertRun, newRun, toRun } from './runs.ts'

type Schedule = ReplyOf<Routes['putSchedule']>['schedule']

interface ScheduleRow {
  project: number
  name: string
  cron: string
  timezone: string
  workflow_name: string
  input: unknown
  queue: string
  max_attempts: number
  enabled: boolean
  catch_up: Schedule['catchUp']
  next_run_at: Date | null
  last_enqueued_at: Date | null
  last_fire_at: Date | null
  created_at: Date
  updated_at: Date
}

function toSchedule(row: ScheduleRow): Schedule {
  return {
    name: row.name,
    cron: row.cron,
    timezone: row.timezone,
    workflowName: row.workflow_name,
    input: row.input,
    queue: row.queue,
    maxAttempts: row.max_attempts,
    enabled: row.enabled,
    catchUp: row.catch_up,
    nextRunAt: row.next_run_at?.toISOString() ?? null,
    nextRuns: nextRuns(row),
    lastEnqueuedAt: row.last_enqueued_at?.toISOString() ?? null,
    createdAt: row.created_at.toISOString(),
    updatedAt: row.updated_at.toISOString(),
  }
}

/** The next five times of an enabled schedule. */
function nextRuns({ cron, timezone, next_run_at }: ScheduleRow): string[] {
  const times: string[] = []
  for (let at = next_run_at; at && times.length < 5; at = nextTime(cron, timezone, at)) times.push(at.toISOString())
  return times
}

const hourMs = 3_600_000
const dayMs = 24 * hourMs

/** How far a zone's clock is ahead of UTC at a time, ms. */
function offsets(timezone: string): (at: number) => number {
  const clock = new Intl.DateTimeFormat('en', {
    timeZone: timezone,
    calendar: 'gregory',
    numberingSystem: 'latn',
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  })
  return (at) => {
    const parts: Partial<Record<Intl.DateTimeFormatPartTypes, number>> = {}
    for (const { type, value } of clock.formatToParts(at)) parts[type] = Number(value)
    const { year = 0, month = 1, day, hour, minute, second } = parts
    return Date.UTC(year, month - 1, day, hour, minute, second) - Math.floor(at / 1_000) * 1_000
  }
}

/**
 * The first time of an expression after `from`. Day of month and day of week are a union, as in cron(8).
 *
 * When clocks change, every time that the expression names comes once: one that the clock skips comes later by what is
 * skipped (02:30 at 03:30), of one that the clock shows twice the first counts. An expression for every hour (`*`)
 * follows elapsed time instead: it goes on through the repeated hour. (The library alone loses and doubles times.)
 *
 * @returns null when there is none
 */
export function nextTime(cron: string, timezone: string, from: Date): Date | null {
  // The library counts on the zone's clock as if that were UTC, where no time is missing or there twice.
  const clockTimes = new Cron(cron, { timezone: 'UTC', mode: '5-part', paused: true })
  const offset = offsets(timezone)
  const everyHour = /^\s*\S+\s+[*?]\s/.test(cron)
  const start = from.getTime()
  let best: number | undefined
  let clock = new Date(start + Math.min(offset(start - dayMs), offset(start), offset(start + dayMs)))
  for (;;) {
    const found = clockTimes.nextRun(clock)
    if (!found) break
    clock = found
    const shown = found.getTime()
    const before = offset(shown - dayMs)
    const after = offset(shown + dayMs)
    // Around a change a later time on the clock may come sooner.
    if (best !== undefined && shown - Math.max(before, after) >= best) break
    const real = [...new Set([before, after])].map((ahead) => shown - ahead).filter((at) => shown - offset(at) === at)
    const once = real.length > 0 ? Math.min(...real) : shown - before
    for (const at of everyHour ? real : [once]) if (at > start && at < (best ?? Number.POSITIVE_INFINITY)) best = at
    if (best !== undefined && before === after) break
  }
  return best === undefined ? null : new Date(best)
}

/** @throws ApiError `invalid_timezone`, `invalid_cron` */
function checkTimes(cron: string, timezone: string): void {
  try {
    new Intl.DateTimeFormat('en', { timeZone: timezone })
  } catch {
    throw new ApiError('invalid_timezone', `There is no time zone ${JSON.stringify(timezone)}.`, {
      issues: [{ path: 'timezone', message: 'must be an IANA name' }],
    })
  }
  const refuse = (message: string) => {
    throw new ApiError('invalid_cron', `The cron expression ${JSON.stringify(cron)} cannot be run: ${message}.`, {
      issues: [{ path: 'cron', message }],
    })
  }
  if (cron.trim().split(/\s+/).length !== 5) refuse('it must have five fields')
  let next: Date | null = null
  try {
    next = nextTime(cron, timezone, new Date())
  } catch (error) {
    refuse(error instanceof Error ? error.message.replace(/^CronPattern: /, '') : String(error))
  }
  if (!next) refuse('its date never comes')
}

/**
 * Creates or replaces a schedule. Its next time stays unless its expression, its zone or `enabled` changes.
 *
 * @throws ApiError `invalid_cron`, `invalid_timezone`
 */
export async function putSchedule(
  engine: Engine,
  caller: Caller,
  name: string,
  body: BodyOf<Routes['putSchedule']>,
): Promise<ReplyOf<Routes['putSchedule']>> {
  const timezone = body.timezone ?? 'UTC'
  checkTimes(body.cron, timezone)
  const db = engine.db.cold
  const [clock] = await db.query<{ now: Date }>('select now()')
  const next = clock && nextTime(body.cron, timezone, clock.now)
  const [row] = await db.query<ScheduleRow>(
    `insert into tidebase.schedules as s
      (project, name, cron, timezone, workflow_name, input, queue, max_attempts, enabled, next_run_at, catch_up)
    values ($1, $2, $3, $4, $5, coalesce($6::json, '{}'), coalesce($7, 'default'), coalesce($8, 1),
      coalesce($9, true), $10, coalesce($11, 'last'))
    on conflict (project, name) do update set cron = excluded.cron, timezone = excluded.timezone,
      workflow_name = excluded.workflow_name, input = excluded.input, queue = excluded.queue,
      max_attempts = excluded.max_attempts, enabled = excluded.enabled, catch_up = excluded.catch_up, updated_at = now(),
      next_run_at = case
        when s.cron = excluded.cron and s.timezone = excluded.timezone and s.enabled = excluded.enabled
          then s.next_run_at
        else excluded.next_run_at end
    returning *`,
    [
      caller.project,
      name,
      body.cron,
      timezone,
      body.workflowName,
      body.input === undefined ? null : JSON.stringify(body.input),
      body.queue ?? null,
      body.maxAttempts ?? null,
      body.enabled ?? null,
      next,
      body.catchUp ?? null,
    ],
  )
  if (!row) throw new Error('the schedule was not returned')
  return { schedule: toSchedule(row) }
}

/** All schedules of the project by name. */
export async function listSchedules(engine: Engine, caller: Caller): Promise<ReplyOf<Routes['listSchedules']>> {
  const rows = await engine.db.cold.query<ScheduleRow>(
    'select * from tidebase.schedules where project = $1 order by name',
    [caller.project],
  )
  return { schedules: rows.map(toSchedule) }
}

/** Deletes a schedule; runs it has made stay. @throws ApiError `schedule_not_found` */
export async function deleteSchedule(
  engine: Engine,
  caller: Caller,
  name: string,
): Promise<ReplyOf<Routes['deleteSchedule']>> {
  const rows = await engine.db.cold.query(
    'delete from tidebase.schedules where project = $1 and name = $2 returning name',
    [caller.project, name],
  )
  if (rows.length === 0) throw new ApiError('schedule_not_found')
  return { deleted: true }
}

/** Enqueues a run of a schedule now. @throws ApiError `schedule_not_found`, `run_conflict` */
export async function triggerSchedule(
  engine: Engine,
  caller: Caller,
  name: string,
  { id }: BodyOf<Routes['triggerSchedule']>,
): Promise<ReplyOf<Routes['triggerSchedule']>> {
  const [row] = await engine.db.cold.query<ScheduleRow>(
    'select * from tidebase.schedules where project = $1 and name = $2',
    [caller.project, name],
  )
  if (!row) throw new ApiError('schedule_not_found')
  const metadata = { schedule: row.name, triggered: true }
  const body = { id: id ?? undefined, input: row.input, metadata, maxAttempts: row.max_attempts }
  const made = await insertRun(engine, newRun(engine, caller, row.workflow_name, body, row.queue))
  return { run: toRun(made.row) }
}

/** A time that is older than this was missed, not just looked at late, ms. */
const lateMs = 60_000
/** Schedules that one look takes. */
const batch = 500

/**
 * Enqueues what is due by the database's clock. After a downtime a schedule's `catch_up` tells what fires.
 *
 * @returns how many runs were made
 * @throws what went wrong with the first schedule that could not fire, after the others
 */
export async function fireSchedules(engine: Engine): Promise<number> {
  let made = 0
  for (;;) {
    const due = await engine.db.cold.query<ScheduleRow & { now: Date }>(
      `select *, now() as now from tidebase.schedules
        where enabled and next_run_at is not null and next_run_at <= now() order by next_run_at limit $1`,
      [batch],
    )
    const fires = await Promise.allSettled(due.map((row) => fire(engine, row, row.now)))
    for (const each of fires) if (each.status === 'fulfilled' && each.value) made++
    const failed = fires.find((each) => each.status === 'rejected')
    if (failed) throw failed.reason
    // One that makes up for each missed time is due again at once.
    if (due.length < batch && !due.some((row) => row.catch_up === 'all')) return made
  }
}

/** @returns whether this call made the run */
async function fire(engine: Engine, row: ScheduleRow, now: Date): Promise<boolean> {
  if (!row.next_run_at) return false
  const all = row.catch_up === 'all'
  const at = all ? row.next_run_at : latestMissed(row, row.next_run_at, now)
  const advance = (fired?: Date) => moveOn(engine, row, nextTime(row.cron, row.timezone, all ? at : now), fired)
  if (row.catch_up === 'none' && now.getTime() - at.getTime() > lateMs) {
    await advance()
    return false
  }
  // It did, and its run may have been deleted since.
  if (row.last_fire_at && at <= row.last_fire_at) {
    await advance()
    return false
  }
  const fireTime = at.toISOString()
  const caller: Caller = { project: row.project, scope: 'admin', keyId: null }
  const dedupeKey = `sched:${row.name}:${fireTime}`
  const body = {
    input: row.input,
    metadata: { schedule: row.name, fireTime },
    dedupeKey,
    maxAttempts: row.max_attempts,
  }
  const call = {
    ...newRun(engine, caller, row.workflow_name, body, row.queue),
    id: fireId(row, at, dedupeKey),
  }
  const made = await insertRun(engine, call).then(
    ({ deduplicated }) => !deduplicated,
    (error) => {
      // It fired before the schedule was given another workflow, and nobody moved it on.
      if (error instanceof ApiError && error.code === 'run_conflict') return false
      throw error
    },
  )
  await advance(at)
  return made
}

/** Sets a schedule's next time. What was replaced meanwhile has its own. */
async function moveOn(engine: Engine, row: ScheduleRow, next: Date | null, fired?: Date): Promise<void> {
  await engine.db.cold.query(
    `update tidebase.schedules set next_run_at = $4, last_enqueued_at = now(),
        last_fire_at = greatest(last_fire_at, $7)
      where project = $1 and name = $2 and next_run_at = $3 and cron = $5 and timezone = $6 and enabled`,
    [row.project, row.name, row.next_run_at, next, row.cron, row.timezone, fired ?? null],
  )
}

/** The last of the times from `first` to `now`: forward from ever earlier, because a downtime may have been long. */
function latestMissed(row: ScheduleRow, first: Date, now: Date): Date {
  for (let back = hourMs; ; back *= 4) {
    const start = new Date(Math.max(first.getTime(), now.getTime() - back))
    let latest: Date | undefined
    let next = nextTime(row.cron, row.timezone, start)
    while (next && next <= now) {
      latest = next
      next = nextTime(row.cron, row.timezone, latest)
    }
    if (latest) return latest
    if (start <= first) return first
  }
}

/** The id of the run that a schedule makes at a time: a UUIDv8 that starts with that time, so that it sorts with its peers. */
function fireId(row: ScheduleRow, at: Date, dedupeKey: string): string {
  const hash = createHash('sha256')
    .update(`${row.project}\0${row.created_at.toISOString()}\0${dedupeKey}`)
    .digest('hex')
  return `${at.getTime().toString(16).padStart(12, '0')}8${hash.slice(0, 3)}8${hash.slice(3, 18)}`
}
