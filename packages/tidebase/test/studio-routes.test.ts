import type { Scope } from '@tidebase/wire'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { client, startServer } from '../../../test/server.ts'
import { receiver } from './receiver.ts'

// The routes that were made for Studio, by HTTP: what they answer, whom, and what they refuse.

const root = 'root-key-of-this-test'
let server: Awaited<ReturnType<typeof startServer>>
let hooks: Awaited<ReturnType<typeof receiver>>
let status = 500
beforeAll(async () => {
  server = await startServer({ apiKey: root, allowPrivateWebhooks: true })
  hooks = await receiver(() => status)
})
afterAll(async () => {
  await server.stop()
  hooks.close()
})

let projects = 0
/** An admin of a project of its own. */
async function project() {
  const name = `project-${projects++}`
  const { secret } = await server.createKey({ project: name, name: 'admin', scope: 'admin' })
  const admin = client(server.url, secret)
  const key = async (scope: Scope) =>
    client(server.url, (await admin.ok('createKey', { body: { name: 'k', scope } })).secret)
  return { name, ...admin, key }
}
type Project = Awaited<ReturnType<typeof project>>

const create = async (api: Pick<Project, 'ok'>, workflowName: string, body: object = {}) =>
  (await api.ok('createRun', { params: { workflowName }, body })).run
const fail = async (api: Project, id: string) => {
  const leaseOwner = 'w1'
  await api.ok('beginRun', { params: { runId: id }, headers: { 'x-tidebase-worker': leaseOwner } })
  await api.ok('failRun', { params: { runId: id }, body: { leaseOwner, error: 'no' } })
}
const refused = { status: 400, body: { issues: expect.anything() } }

test('whoami tells a key who it is, and a server’s own key that it has no id', async () => {
  const { name, key } = await project()
  for (const scope of ['admin', 'worker', 'enqueue', 'read'] as const) {
    expect(await (await key(scope)).ok('whoAmI')).toEqual({
      project: name,
      scope,
      keyId: expect.stringMatching(/^key_[0-9a-f]{32}$/),
      keyless: false,
    })
  }
  expect(await server.ok('whoAmI')).toMatchObject({ project: 'default', scope: 'admin', keyId: null })
})

test('keys: an admin makes, lists and revokes those of its project; nobody reaches another’s', async () => {
  const [mine, other] = [await project(), await project()]
  const { key, secret } = await mine.ok('createKey', { body: { name: 'looks', scope: 'read' } })
  expect(key).toMatchObject({ project: mine.name, name: 'looks', scope: 'read', hint: secret.slice(-4) })
  const listed = await mine.ok('listKeys')
  expect(listed.keys.map(({ name }) => name)).toEqual(['admin', 'looks'])
  expect(JSON.stringify(listed)).not.toContain(secret)
  expect((await other.ok('listKeys')).keys.map(({ name }) => name)).toEqual(['admin'])
  const revoke = (api: Pick<Project, 'send'>, keyId: string) => api.send('revokeKey', { params: { keyId } })
  expect(await revoke(other, key.id)).toMatchObject({ status: 404, body: { code: 'key_not_found' } })
  for (const keyId of ['key_1', 'nothing', `run_${'0'.repeat(32)}`])
    expect(await revoke(mine, keyId)).toMatchObject({ status: 404, body: { code: 'key_not_found' } })
  for (const body of [{}, { name: '', scope: 'read' }, { name: 'x', scope: 'root' }, { name: 7, scope: 'read' }])
    expect(await mine.send('createKey', { body })).toMatchObject(refused)
  expect(await revoke(mine, key.id)).toMatchObject({ status: 200, body: { revoked: true } })
  expect((await mine.ok('listKeys')).keys.find(({ id }) => id === key.id)?.revokedAt).not.toBeNull()
})

test('workers: who holds a run, and who began one lately, of this project alone', async () => {
  const [mine, other] = [await project(), await project()]
  const [held, ended] = [await create(mine, 'a'), await create(mine, 'b')]
  const begin = (runId: string, name: string) =>
    mine.ok('beginRun', { params: { runId }, headers: { 'x-tidebase-worker': name } })
  await begin(held.id, 'one')
  await begin(ended.id, 'two')
  await mine.ok('completeRun', { params: { runId: ended.id }, body: { leaseOwner: 'two' } })
  const { workers } = await mine.ok('listWorkers')
  expect(workers.toSorted((a, b) => (a.name < b.name ? -1 : 1))).toMatchObject([
    { name: 'one', running: 1, started: 1, workflows: ['a'] },
    { name: 'two', running: 0, started: 1, workflows: ['b'] },
  ])
  expect((await other.ok('listWorkers')).workers).toEqual([])
})

test('counts: per status, by every filter, of this project, and of an enqueue key’s own runs', async () => {
  const [mine, other] = [await project(), await project()]
  const failed = await create(mine, 'report', { metadata: { tenant: 'acme', size: 3 } })
  await fail(mine, failed.id)
  const cancelled = await create(mine, 'report')
  await mine.ok('cancelRun', { params: { runId: cancelled.id }, body: { reason: 'budget' } })
  await mine.ok('enqueue', { params: { queue: 'mails' }, body: { workflowName: 'mail' } })
  const enqueuer = await mine.key('enqueue')
  await create(enqueuer, 'own')
  await create(other, 'report')
  const count = async (api: Pick<Project, 'ok'>, query: Record<string, string> = {}) => {
    const { counts, atLeast } = await api.ok('countRuns', { query })
    expect(atLeast).toEqual([])
    return Object.fromEntries(Object.entries(counts).filter(([, runs]) => runs > 0))
  }
  expect(await count(mine)).toEqual({ failed: 1, cancelled: 1, queued: 1, pending: 1 })
  expect(await count(mine, { workflow: 'report' })).toEqual({ failed: 1, cancelled: 1 })
  expect(await count(mine, { search: 'EPOR' })).toEqual({ failed: 1, cancelled: 1 })
  expect(await count(mine, { search: failed.id })).toEqual({ failed: 1 })
  expect(await count(mine, { search: 'ail', status: 'queued' })).toEqual({ queued: 1 })
  expect(await count(mine, { queue: 'mails' })).toEqual({ queued: 1 })
  expect(await count(mine, { 'metadata.tenant': 'acme' })).toEqual({ failed: 1 })
  expect(await count(mine, { 'metadata.size': '3', status: 'failed' })).toEqual({ failed: 1 })
  expect(await count(mine, { cancelReason: 'budget' })).toEqual({ cancelled: 1 })
  expect(await count(mine, { cancelReason: 'budget', status: 'failed' })).toEqual({})
  expect(await count(mine, { to: failed.createdAt })).toEqual({})
  expect(await count(mine, { from: cancelled.createdAt })).toEqual({ cancelled: 1, queued: 1, pending: 1 })
  expect(await count(enqueuer)).toEqual({ pending: 1 })
  expect(await count(enqueuer, { workflow: 'report' })).toEqual({})
  const list = async (query: Record<string, string>) => (await mine.ok('listRuns', { query })).runs.map(({ id }) => id)
  expect(await list({ cancelReason: 'budget', status: 'failed' })).toEqual([])
  expect(await list({ cancelReason: 'budget' })).toEqual([cancelled.id])
  expect(await list({ 'metadata.tenant': 'acme' })).toEqual([failed.id])
  const bad: Record<string, string>[] = [
    { status: 'gone' },
    { from: 'yesterday' },
    { search: '' },
    { workflow: 'x'.repeat(301) },
  ]
  for (const query of bad) {
    expect(await mine.send('countRuns', { query })).toMatchObject(refused)
    expect(await mine.send('listRuns', { query })).toMatchObject(refused)
  }
})

test('a queue’s charts: what came, began and ended, how long runs waited; bad spans are refused', async () => {
  const [mine, other] = [await project(), await project()]
  const put = () => mine.ok('enqueue', { params: { queue: 'jobs' }, body: { workflowName: 'w' } })
  for (let n = 0; n < 3; n++) await put()
  const claimed = await mine.ok('claim', { body: { queues: ['jobs'], limit: 2, leaseOwner: 'w1' } })
  await mine.ok('completeRun', { params: { runId: claimed.runs[0]?.id ?? '' }, body: { leaseOwner: 'w1' } })
  const { points, sampled } = await mine.ok('queueStats', { params: { queue: 'jobs' }, query: { minutes: 5 } })
  expect(points).toHaveLength(60)
  expect(sampled).toBe(false)
  const sum = (of: 'enqueued' | 'started' | 'ended') => points.reduce((total, point) => total + point[of], 0)
  expect({ came: sum('enqueued'), began: sum('started'), ended: sum('ended') }).toEqual({ came: 3, began: 2, ended: 1 })
  expect(points.at(-1)?.depth).toBe(1)
  expect(points[0]?.depth).toBe(0)
  const waits = points.flatMap(({ waitP50Ms, waitP95Ms }) => (waitP50Ms === null ? [] : [[waitP50Ms, waitP95Ms]]))
  for (const [half, most] of waits) expect(half).toBeLessThanOrEqual(most ?? -1)
  expect(waits.length).toBeGreaterThan(0)
  const empty = await other.ok('queueStats', { params: { queue: 'jobs' } })
  expect(empty.points.every(({ enqueued, depth }) => enqueued === 0 && depth === 0)).toBe(true)
  for (const minutes of ['0', '1441', 'x', '1.5'])
    expect(await mine.send('queueStats', { params: { queue: 'jobs' }, query: { minutes } })).toMatchObject(refused)
})

test('bulk: says how many first, changes 500 at a time, and only what the filter and the key reach', async () => {
  const [mine, other] = [await project(), await project()]
  const jobs = Array.from({ length: 300 }, () => ({ workflowName: 'stuck' }))
  for (let n = 0; n < 2; n++) await mine.ok('enqueueBatch', { params: { queue: 'bulk' }, body: { jobs } })
  const kept = await create(mine, 'kept')
  const foreign = await create(other, 'stuck')
  const body = { filter: { workflow: 'stuck' } }
  expect(await mine.ok('cancelRuns', { body: { ...body, dryRun: true } })).toEqual({
    matched: 600,
    done: 0,
    more: true,
  })
  expect(await mine.ok('cancelRuns', { body })).toEqual({ matched: 600, done: 500, more: true })
  expect(await mine.ok('cancelRuns', { body })).toEqual({ matched: 100, done: 100, more: false })
  expect(await mine.ok('cancelRuns', { body })).toEqual({ matched: 0, done: 0, more: false })
  const statusOf = async (api: Project, runId: string) => (await api.ok('getRun', { params: { runId } })).run.status
  expect([await statusOf(mine, kept.id), await statusOf(other, foreign.id)]).toEqual(['pending', 'pending'])

  const broken = [await create(mine, 'broken'), await create(mine, 'broken')]
  for (const { id } of broken) await fail(mine, id)
  const enqueuer = await mine.key('enqueue')
  const retry = { filter: { status: 'failed' } }
  // An enqueue key sees its own runs, and has none.
  expect(await enqueuer.ok('retryRuns', { body: retry })).toEqual({ matched: 0, done: 0, more: false })
  expect(await (await mine.key('read')).send('retryRuns', { body: retry })).toMatchObject({ status: 403 })
  expect(await (await mine.key('worker')).send('retryRuns', { body: retry })).toMatchObject({ status: 403 })
  expect(await enqueuer.send('cancelRuns', { body })).toMatchObject({ status: 403 })
  expect(await mine.ok('retryRuns', { body: { ...retry, actor: 'ada' } })).toEqual({ matched: 2, done: 2, more: false })
  const { run, events } = await mine.ok('getRun', { params: { runId: broken[0]?.id ?? '' } })
  expect(run.status).toBe('pending')
  expect(events.at(-1)).toMatchObject({ type: 'run.retried', payload: { actor: 'ada' } })
  // What cannot be retried is not matched, whatever the filter says.
  expect(await mine.ok('retryRuns', { body: { filter: { status: 'completed' } } })).toMatchObject({ matched: 0 })
  for (const bad of [{}, { filter: { status: 'gone' } }, { filter: { from: 'x' } }, { filter: { 'metadata.a': 1 } }])
    expect(await mine.send('cancelRuns', { body: bad })).toMatchObject(refused)
})

test('redelivery: a webhook that was given up goes out once more under the same id; others’ are not found', async () => {
  const [mine, other] = [await project(), await project()]
  status = 400
  const channels = [{ type: 'webhook', url: hooks.url('/told'), events: ['run.cancelled'] }]
  const run = await create(mine, 'tells', { channels })
  await mine.ok('cancelRun', { params: { runId: run.id }, body: {} })
  const deliveries = async () => (await mine.ok('getRun', { params: { runId: run.id } })).channelDeliveries
  await vi.waitFor(async () => expect(await deliveries()).toMatchObject([{ httpStatus: 400 }]), { timeout: 15_000 })
  const [first] = await deliveries()
  const params = { runId: run.id, deliveryId: first?.id ?? '' }
  expect(await other.send('redeliver', { params, body: {} })).toMatchObject({ status: 404 })
  expect(await (await mine.key('read')).send('redeliver', { params, body: {} })).toMatchObject({ status: 403 })
  for (const deliveryId of ['del_1', 'x', `del_${'0'.repeat(32)}`, `rec_${'0'.repeat(32)}`])
    expect(await mine.send('redeliver', { params: { ...params, deliveryId }, body: {} })).toMatchObject({
      status: 404,
      body: { code: 'delivery_not_found' },
    })
  status = 200
  const { delivery } = await mine.ok('redeliver', { params, body: {} })
  expect(delivery).toMatchObject({ id: first?.id, runId: run.id, status: 'pending', tries: 0 })
  await vi.waitFor(async () => expect(await deliveries()).toMatchObject([{ status: 'delivered', httpStatus: 200 }]), {
    timeout: 15_000,
  })
  const ids = hooks.at('/told').map(({ headers }) => headers['x-tidebase-delivery'])
  expect(new Set(ids).size).toBe(1)
  expect(ids.length).toBeGreaterThan(1)
})

test('a step that was noted while it ran began when its worker says, not when the note came', async () => {
  const mine = await project()
  const { id } = await create(mine, 'w')
  await mine.ok('beginRun', { params: { runId: id }, headers: { 'x-tidebase-worker': 'w1' } })
  const step = { name: 's', inputHash: 'a'.repeat(64), leaseOwner: 'w1' }
  await mine.ok('beginStep', { params: { runId: id }, body: step })
  const noted = (await mine.ok('getRun', { params: { runId: id } })).steps[0]?.startedAt
  const startedAt = new Date(Date.parse(noted ?? '') - 5_000).toISOString()
  await mine.ok('recordStep', { params: { runId: id }, body: { ...step, output: 1, startedAt } })
  expect((await mine.ok('getRun', { params: { runId: id } })).steps).toMatchObject([{ startedAt, status: 'completed' }])
  // Without a word about it the note stands.
  const other = { ...step, name: 't' }
  await mine.ok('beginStep', { params: { runId: id }, body: other })
  const before = (await mine.ok('getRun', { params: { runId: id } })).steps[1]?.startedAt
  await mine.ok('recordStep', { params: { runId: id }, body: { ...other, output: 1 } })
  expect((await mine.ok('getRun', { params: { runId: id } })).steps[1]).toMatchObject({ startedAt: before })
})

test('lists are paged by cursors that hold; what is no cursor is refused', async () => {
  const [mine, other] = [await project(), await project()]
  const made: string[] = []
  for (let n = 0; n < 5; n++) {
    const { id } = await create(mine, 'w')
    await mine.ok('beginGate', { params: { runId: id }, body: { name: 'g', prompt: '?' } })
    made.push(id)
  }
  /** All that a list has, read in pages of two. */
  const readAll = async (page: (cursor: string | undefined) => Promise<{ ids: string[]; next: string | null }>) => {
    const all: string[] = []
    for (let cursor: string | undefined; ; ) {
      const { ids, next } = await page(cursor)
      expect(ids.length).toBeLessThanOrEqual(2)
      all.push(...ids)
      if (next === null) return all
      cursor = next
    }
  }
  const runs = await readAll(async (before) => {
    const { runs, nextCursor } = await mine.ok('listRuns', { query: { limit: 2, ...(before && { before }) } })
    return { ids: runs.map(({ id }) => id), next: nextCursor }
  })
  expect(runs).toEqual(made.toReversed())
  const gates = await readAll(async (after) => {
    const { gates, nextCursor } = await mine.ok('listGates', { query: { limit: 2, ...(after && { after }) } })
    return { ids: gates.map(({ runId }) => runId), next: nextCursor }
  })
  expect(gates).toEqual(made)
  expect((await other.ok('listGates')).gates).toEqual([])
  const zeros = '0'.repeat(32)
  for (const cursor of ['x', `1_${zeros}1`, `${'9'.repeat(60)}_${zeros}`, `${'9'.repeat(18)}_${zeros}`])
    expect(await mine.send('listGates', { query: { after: cursor } })).toMatchObject(refused)
  for (const cursor of ['x', `1.${zeros}1`, `${'9'.repeat(60)}.${zeros}`])
    expect(await mine.send('listRuns', { query: { before: cursor } })).toMatchObject(refused)
  expect((await mine.send('listRuns', { query: { before: `${'9'.repeat(17)}.${zeros}` } })).status).toBe(200)
  for (const limit of ['0', '501', 'x']) {
    expect(await mine.send('listGates', { query: { limit } })).toMatchObject(refused)
    expect(await mine.send('listRuns', { query: { limit } })).toMatchObject(refused)
  }
})
