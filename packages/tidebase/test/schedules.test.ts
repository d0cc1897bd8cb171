import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'
import { nextTime } from '../src/schedules.ts'

/** Waits until the check passes; patient, because the machine may be busy. */
const soon = <T>(check: () => T | Promise<T>, timeout = 10_000) => vi.waitFor(check, { timeout, interval: 50 })

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

/** The times of an expression after `from` up to `to`, as `MM-DDThh:mm` in UTC. */
function times(cron: string, timezone: string, from: string, to: string): string {
  const found: string[] = []
  for (let at = nextTime(cron, timezone, new Date(from)); at && at <= new Date(to); ) {
    found.push(at.toISOString().slice(5, 16))
    at = nextTime(cron, timezone, at)
  }
  return found.join(' ')
}

test('day of month and day of week are a union', () => {
  expect(times('0 0 13 * 5', 'UTC', '2026-01-01T00:00Z', '2026-01-20T00:00Z')).toBe(
    '01-02T00:00 01-09T00:00 01-13T00:00 01-16T00:00',
  )
})

// Europe/Berlin: on 2026-03-29 01:00Z the clock goes from 02:00 to 03:00, on 2026-10-25 01:00Z from 03:00 to 02:00.
const spring = ['2026-03-28T12:00Z', '2026-03-30T12:00Z'] as const
const autumn = ['2026-10-24T12:00Z', '2026-10-25T12:00Z'] as const
test.each([
  ['a daily time that is skipped', '30 2 * * *', spring, '03-29T01:30 03-30T00:30'],
  [
    'several times that are skipped',
    '*/20 2 * * *',
    spring,
    '03-29T01:00 03-29T01:20 03-29T01:40 03-30T00:00 03-30T00:20 03-30T00:40',
  ],
  [
    'a skipped time beside others',
    '30 1,2,4 * * *',
    spring,
    '03-29T00:30 03-29T01:30 03-29T02:30 03-29T23:30 03-30T00:30 03-30T02:30',
  ],
  ['a daily time that comes twice', '30 2 * * *', autumn, '10-25T00:30'],
  ['several times that come twice', '*/20 2 * * *', autumn, '10-25T00:00 10-25T00:20 10-25T00:40'],
  ['a doubled time beside another', '30 2,3 * * *', autumn, '10-25T00:30 10-25T02:30'],
  [
    'every hour in spring',
    '30 * * * *',
    ['2026-03-28T23:00Z', '2026-03-29T03:00Z'],
    '03-28T23:30 03-29T00:30 03-29T01:30 03-29T02:30',
  ],
  [
    'every hour in autumn',
    '30 * * * *',
    ['2026-10-24T23:00Z', '2026-10-25T03:00Z'],
    '10-24T23:30 10-25T00:30 10-25T01:30 10-25T02:30',
  ],
])('%s comes once', (_, cron, [from, to], expected) => {
  expect(times(cron, 'Europe/Berlin', from, to)).toBe(expected)
})

test('a change of half an hour neither loses nor doubles a time', () => {
  const lordHowe = (from: string, to: string) => times('15,40 2 * * *', 'Australia/Lord_Howe', from, to)
  // 02:00 becomes 02:30: 02:15 comes at 02:45, after 02:40.
  expect(lordHowe('2026-10-03T12:00Z', '2026-10-04T12:00Z')).toBe('10-03T15:40 10-03T15:45')
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
    await soon(async () => expect(await runsOf('tick')).toHaveLength(1))
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
    await soon(async () => {
      const [row] = await db.cold.query<{ moved: boolean }>(
        `select next_run_at > now() as moved from tidebase.schedules where name = 'tick'`,
      )
      expect(row?.moved).toBe(true)
    })
    const fires = (await runsOf('tick')).map(({ metadata }) => metadata.fireTime)
    expect(new Set(fires).size).toBe(fires.length)
    await server.ok('deleteSchedule', { params: { name: 'tick' } })
  })

  test('a fire that stopped half-way moves on, also when the schedule runs another workflow by now', async () => {
    const yearly = { cron: '0 0 1 1 *', workflowName: 'old', queue: 'half' }
    await put('half', yearly)
    await overdue('half', 1)
    await soon(async () => expect(await runsOf('half')).toHaveLength(1))
    const [run] = await runsOf('half')
    // As if the server had died between the run and the schedule.
    await put('half', { ...yearly, workflowName: 'new' })
    await db.cold.query(`update tidebase.schedules set next_run_at = $1 where name = 'half'`, [run?.metadata.fireTime])
    await soon(async () => {
      const { schedules } = await server.ok('listSchedules')
      const { nextRunAt } = schedules.find(({ name }) => name === 'half') ?? {}
      expect(Date.parse(nextRunAt ?? '')).toBeGreaterThan(Date.now())
    })
    expect(await runsOf('half')).toMatchObject([{ workflowName: 'old' }])
  })

  test('a schedule that is replaced while it fires keeps its new time', async () => {
    const own = openDatabase({ connectionString: server.databaseUrl })
    await put('swap', { cron: '0 0 1 1 *', workflowName: 'w', queue: 'swap' })
    await db.cold.query(
      `update tidebase.schedules set next_run_at = date_trunc('second', now()) + interval '2 seconds', cron = '* * * * *'
        where name = 'swap'`,
    )
    // The replacement holds the row from before it is due, until the fire has made its run and wants to move the schedule on.
    await own.transaction(async (tx) => {
      const [held] = await tx.query<{ next_run_at: Date }>(
        `select next_run_at from tidebase.schedules where name = 'swap' for update`,
      )
      await soon(async () => expect((await runsOf('swap')).length).toBeGreaterThan(0))
      await tx.query(`update tidebase.schedules set cron = '0 0 1 1 *', next_run_at = $1 where name = 'swap'`, [
        held?.next_run_at,
      ])
    })
    await soon(async () => {
      const { schedules } = await server.ok('listSchedules')
      const { nextRunAt } = schedules.find(({ name }) => name === 'swap') ?? {}
      expect(nextRunAt).toMatch(/-01-01T00:00:00\.000Z$/)
    })
    await own.close()
  })

  test('after a downtime the latest missed time fires, once', async () => {
    await put('late', { cron: '*/5 * * * *', workflowName: 'w' })
    await overdue('late', 180)
    await soon(async () => expect((await runsOf('late')).length).toBeGreaterThan(0))
    const fires = (await runsOf('late')).map(({ metadata }) => Date.parse(String(metadata.fireTime)))
    expect(Math.min(...fires)).toBeGreaterThan(Date.now() - 10 * 60_000)
    expect(new Set(fires).size).toBe(fires.length)
    await server.ok('deleteSchedule', { params: { name: 'late' } })
  })

  test.each([
    ['none', 0],
    ['all', 5],
  ] as const)('after a downtime with catchUp %s, %d of the missed times fire, each once', async (catchUp, times) => {
    const name = `catch-${catchUp}`
    const { body } = await put(name, { cron: '* * * * *', workflowName: 'w', catchUp, enabled: false })
    expect(body.schedule).toMatchObject({ catchUp })
    // Five minutes ago, and far enough into this one that none fires meanwhile.
    const [set] = await db.cold.query<{ first: Date }>(
      `update tidebase.schedules set next_run_at = date_trunc('minute', now()) - interval '4 minutes', enabled = true
        where name = $1 returning next_run_at as first`,
      [name],
    )
    await soon(async () => {
      const [row] = await db.cold.query<{ due: boolean }>(
        'select next_run_at <= now() as due from tidebase.schedules where name = $1',
        [name],
      )
      expect(row?.due).toBe(false)
    })
    const fired = (await runsOf(name)).map(({ metadata }) => String(metadata.fireTime)).sort()
    // A minute may have begun meanwhile.
    const missed = fired.filter((at) => at < new Date((set?.first.getTime() ?? 0) + times * 60_000).toISOString())
    expect(missed).toEqual(
      Array.from({ length: times }, (_, n) => new Date((set?.first.getTime() ?? 0) + n * 60_000).toISOString()),
    )
    await server.ok('deleteSchedule', { params: { name } })
  })

  test('a schedule that is not enabled does not fire', async () => {
    await put('off', { cron: '* * * * *', workflowName: 'w', enabled: false })
    await overdue('off', 1)
    await put('on', { cron: '* * * * *', workflowName: 'w' })
    await overdue('on', 1)
    await soon(async () => expect((await runsOf('on')).length).toBeGreaterThan(0))
    expect(await runsOf('off')).toHaveLength(0)
    await server.ok('deleteSchedule', { params: { name: 'on' } })
  })
})
