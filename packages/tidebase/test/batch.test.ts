import { type BatchCall, type Route, type RouteName, routes, type Scope } from '@tidebase/wire'
import pg from 'pg'
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { anyRequest } from '../../../test/any-request.ts'
import { client, startServer } from '../../../test/server.ts'

// Many calls in one request: each as if it came alone.

const root = 'root-key-of-this-test'
const maxBody = 100_000
let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer({ apiKey: root, maxBody, leaseMs: 60_000 })
})
afterAll(() => server.stop())

interface Answer {
  status: number
  headers?: Record<string, string>
  body: { [field: string]: unknown }
}
type Caller = Pick<typeof server, 'ok' | 'call'>

const batch = async (calls: BatchCall[], api: Caller = server) =>
  // The schema leaves the bodies of the answers open.
  (await api.ok('batch', { body: { calls } })).answers as Answer[]
const begun = async (api: Caller = server) => {
  const { run } = await api.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  await api.ok('beginRun', { params: { runId: run.id }, headers: { 'x-tidebase-worker': 'w1' } })
  return run.id
}
const inputHash = 'a'.repeat(64)
const record = (runId: string, name: string, more: object = {}): BatchCall => ({
  route: 'recordStep',
  params: { runId },
  body: { name, inputHash, leaseOwner: 'w1', output: name, ...more },
})
const names = async (runId: string) =>
  (await server.ok('getRun', { params: { runId } })).steps.map(({ name }) => name).sort()
const keyOf = async (scope: Scope, project = 'default') =>
  client(server.url, (await server.createKey({ project, name: scope, scope })).secret)

test('calls of many runs become few statements, answered in their order when all are committed', async () => {
  const runs = await Promise.all(Array.from({ length: 40 }, () => begun()))
  const query = vi.spyOn(pg.Client.prototype, 'query')
  onTestFinished(() => query.mockRestore())
  const answers = await batch(
    runs.flatMap((run) => [
      record(run, 'a'),
      { route: 'heartbeatRun', params: { runId: run }, body: { leaseOwner: 'w1' } },
    ]),
  )
  const statements = query.mock.calls.map(([first]) => Object(first).name)
  expect(statements.filter((name) => name === 'steps.record').length).toBeLessThanOrEqual(2)
  expect(statements.length).toBeLessThan(20)
  expect(answers.map(({ status }) => status)).toEqual(runs.flatMap(() => [200, 200]))
  for (const [n, run] of runs.entries()) {
    expect(answers[2 * n]?.body).toMatchObject({ action: 'recorded' })
    expect(answers[2 * n + 1]?.body).toMatchObject({ run: { id: run } })
    expect(await names(run)).toEqual(['a'])
  }
})

test('steps of one run in one batch keep their order', async () => {
  const run = await begun()
  const wanted = Array.from({ length: 30 }, (_, n) => `s${n}`)
  const answers = await batch(wanted.map((name) => record(run, name)))
  expect(answers.every(({ status }) => status === 200)).toBe(true)
  const { events, steps } = await server.ok('getRun', { params: { runId: run } })
  expect(steps.map(({ name }) => name)).toEqual(wanted)
  expect(events.map(({ seq }) => seq)).toEqual(events.map((_, n) => n + 1))
})

test('a call fails by itself, with the status and the body it would have had alone', async () => {
  const run = await begun()
  const none = `run_${'0'.repeat(32)}`
  const answers = await batch([
    record(run, 'first'),
    record(none, 'a'),
    record(run, 'b', { leaseOwner: 'thief' }),
    record(run, 'c', { inputHash: '' }),
    record(run, 'd', { output: 'x\0' }),
    { route: 'nonsense' },
    { method: 'GET', path: '/nowhere' },
    { method: 'PATCH', path: '/queues' },
    { route: 'recordStep', body: {} },
    { route: 'recordStep', params: { runId: '\ud800' }, body: {} },
    { method: 'GET', path: '/runs', query: { limit: 'many' } },
    { method: 'GET', path: '/runs/%ff' },
    record(run, 'last'),
  ])
  expect(answers.map(({ status, body }) => [status, body.code])).toEqual([
    [200, undefined],
    [404, 'run_not_found'],
    [409, 'lease_lost'],
    [400, 'invalid_body'],
    [400, 'invalid_body'],
    [404, 'route_not_found'],
    [404, 'route_not_found'],
    [405, 'method_not_allowed'],
    [400, 'invalid_query'],
    [400, 'invalid_query'],
    [400, 'invalid_query'],
    [400, 'invalid_query'],
    [200, undefined],
  ])
  expect(answers[3]?.body.issues).toMatchObject([{ path: 'inputHash' }])
  expect(answers[4]?.body.issues).toMatchObject([{ path: 'output' }])
  expect(answers[7]?.headers).toEqual({ allow: 'GET' })
  expect(await names(run)).toEqual(['first', 'last'])
  const alone = await server.send('recordStep', { params: { runId: none }, body: record(none, 'a').body })
  expect(answers[1]).toEqual({ status: alone.status, body: alone.body })
})

test('method and path, percent-encoded names, numbers in queries and a missing body', async () => {
  const name = 'a/b ü?'
  const [created, again] = await batch([
    { method: 'POST', path: `/runs/${encodeURIComponent(name)}` },
    { route: 'createRun', params: { workflowName: name } },
  ])
  expect([created?.body, again?.body]).toMatchObject([{ run: { workflowName: name } }, { run: { workflowName: name } }])
  const [listed] = await batch([{ method: 'GET', path: '/runs', query: { workflow: name, limit: 1 } }])
  expect(listed?.body).toMatchObject({ runs: [{ workflowName: name }] })
  expect(await batch([])).toEqual([])
})

test('a batch that is sent again changes nothing and gives the same answers', async () => {
  const run = await begun()
  const calls = [record(run, 'a'), record(run, 'b'), record(run, 'a')]
  const first = await batch(calls)
  expect(first.map(({ status }) => status)).toEqual([200, 200, 200])
  const before = await server.ok('getRun', { params: { runId: run } })
  expect(await batch(calls)).toEqual(first)
  const after = await server.ok('getRun', { params: { runId: run } })
  expect([after.steps, after.events]).toEqual([before.steps, before.events])
})

test('each call needs the scope that it needs alone', async () => {
  const run = await begun()
  for (const scope of ['worker', 'enqueue', 'read'] as const) {
    const api = await keyOf(scope)
    const inside = (Object.keys(routes) as RouteName[]).filter((name) => !refused(name) && name !== 'health')
    const answers = await batch(
      inside.map((name): BatchCall => {
        const { params, body } = anyRequest(name, { runId: run })
        return { route: name, params, body }
      }),
      api,
    )
    for (const [n, name] of inside.entries()) {
      const route: Route = routes[name]
      const forbidden = answers[n]?.body.code === 'forbidden'
      expect({ scope, name, forbidden }).toEqual({ scope, name, forbidden: !route.scopes.includes(scope) })
    }
  }
  for (const api of [client(server.url), client(server.url, 'wrong')]) {
    expect(await api.send('batch', { body: { calls: [{ route: 'health' }] } })).toMatchObject({ status: 401 })
  }
})

test('a batch reaches nothing of another project', async () => {
  const run = await begun()
  const stranger = await keyOf('admin', 'elsewhere')
  const answers = await batch(
    [record(run, 'a'), { method: 'GET', path: `/runs/${run}` }, { route: 'cancelRun', params: { runId: run } }],
    stranger,
  )
  expect(answers.map(({ status }) => status)).toEqual([404, 404, 404])
  expect(await names(run)).toEqual([])
})

const refused = (name: RouteName) => {
  const route: Route = routes[name]
  return route.alone === true || route.reply === null
}

test('what streams, waits, is a page or a batch is refused inside, and does nothing', async () => {
  const inside = (Object.keys(routes) as RouteName[]).filter(refused)
  expect(inside).toEqual(
    expect.arrayContaining([
      'batch',
      'claim',
      'getGate',
      'getWait',
      'streamEvents',
      'streamProjectEvents',
      'mcp',
      'decideGate',
    ]),
  )
  const { run } = await server.ok('enqueue', { params: { queue: 'q' }, body: { workflowName: 'w' } })
  const answers = await batch(
    inside.map((name): BatchCall => {
      const { params, body } = anyRequest(name)
      return { route: name, params, body: name === 'claim' ? { queues: ['q'] } : body }
    }),
  )
  expect(answers.map(({ status, body }) => [status, body.code])).toEqual(inside.map(() => [400, 'not_in_batch']))
  expect((await server.ok('getRun', { params: { runId: run.id } })).run.status).toBe('queued')
})

test.each([
  ['no list', {}, 'invalid_body'],
  ['a call that is none', { calls: [1] }, 'invalid_body'],
  ['neither route nor path', { calls: [{ method: 'GET' }] }, 'invalid_body'],
  ['both', { calls: [{ route: 'health', method: 'GET', path: '/health' }] }, 'invalid_body'],
  ['a path that is none', { calls: [{ method: 'GET', path: 'runs' }] }, 'invalid_body'],
  ['a path that is not encoded', { calls: [{ method: 'GET', path: '/runs/ü' }] }, 'invalid_body'],
  ['501 calls', { calls: Array.from({ length: 501 }, () => ({ route: 'health' })) }, 'invalid_body'],
  [
    'nesting without end',
    { calls: [{ route: 'health', body: JSON.parse(`${'['.repeat(300)}${']'.repeat(300)}`) }] },
    'invalid_json',
  ],
])('a malformed batch is refused as a whole: %s', async (_, body, code) => {
  const { run } = await server.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  const calls = 'calls' in body ? [{ route: 'cancelRun', params: { runId: run.id } }, ...body.calls] : undefined
  expect(await server.send('batch', { body: calls ? { calls } : body })).toMatchObject({ status: 400, body: { code } })
  expect((await server.ok('getRun', { params: { runId: run.id } })).run.status).toBe('pending')
})

test('500 calls and a body as deep as one may be alone are fine', async () => {
  const calls: BatchCall[] = Array.from({ length: 500 }, () => ({ method: 'GET', path: '/health' }))
  expect((await batch(calls)).every(({ status }) => status === 200)).toBe(true)
  const input = JSON.parse(`${'['.repeat(199)}${']'.repeat(199)}`)
  const [created] = await batch([{ route: 'createRun', params: { workflowName: 'w' }, body: { input } }])
  expect(created).toMatchObject({ status: 200, body: { run: { input } } })
})

test('the limit of a body is that of the whole batch, and answers have one too', async () => {
  const run = await begun()
  const large = 'x'.repeat(60_000)
  const refusedWhole = await server.send('batch', {
    body: { calls: [record(run, 'a', { output: large }), record(run, 'b', { output: large })] },
  })
  expect(refusedWhole).toMatchObject({ status: 413, body: { code: 'body_too_large' } })
  expect(await names(run)).toEqual([])

  await batch([record(run, 'a', { output: large })])
  const answers = await batch(Array.from({ length: 20 }, () => ({ method: 'GET', path: `/runs/${run}` })))
  const codes = new Set(answers.map(({ status, body }) => `${status} ${body.code}`))
  expect(codes).toEqual(new Set(['200 undefined', '400 not_in_batch']))
})

test('the metrics count the calls of a batch by their own routes', async () => {
  const count = async () => {
    const { text } = (await server.call('GET', '/metrics', undefined, { authorization: `Bearer ${root}` })).body
    return Number(/request_seconds_count\{route="listQueues",status="200"\} (\d+)/.exec(String(text))?.[1] ?? 0)
  }
  const before = await count()
  await batch([{ route: 'listQueues' }, { route: 'listQueues' }])
  expect(await count()).toBe(before + 2)
})
