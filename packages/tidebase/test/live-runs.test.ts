import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { expectLiveRuns } from '../../../test/live-runs.ts'
import { createDatabase, startServer } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'
import { newId } from '../src/ids.ts'

// A database as the release before left it, with runs in every status: all that the migration has to carry over.

const folder = new URL('../migrations/', import.meta.url)
const day = '1 day'
let database: Awaited<ReturnType<typeof createDatabase>>
let server: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
const ids: Record<string, string> = {}

/** A row of tidebase.runs by what sets it apart; its values are SQL. */
async function old(name: string, columns: Record<string, string>): Promise<void> {
  const id = newId()
  ids[name] = `run_${id}`
  const row: Record<string, string> = { id: `'${id}'`, project: '1', workflow_name: "'w'", event_seq: '1', ...columns }
  await db.cold.query(
    `insert into tidebase.runs (${Object.keys(row).join(', ')}) values (${Object.values(row).join(', ')})`,
  )
}

beforeAll(async () => {
  database = await createDatabase()
  db = openDatabase({ connectionString: database.url }, { hot: 1, cold: 2 })
  await db.cold.query('drop schema tidebase cascade')
  await db.cold.query('create schema tidebase')
  await db.cold.query('create table tidebase.migrations (name text primary key, checksum text, applied_at timestamptz)')
  for (const name of (await readdir(folder)).filter((name) => name < '0008').sort()) {
    const text = await readFile(new URL(name, folder), 'utf8')
    await db.cold.query(text)
    await db.cold.query('insert into tidebase.migrations values ($1, $2, now())', [
      name,
      createHash('sha256').update(text).digest('hex'),
    ])
  }
  const queued = { status: "'queued'", queue: "'q'", run_at: 'now()' }
  await old('pending', { status: "'pending'" })
  await old('low', { ...queued, dedupe_key: "'k'" })
  await old('high', { ...queued, priority: '5' })
  await old('delayed', { ...queued, run_at: `now() + interval '${day}'` })
  await old('tenant 1', { ...queued, queue: "'keyed'", concurrency_key: "'a'" })
  await old('tenant 2', { ...queued, queue: "'keyed'", concurrency_key: "'a'" })
  await old('tenant 3', { ...queued, queue: "'keyed'", concurrency_key: "'b'" })
  const held = { status: "'running'", lease_owner: "'w1'", attempt: '1', event_seq: '2' }
  await old('running', { ...held, queue: "'capped'", run_at: 'now()', lease_expires_at: `now() + interval '${day}'` })
  await old('behind the cap', { ...queued, queue: "'capped'" })
  await old('lease ran out', { ...held, lease_expires_at: `now() - interval '${day}'` })
  await old('orphaned', {
    ...held,
    lease_expires_at: `now() - interval '${day}'`,
    orphaned_at: `now() - interval '${day}'`,
    recovery_webhook: "'http://127.0.0.1:9/'",
  })
  await old('orphaned for good', {
    ...held,
    lease_expires_at: `now() - interval '${day}'`,
    orphaned_at: `now() - interval '${day}'`,
  })
  await old('waiting', { status: "'waiting'", last_owner: "'w1'", claimed: 'true', attempt: '1', event_seq: '3' })
  await old('past its deadline', { status: "'waiting'", deadline_at: `now() - interval '${day}'` })
  await old('completed', { status: "'completed'", completed_at: 'now()', dedupe_key: "'k'", queue: "'q'" })
  await old('failed', { status: "'failed'", completed_at: 'now()', queue: "'q'", run_at: 'now()' })
  await old('cancelled', { status: "'cancelled'", completed_at: 'now()', cancel_reason: "'user'" })
  const long = `now() - interval '40 days'`
  await old('ended long ago', { status: "'completed'", created_at: long, completed_at: long })
  await old('begun long ago', { status: "'waiting'", created_at: long })
  await db.cold.query(`insert into tidebase.queues (project, name, concurrency, per_key_concurrency, keyed)
    values (1, 'capped', 1, null, false), (1, 'keyed', null, 1, true)`)
  server = await startServer({
    databaseUrl: database.url,
    retentionDays: 30,
    reconcileMs: 20,
    allowPrivateWebhooks: true,
  })
})
afterAll(async () => {
  await server.stop()
  await db.close()
  await database.drop()
})

const nameOf = (id: string) => Object.keys(ids).find((name) => ids[name] === id) ?? id
const claim = async (queue: string, limit = 10) =>
  (await server.ok('claim', { body: { queues: [queue], limit, leaseOwner: 'w2' } })).runs.map(({ id }) => nameOf(id))
const soon = (check: () => Promise<void>) => vi.waitFor(check, { timeout: 10_000, interval: 20 })
const statusOf = async (name: string) => (await server.ok('getRun', { params: { runId: ids[name] ?? '' } })).run.status

test('what time brings about finds the runs of before', async () => {
  await soon(async () => {
    expect(await statusOf('past its deadline')).toBe('cancelled')
    expect((await server.send('getRun', { params: { runId: ids['ended long ago'] ?? '' } })).status).toBe(404)
    for (const name of ['orphaned', 'lease ran out']) {
      const { events } = await server.ok('getRun', { params: { runId: ids[name] ?? '' } })
      expect(events.map(({ type }) => type)).toEqual(name === 'orphaned' ? ['recovery.started'] : [])
    }
  })
  expect(await statusOf('begun long ago')).toBe('waiting')
  await soon(async () => {
    const [row] = await db.cold.query<{ runs: number }>(
      'select count(*) as runs from tidebase.live_runs where orphaned_at is not null',
    )
    expect(row?.runs).toBe(3)
  })
})

test('lists by every status have them', async () => {
  const list = async (query: Record<string, string>) =>
    (await server.ok('listRuns', { query })).runs.map(({ id }) => nameOf(id)).sort()
  expect(await list({ status: 'pending' })).toEqual(['pending'])
  expect(await list({ status: 'queued', queue: 'q' })).toEqual(['delayed', 'high', 'low'])
  expect(await list({ status: 'running' })).toEqual(['lease ran out', 'orphaned', 'orphaned for good', 'running'])
  expect(await list({ status: 'waiting' })).toEqual(['begun long ago', 'waiting'])
  expect(await list({ status: 'completed' })).toEqual(['completed'])
  expect(await list({ status: 'failed' })).toEqual(['failed'])
  expect(await list({ cancelReason: 'user' })).toEqual(['cancelled'])
})

test('claims, caps, turns and dedupe keys go on with them', async () => {
  const again = await server.ok('enqueue', { params: { queue: 'q' }, body: { workflowName: 'w', dedupeKey: 'k' } })
  expect([nameOf(again.run.id), again.deduplicated]).toEqual(['low', true])
  expect(await claim('q')).toEqual(['high', 'low'])
  expect(await claim('capped')).toEqual([])
  await server.ok('completeRun', { params: { runId: ids.running ?? '' }, body: { leaseOwner: 'w1', brief: true } })
  expect(await claim('capped')).toEqual(['behind the cap'])
  expect((await claim('keyed')).sort()).toEqual(['tenant 1', 'tenant 3'])
  expect(await claim('keyed')).toEqual([])
  await server.ok('completeRun', { params: { runId: ids.low ?? '' }, body: { leaseOwner: 'w2', brief: true } })
  const free = await server.ok('enqueue', { params: { queue: 'q' }, body: { workflowName: 'w', dedupeKey: 'k' } })
  expect(free.deduplicated).toBe(false)
})

test('they go on, and end', async () => {
  await server.ok('retryRun', { params: { runId: ids.failed ?? '' }, body: {} })
  expect(await claim('q', 1)).toHaveLength(1)
  for (const name of ['waiting', 'pending', 'orphaned', 'orphaned for good', 'lease ran out']) {
    const params = { runId: ids[name] ?? '' }
    await server.ok('beginRun', { params, headers: { 'x-tidebase-worker': 'w3' } })
    if (name !== 'waiting') await server.ok('completeRun', { params, body: { leaseOwner: 'w3' } })
  }
  await server.ok('cancelRun', { params: { runId: ids.waiting ?? '' }, body: {} })
  await expectLiveRuns(db.cold)
})
