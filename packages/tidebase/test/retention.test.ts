import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { client, startServer } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'
import { createKey } from '../src/keys.ts'

// Runs that ended long ago are deleted. Their age is made by moving their beginning and end back.

let server: Awaited<ReturnType<typeof startServer>>
let second: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
beforeAll(async () => {
  server = await startServer({ apiKey: 'root', reconcileMs: 10, retentionDays: 30 })
  second = await startServer({ apiKey: 'root', reconcileMs: 10, retentionDays: 30, databaseUrl: server.databaseUrl })
  db = openDatabase({ connectionString: server.databaseUrl }, { hot: 1, cold: 2 })
})
afterAll(async () => {
  await db.close()
  await second.stop()
  await server.stop()
})

type Api = ReturnType<typeof client>
const project = async (name: string): Promise<Api> =>
  client(server.url, (await createKey(db.cold, { project: name, name, scope: 'admin' })).secret)
/** A run with something in every table, ended. */
async function ended(api: Api): Promise<string> {
  const { run } = await api.ok('enqueue', { params: { queue: 'q' }, body: { workflowName: 'w' } })
  const params = { runId: run.id }
  await api.ok('beginRun', { params, headers: { 'x-tidebase-worker': 'w1' } })
  await api.ok('recordStep', { params, body: { name: 'a', inputHash: 'h', leaseOwner: 'w1', output: 1 } })
  await api.ok('appendStream', { params, body: { stream: 's', offset: 0, chunk: 'x' } })
  await api.ok('setState', { params, body: { value: 1 } })
  await api.ok('beginGate', { params, body: { name: 'g', prompt: '?' } })
  await api.ok('createTimer', { params, body: { name: 't', delayMs: 9_999_999 } })
  await api.ok('sendSignal', { params, body: { name: 's' } })
  await api.ok('recordUsage', { params, body: { kind: 'llm' } })
  await api.ok('completeRun', { params, body: {} })
  return run.id
}
const age = (runs: string[], days: number) =>
  db.cold.query(
    `update tidebase.runs set completed_at = now() - $2 * interval '1 day', created_at = now() - $2 * interval '1 day'
      where id = any ($1::uuid[])`,
    [`{${runs.map((id) => id.slice(4)).join(',')}}`, days],
  )
const idsOf = async (api: Api) => (await api.ok('listRuns', { query: { limit: 500 } })).runs.map(({ id }) => id).sort()
const soon = (check: () => Promise<void>) => vi.waitFor(check, { timeout: 10_000, interval: 50 })
const rounds = () => new Promise((resolve) => setTimeout(resolve, 800))

test('what ended longer ago than the server’s days goes with all that belongs to it; the rest stays', async () => {
  const api = await project('all')
  const [old, young, failed] = [await ended(api), await ended(api), await ended(api)]
  const live = (await api.ok('createRun', { params: { workflowName: 'w' }, body: {} })).run.id
  await age([old, failed], 31)
  await age([young], 29)
  await soon(async () => expect(await idsOf(api)).toEqual([young, live].sort()))
  const tables = await db.cold.query<{ name: string }>(
    `select table_name as name from information_schema.columns where table_schema = 'tidebase' and column_name = 'run_id'`,
  )
  expect(tables.length).toBeGreaterThan(10)
  for (const { name } of tables) {
    expect(await db.cold.query(`select from tidebase.${name} where run_id = $1`, [old.slice(4)])).toEqual([])
  }
  expect((await api.ok('getRun', { params: { runId: young } })).steps).toHaveLength(1)
  expect((await api.ok('listQueues')).queues[0]).toMatchObject({ completed: 3 })
})

test('a project has days of its own, or keeps for ever', async () => {
  const [week, forever] = [await project('week'), await project('forever')]
  expect((await week.ok('getProject')).project).toEqual({
    name: 'week',
    retentionDays: null,
    effectiveRetentionDays: 30,
  })
  const put = (api: Api, body: object) => api.ok('configureProject', { body })
  expect((await put(week, { retentionDays: 7 })).project).toMatchObject({ effectiveRetentionDays: 7 })
  expect((await put(week, {})).project).toMatchObject({ retentionDays: 7 })
  expect((await put(forever, { retentionDays: 0 })).project).toMatchObject({ effectiveRetentionDays: null })
  expect(await week.send('configureProject', { body: { retentionDays: -1 } })).toMatchObject({ status: 400 })
  const [a, b] = [await ended(week), await ended(forever)]
  await age([a], 8)
  await age([b], 400)
  await soon(async () => expect(await idsOf(week)).toEqual([]))
  expect(await idsOf(forever)).toEqual([b])
  expect((await put(forever, { retentionDays: null })).project).toMatchObject({ effectiveRetentionDays: 30 })
  await soon(async () => expect(await idsOf(forever)).toEqual([]))
})

test('many go in small batches, by both servers at once', async () => {
  const api = await project('many')
  const jobs = Array.from({ length: 900 }, () => ({ workflowName: 'w' }))
  const made = (await api.ok('enqueueBatch', { params: { queue: 'q' }, body: { jobs } })).jobs.map(({ run }) => run.id)
  await db.cold.query(
    `with ended as (
      update tidebase.runs set status = 'failed', completed_at = now() - interval '40 days',
        created_at = now() - interval '41 days'
      where id = any ($1::uuid[]) returning id
    ) delete from tidebase.live_runs where run_id in (select id from ended)`,
    [`{${made.map((id) => id.slice(4)).join(',')}}`],
  )
  await soon(async () => expect(await idsOf(api)).toEqual([]))
})

test('a child stays while its parent is at work, which would make it anew', async () => {
  const api = await project('family')
  const parent = (await api.ok('createRun', { params: { workflowName: 'w' }, body: {} })).run.id
  const body = { name: 'child', workflowName: 'c' }
  const child = (await api.ok('createChild', { params: { runId: parent }, body })).run.id
  await api.ok('beginRun', { params: { runId: child } })
  await api.ok('completeRun', { params: { runId: child }, body: {} })
  await age([child], 31)
  await rounds()
  expect(await api.ok('createChild', { params: { runId: parent }, body })).toMatchObject({
    created: false,
    run: { id: child, status: 'completed' },
  })
  await api.ok('cancelRun', { params: { runId: parent }, body: {} })
  await soon(async () => expect(await idsOf(api)).toEqual([parent]))
  expect((await api.ok('getRun', { params: { runId: parent } })).runEdges).toEqual([])
})

test('a schedule fires a time once, although the run of that time is gone', async () => {
  const api = await project('schedule')
  await api.ok('putSchedule', { params: { name: 's' }, body: { cron: '0 0 1 1 *', workflowName: 'w', queue: 'sq' } })
  const rewind = () =>
    db.cold.query(`update tidebase.schedules set next_run_at = '2026-01-01T00:00:00Z' where name = 's'`)
  await rewind()
  await soon(async () => expect(await idsOf(api)).toHaveLength(1))
  const [run] = await idsOf(api)
  await soon(async () => {
    const [row] = await db.cold.query<{ ahead: boolean }>('select next_run_at > now() as ahead from tidebase.schedules')
    expect(row?.ahead).toBe(true)
  })
  await api.ok('cancelRun', { params: { runId: run ?? '' }, body: {} })
  await age([run ?? ''], 31)
  await soon(async () => expect(await idsOf(api)).toEqual([]))
  // As a server that died before it had moved the schedule on would have left it.
  await rewind()
  await rounds()
  expect(await idsOf(api)).toEqual([])
})
