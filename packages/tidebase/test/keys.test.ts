import { type Route, type RouteName, routes, type Scope } from '@tidebase/wire'
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { anyRequest } from '../../../test/any-request.ts'
import { client, startServer } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'
import { createKey, listKeys, revokeKey } from '../src/keys.ts'
import { receiver } from './receiver.ts'

const routeNames = Object.keys(routes) as RouteName[]
const root = 'root-key-of-this-test'
let server: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
beforeAll(async () => {
  // Sends no webhooks: the one that may call private addresses does, in the test about channels.
  server = await startServer({ apiKey: root, reconciler: false })
  db = openDatabase({ connectionString: server.databaseUrl })
})
afterAll(async () => {
  await db.close()
  await server.stop()
})

const key = async (scope: Scope, project = 'default') => {
  const { key, secret } = await createKey(db.cold, { name: 'test', scope, project })
  return { ...key, secret, ...client(server.url, secret) }
}

test('without a key every route but /health is 401, and a wrong key is no better', async () => {
  for (const name of routeNames) {
    for (const api of [client(server.url), client(server.url, 'wrong')]) {
      const { status, body } = await api.send(name, anyRequest(name))
      const route: Route = routes[name]
      if (name === 'health') expect(status).toBe(200)
      // What opens these is the token in their address or form.
      else if (route.keyless) expect({ name, refused: status >= 400 && status < 500 }).toEqual({ name, refused: true })
      else expect({ name, status, code: body.code }).toEqual({ name, status: 401, code: 'unauthorized' })
    }
  }
})

test('a key that may only create runs cannot begin them on the way', async () => {
  const api = await key('enqueue')
  const refused = await api.send('createRun', { params: { workflowName: 'w' }, body: { begin: { leaseOwner: 'me' } } })
  expect(refused).toMatchObject({ status: 403, body: { code: 'forbidden', hint: expect.stringContaining('worker') } })
  expect((await api.send('createRun', { params: { workflowName: 'w' }, body: { begin: null } })).status).toBe(200)
})

test('each scope may call exactly the routes that name it', async () => {
  const run = (await server.ok('createRun', { params: { workflowName: 'w' }, body: {} })).run
  for (const scope of ['worker', 'enqueue', 'read'] as const) {
    const api = await key(scope)
    for (const name of routeNames) {
      const route: Route = routes[name]
      if (route.reply === null || name === 'health') continue
      const { status, body } = await api.send(name, anyRequest(name, { runId: run.id }))
      const allowed = route.scopes.includes(scope)
      expect({ scope, name, forbidden: status === 403 }).toEqual({ scope, name, forbidden: !allowed })
      if (!allowed) expect(body).toMatchObject({ code: 'forbidden', hint: expect.stringContaining('scope') })
    }
  }
})

test('a worker sees no gate token anywhere and cannot resolve; an admin needs no token', async () => {
  const worker = await key('worker')
  const { run } = await worker.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  const { gate } = await worker.ok('beginGate', { params: { runId: run.id }, body: { name: 'g', prompt: '?' } })
  expect(gate.resolveToken).toBeNull()
  const params = { runId: run.id, gateId: gate.id }
  const { resolveToken } = (await server.ok('getGate', { params })).gate
  expect(resolveToken).toBeTruthy()
  for (const reply of [await worker.ok('getGate', { params }), await worker.ok('getRun', { params })]) {
    expect(JSON.stringify(reply)).not.toContain(resolveToken)
  }
  const body = { token: resolveToken, decision: 'approved' }
  expect(await worker.send('resolveGate', { params, body })).toMatchObject({ status: 403 })
  expect((await server.ok('resolveGate', { params, body: { decision: 'approved' } })).gate.status).toBe('approved')
})

test('an enqueue key reads back its own runs only', async () => {
  const mine = await key('enqueue')
  const other = await key('enqueue')
  const { run } = await mine.ok('enqueue', { params: { queue: 'own' }, body: { workflowName: 'w' } })
  expect((await mine.ok('getRun', { params: { runId: run.id } })).run.id).toBe(run.id)
  expect((await mine.ok('listRuns')).runs.map(({ id }) => id)).toEqual([run.id])
  expect((await other.ok('listRuns')).runs).toEqual([])
  expect(await other.send('getRun', { params: { runId: run.id } })).toMatchObject({
    status: 404,
    body: { code: 'run_not_found' },
  })
})

test('to another project a run, its queue and its schedules do not exist', async () => {
  const ours = await key('admin', 'ours')
  const theirs = await key('admin', 'theirs')
  const { run } = await ours.ok('enqueue', { params: { queue: 'secret' }, body: { workflowName: 'w', dedupeKey: 'k' } })
  const { gate } = await ours.ok('beginGate', { params: { runId: run.id }, body: { name: 'g', prompt: '?' } })
  await ours.ok('putSchedule', { params: { name: 's' }, body: { cron: '0 0 1 1 *', workflowName: 'w' } })
  for (const name of routeNames) {
    const route: Route = routes[name]
    if (!route.path.includes(':runId') || route.keyless) continue
    const real = await theirs.send(name, anyRequest(name, { runId: run.id, gateId: gate.id }))
    const unknown = await theirs.send(name, anyRequest(name, { gateId: gate.id }))
    expect({ name, status: real.status, body: real.body }).toEqual({ name, status: 404, body: unknown.body })
  }
  expect((await theirs.ok('listRuns')).runs).toEqual([])
  expect((await theirs.ok('listQueues')).queues).toEqual([])
  expect((await theirs.ok('listSchedules')).schedules).toEqual([])
  expect(await theirs.send('deleteSchedule', { params: { name: 's' } })).toMatchObject({ status: 404 })
  expect((await theirs.ok('claim', { body: { queues: ['secret'] } })).runs).toEqual([])
  const same = await theirs.ok('enqueue', { params: { queue: 'secret' }, body: { workflowName: 'w', dedupeKey: 'k' } })
  expect(same.deduplicated).toBe(false)
  // Their id is theirs to choose, although ours has it.
  expect(await theirs.ok('createRun', { params: { workflowName: 'x' }, body: { id: run.id } })).toMatchObject({
    run: { workflowName: 'x' },
  })
  expect((await ours.ok('getRun', { params: { runId: run.id } })).run.workflowName).toBe('w')
})

test('a revoked key stops working; keys are stored as hashes', async () => {
  const made = await key('admin')
  await made.ok('listRuns')
  expect(await revokeKey(db.cold, made.id)).toBe(true)
  expect(await revokeKey(db.cold, 'key_none')).toBe(false)
  await vi.waitFor(async () => expect((await made.call('GET', '/runs')).status).toBe(401), {
    timeout: 10_000,
    interval: 250,
  })
  const stored = await db.cold.query('select k.*, encode(hash, $1) as hex from tidebase.api_keys k', ['hex'])
  expect(JSON.stringify(stored)).not.toContain(made.secret)
  const listed = await listKeys(db.cold)
  expect(listed.find(({ id }) => id === made.id)).toMatchObject({ scope: 'admin', hint: made.secret.slice(-4) })
})

test('the event stream takes the key as a parameter, other routes do not', async () => {
  const { run } = await server.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  const stream = await fetch(`${server.url}/runs/${run.id}/events?token=${root}`)
  expect(stream.status).toBe(200)
  await stream.body?.cancel()
  expect((await fetch(`${server.url}/runs/${run.id}?token=${root}`)).status).toBe(401)
})

test('channels of a run that a worker or enqueue key made are told of gates, but not how to open them', async () => {
  const inbox = await receiver(() => 200)
  onTestFinished(inbox.close)
  const local = await startServer({ apiKey: root, databaseUrl: server.databaseUrl, allowPrivateWebhooks: true })
  onTestFinished(() => local.stop())
  const as = async (path: string, secret: string) => {
    const api = client(local.url, secret)
    const channels = [{ type: 'webhook', url: inbox.url(path) }]
    const { run } = await api.ok('createRun', { params: { workflowName: 'w' }, body: { channels } })
    await local.ok('beginGate', { params: { runId: run.id }, body: { name: 'g', prompt: '?' } })
    await vi.waitFor(() => expect(inbox.at(path).map(({ body }) => body.type)).toContain('gate.created'), 10_000)
    return inbox.at(path).find(({ body }) => body.type === 'gate.created')?.body.payload
  }
  expect(await as('/admin', root)).toMatchObject({ resolveToken: expect.any(String), resolveUrl: expect.any(String) })
  expect(await as('/admin-key', (await key('admin')).secret)).toHaveProperty('resolveToken')
  for (const scope of ['worker', 'enqueue'] as const) {
    const payload = await as(`/${scope}`, (await key(scope)).secret)
    expect(payload).toMatchObject({ name: 'g', resolveUrl: expect.any(String) })
    expect(payload).not.toHaveProperty('resolveToken')
  }
})
