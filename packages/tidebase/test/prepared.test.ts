import { afterAll, beforeAll, expect, test } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'

let server: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
beforeAll(async () => {
  server = await startServer({ reconciler: false })
  db = openDatabase({ connectionString: server.databaseUrl }, { hot: 1, cold: 1 })
})
afterAll(async () => {
  await db.close()
  await server.stop()
})

test('a server goes on with its statements when the next version has given their tables more columns', async () => {
  const use = async () => {
    const { run } = await server.ok('createRun', { params: { workflowName: 'w' }, body: {} })
    const params = { runId: run.id }
    await server.ok('beginRun', { params, headers: { 'x-tidebase-worker': 'w1' } })
    const step = { name: 'a', inputHash: 'a'.repeat(64), leaseOwner: 'w1' }
    const begun = await server.ok('beginStep', { params, body: step })
    if (begun.action !== 'execute') throw new Error(begun.action)
    await server.ok('completeStep', {
      params: { ...params, stepId: begun.step.id },
      body: { leaseOwner: 'w1', output: 1 },
    })
    await server.ok('beginStep', { params, body: step })
    await server.ok('getRun', { params })
    await server.ok('completeRun', { params, body: { leaseOwner: 'w1' } })
    await server.ok('enqueue', { params: { queue: 'q' }, body: { workflowName: 'w' } })
    const { runs } = await server.ok('claim', { body: { queues: ['q'], leaseOwner: 'w1' } })
    await server.ok('failRun', { params: { runId: runs[0]?.id ?? '' }, body: { leaseOwner: 'w1', error: 'no' } })
  }
  for (let n = 0; n < 3; n++) await use()
  for (const table of ['runs', 'steps', 'events'])
    await db.cold.query(`alter table tidebase.${table} add column of_the_next_version text`)
  await use()
})

test('a statement that Postgres refused the first time runs the next time, on the same connection', async () => {
  const twice = { name: 'twice', text: 'select $1::integer * 2 as twice' }
  await expect(db.hot.query(twice, ['one'])).rejects.toMatchObject({ sqlState: '22P02' })
  expect(await db.hot.query(twice, ['1'])).toEqual([{ twice: 2 }])
  const nowhere = { name: 'nowhere', text: 'select 1 from tidebase.nowhere' }
  for (let n = 0; n < 2; n++) await expect(db.hot.query(nowhere)).rejects.toMatchObject({ sqlState: '42P01' })
  expect(await db.hot.query(twice, [2])).toEqual([{ twice: 4 }])
})

test('values of all kinds reach Postgres, and come back', async () => {
  const at = new Date('2026-01-02T03:04:05.678Z')
  const odd = ['a "quoted" \\ one', 'NULL', '', null, '{}', 'ünï, 🌊']
  const values = [true, 1.5, at, { deep: ["it's"] }, odd, [1, 2], Buffer.from([0, 255]), undefined]
  const types = ['boolean', 'float8', 'timestamptz', 'jsonb', 'text[]', 'integer[]', 'bytea', 'text']
  const columns = types.map((type, n) => `$${n + 1}::${type} as c${n}`)
  const all = { name: 'all', text: `select ${columns.join(', ')}` }
  for (let n = 0; n < 2; n++)
    expect(Object.values((await db.hot.query(all, values))[0] ?? {})).toEqual([...values.slice(0, -1), null])
  const none = { name: 'none', text: 'create temporary table if not exists none ()' }
  for (let n = 0; n < 2; n++) expect(await db.hot.query(none)).toEqual([])
})
