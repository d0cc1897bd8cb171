import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'

let server: Awaited<ReturnType<typeof startServer>>
let second: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
beforeAll(async () => {
  server = await startServer({ reconcileMs: 50 })
  second = await startServer({ reconcileMs: 50, databaseUrl: server.databaseUrl })
  db = openDatabase({ connectionString: server.databaseUrl })
})
afterAll(async () => {
  await db.close()
  await second.stop()
  await server.stop()
})

const put = (name: string, body: object) => server.send('putSchedule', { params: { name }, body })
const runsOf = async (schedule: string) =>
  (await server.ok('listRuns', { query: { 'metadata.schedule': schedule, limit: 500 } })).runs

test('a schedule is made with its defaults, listed, replaced and deleted', async () => {
  const { body } = await put('daily', { cron: '0 9 * * *', workflowName: 'report' })
  expect(body.schedule).toMatchObject({
    name: 'daily',
    cron: '0 9 * * *',
    timezone: 'UTC',
    workflowName: 'report',
    input: {},
    queue: 'default',
    maxAttempts: 1,
    enabled: true,
    lastEnqueuedAt: null,
  })
  const { schedules } = await server.ok('listSchedules')
  const made = schedules.find(({ name }) => name === 'daily')
  expect(made?.nextRunAt).toMatch(/T09:00:00\.000Z$/)
  await put('daily', { cron: '0 9 * * *', workflowName: 'other', input: { a: 1 }, queue: 'q', maxAttempts: 3 })
  const after = (await server.ok('listSchedules')).schedules.find(({ name }) => name === 'daily')
  expect(after).toMatchObject({ workflowName: 'other', input: { a: 1 }, queue: 'q', maxAttempts: 3 })
  expect(after?.nextRunAt).toBe(made?.nextRunAt)
  expect(await server.ok('deleteSchedule', { params: { name: 'daily' } })).toEqual({ deleted: true })
  expect(await server.send('deleteSchedule', { params: { name: 'daily' } })).toMatchObject({
    status: 404,
    body: { code: 'schedule_not_found' },
  })
})

test.each([
  'x',
  '* * * *',
  '* * * * * *',
  '61 * * * *',
  '0 0 30 2 *',
  '@daily',
  '',
])('the expression %j is refused', async (cron) => {
  const { status, body } = await put('bad', { cron, workflowName: 'w' })
  expect(status).toBe(400)
  expect(body.code).toBe(cron === '' ? 'invalid_body' : 'invalid_cron')
  expect(body.issues?.[0]?.path).toBe('cron')
})

test('an unknown time zone is refused', async () => {
  expect(await put('bad', { cron: '0 9 * * *', timezone: 'Mars/Olympus', workflowName: 'w' })).toMatchObject({
    status: 400,
    body: { code: 'invalid_timezone' },
  })
})

test('day of month and day of week are a union', async () => {
  const { body } = await put('union', { cron: '0 0 1 * 1', workflowName: 'w', enabled: false })
  const schedule = body.schedule as { nextRunAt: string }
  const next = new Date(schedule.nextRunAt)
  expect(next.getUTCDay() === 1 || next.getUTCDate() === 1).toBe(true)
})

describe('two servers', () => {
  /** As if the schedule had been due since `minutes` ago. */
  const overdue = (name: string, minutes: number) =>
    db.cold.query(
      `update tidebase.schedules set next_run_at = date_trunc('minute', now()) - $2 * interval '1 minute' where name = $1`,
      [name, minutes],
    )

  test('a due fire enqueues exactly once, and the schedule moves on', async () => {
    await put('tick', { cron: '* * * * *', workflowName: 'w', input: { n: 1 }, queue: 'ticks', maxAttempts: 2 })
    await overdue('tick', 0)
    await vi.waitFor(async () => expect(await runsOf('tick')).toHaveLength(1))
    const [run] = await runsOf('tick')
    expect(run).toMatchObject({ workflowName: 'w', input: { n: 1 }, queue: 'ticks', maxAttempts: 2, status: 'queued' })
    const fireTime = String(run?.metadata.fireTime)
    expect(run?.dedupeKey).toBe(`sched:tick:${fireTime}`)
    const { schedules } = await server.ok('listSchedules')
    const schedule = schedules.find(({ name }) => name === 'tick')
    expect(Date.parse(schedule?.nextRunAt ?? '')).toBeGreaterThan(Date.parse(fireTime))
    expect(schedule?.lastEnqueuedAt).not.toBeNull()

    // The same fire again, after its run has ended: both servers find that run and make no other.
    await server.ok('cancelRun', { params: { runId: run?.id ?? '' }, body: {} })
    await db.cold.query(`update tidebase.schedules set next_run_at = $1 where name = 'tick'`, [fireTime])
    await vi.waitFor(async () => {
      const [row] = await db.cold.query<{ moved: boolean }>(
        `select next_run_at > now() as moved from tidebase.schedules where name = 'tick'`,
      )
      expect(row?.moved).toBe(true)
    })
    const fires = (await runsOf('tick')).map(({ metadata }) => metadata.fireTime)
    expect(new Set(fires).size).toBe(fires.length)
    await server.ok('deleteSchedule', { params: { name: 'tick' } })
  })

  test('after a downtime the latest missed time fires, once', async () => {
    await put('late', { cron: '*/5 * * * *', workflowName: 'w' })
    await overdue('late', 180)
    await vi.waitFor(async () => expect((await runsOf('late')).length).toBeGreaterThan(0))
    const fires = (await runsOf('late')).map(({ metadata }) => Date.parse(String(metadata.fireTime)))
    expect(Math.min(...fires)).toBeGreaterThan(Date.now() - 10 * 60_000)
    expect(new Set(fires).size).toBe(fires.length)
    await server.ok('deleteSchedule', { params: { name: 'late' } })
  })

  test('a schedule that is not enabled does not fire', async () => {
    await put('off', { cron: '* * * * *', workflowName: 'w', enabled: false })
    await overdue('off', 1)
    await put('on', { cron: '* * * * *', workflowName: 'w' })
    await overdue('on', 1)
    await vi.waitFor(async () => expect((await runsOf('on')).length).toBeGreaterThan(0))
    expect(await runsOf('off')).toHaveLength(0)
    await server.ok('deleteSchedule', { params: { name: 'on' } })
  })
})
