// Calls that travel together, against a real server: each is owed what it would be owed alone.
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { delay } from '../src/abort.ts'
import type { CallOptions } from '../src/endpoints.ts'
import type { Fetch } from '../src/send.ts'
import { Transport } from '../src/transport.ts'
import { signalled, watched } from './helpers.ts'

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer({ leaseMs: 60_000 })
})
afterAll(() => server.stop(500))

const inputHash = 'a'.repeat(64)
const leaseOwner = 'w1'
const begun = async (on = server) => {
  const { run } = await on.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  await on.ok('beginRun', { params: { runId: run.id }, headers: { 'x-tidebase-worker': leaseOwner } })
  return run.id
}
const several = (count: number, on = server) => Promise.all(Array.from({ length: count }, () => begun(on)))
const record = (
  transport: Transport,
  runId: string,
  options: CallOptions & { name?: string; output?: unknown } = {},
) => {
  const { name = 'a', output = 1, ...more } = options
  return transport.call('recordStep', { params: { runId }, body: { name, inputHash, leaseOwner, output }, ...more })
}
const events = async (runId: string) =>
  (await server.ok('getRun', { params: { runId } })).events.map(({ type }) => type).slice(2)
const once = ['step.started', 'step.completed']

type Disturb = (path: string, send: () => Promise<Response>, init: RequestInit) => Promise<Response>

/** A transport whose requests are seen, and may be disturbed, by their paths. */
function through(disturb: Disturb = (_, send) => send(), { url }: { url: string } = server) {
  const paths: string[] = []
  const fetch: Fetch = (address, init) => {
    const path = new URL(address).pathname.replace(/run_\w+/, ':id')
    paths.push(path)
    return disturb(path, () => globalThis.fetch(address, init), init)
  }
  const transport = new Transport({ url, fetch, retryForMs: 5_000, timeoutMs: 5_000, coalesce: true })
  return { transport, paths }
}
const lost = () => new TypeError('fetch failed')

test('calls of one turn are one request; one call is itself; long ones and others go alone', async () => {
  const { transport, paths } = through()
  const runs = await several(10)
  await Promise.all(runs.map((run) => record(transport, run)))
  expect(paths.splice(0)).toEqual(['/batch'])
  for (const run of runs) expect(await events(run)).toEqual(once)
  const [first = '', second = ''] = runs
  await record(transport, first, { name: 'b' })
  expect(paths.splice(0)).toEqual(['/runs/:id/steps/record'])
  const output = 'x'.repeat(40_000)
  await Promise.all([
    record(transport, first, { name: 'c', output }),
    record(transport, second, { name: 'c' }),
    transport.call('heartbeatRun', { params: { runId: second }, body: { leaseOwner } }),
    transport.call('getRun', { params: { runId: first } }),
    transport.call('recordUsage', { params: { runId: first }, body: {} }).catch(() => undefined),
  ])
  expect(paths.sort()).toEqual(['/batch', '/runs/:id', '/runs/:id/steps/record', '/runs/:id/usage'])
})

test('a workflow’s steps in parallel travel together, and resume as ever', async () => {
  const { tide, requests } = watched(server)
  const { id } = await tide.runs.create('fan')
  const execute = () =>
    tide.run('fan', { runId: id }, (run) =>
      Promise.all(
        Array.from({ length: 30 }, (_, n) => run.step(`s${n}`, { sideEffects: n % 2 ? ['pay'] : [] }, () => n)),
      ),
    )
  expect(await execute()).toEqual(Array.from({ length: 30 }, (_, n) => n))
  expect(requests.filter((request) => request.includes('/steps/')).length).toBeLessThan(5)
  expect(requests).toContain('POST /batch')
  const { run, steps } = await server.ok('getRun', { params: { runId: id } })
  expect(run.status).toBe('completed')
  expect(steps.map(({ status, attempt }) => [status, attempt])).toEqual(steps.map(() => ['completed', 1]))
  expect(steps).toHaveLength(30)
})

test('an error is the one it would be alone, and nobody else’s', async () => {
  const { transport, paths } = through()
  const [run = ''] = await several(1)
  const calls = (): (() => Promise<unknown>)[] => [
    () => record(transport, run),
    () => record(transport, `run_${'0'.repeat(32)}`),
    () => record(transport, run, { name: '' }),
    () => record(transport, run, { name: 'n\0' }),
    () => record(transport, '..'),
    () => transport.call('recordStep', { params: { runId: run }, body: { name: 'b', inputHash, leaseOwner: 'thief' } }),
  ]
  const seen = (thrown: unknown) =>
    JSON.stringify(thrown, (_, value) => (value instanceof Error ? { ...value, text: String(value) } : value))
  const alone: string[] = []
  for (const call of calls()) alone.push(seen(await call().catch((error: unknown) => error)))
  paths.length = 0
  const together = await Promise.all(calls().map((call) => call().catch((error: unknown) => error)))
  expect(paths).toEqual(['/batch'])
  expect(together.map(seen)).toEqual(alone)
  expect(alone.filter((text) => text.includes('TidebaseError') || text.includes('LeaseLost'))).toHaveLength(5)
})

describe.each([403, 404, 405])('a server that answers %i to a batch', (status) => {
  test('is asked once, and then call by call', async () => {
    let now = 0
    let most = 0
    const { transport, paths } = through(async (path, send) => {
      if (path === '/batch') return Response.json({ error: 'no' }, { status })
      most = Math.max(most, ++now)
      return send().finally(() => now--)
    })
    const runs = await several(5)
    await Promise.all(runs.map((run) => record(transport, run)))
    await Promise.all(runs.map((run) => record(transport, run, { name: 'b' })))
    expect(paths.filter((path) => path === '/batch')).toHaveLength(1)
    expect(paths).toHaveLength(11)
    for (const run of runs) expect(await events(run)).toEqual([...once, ...once])
    // Nothing waits for its turn where nothing would travel together.
    expect(most).toBe(5)
  })
})

test.each(['before', 'after'])('a batch that is lost %s it was done is repeated, and counts once', async (when) => {
  let left = 1
  const { transport, paths } = through(async (path, send) => {
    if (path !== '/batch' || left-- <= 0) return send()
    if (when === 'after') await send()
    throw lost()
  })
  const runs = await several(20)
  const replies = await Promise.all(runs.map((run) => record(transport, run)))
  expect(replies.every(({ action }) => action === 'recorded')).toBe(true)
  expect(paths.length).toBeGreaterThan(1)
  for (const run of runs) expect(await events(run)).toEqual(once)
})

test('an outage is repeated too, and ends where the call’s patience does', async () => {
  let away = 2
  const { transport } = through(async (path, send) => {
    if (path === '/batch' && away-- > 0) return new Response('<html>', { status: 502 })
    return send()
  })
  const runs = await several(3)
  const outcomes = await Promise.allSettled([
    record(transport, runs[0] ?? '', { retryForMs: 0 }),
    ...runs.slice(1).map((run) => record(transport, run)),
  ])
  expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'fulfilled'])
  expect(outcomes[0]).toMatchObject({ reason: { status: 502, code: 'http_error', retryable: true } })
})

test('a page of a proxy in place of the answers is no answer', async () => {
  const { transport } = through((path, send) =>
    path === '/batch' ? Promise.resolve(Response.json({ answers: [] })) : send(),
  )
  const runs = await several(2)
  const outcomes = await Promise.allSettled(runs.map((run) => record(transport, run)))
  expect(outcomes).toMatchObject([{ reason: { code: 'bad_reply' } }, { reason: { code: 'bad_reply' } }])
})

test('giving up one call, or its time, leaves the others', async () => {
  const answer = signalled()
  const { transport } = through(async (path, send) => {
    const response = await send()
    if (path === '/batch') await answer.promise
    return response
  })
  const [stopped = '', late = '', ...others] = await several(5)
  const controller = new AbortController()
  const calls = others.map((run) => record(transport, run))
  const aborted = record(transport, stopped, { signal: controller.signal })
  const slow = record(transport, late, { timeoutMs: 100, retryForMs: 0 })
  const reason = new Error('enough')
  setTimeout(() => controller.abort(reason), 20)
  await expect(aborted).rejects.toBe(reason)
  await expect(slow).rejects.toMatchObject({ code: 'unreachable', message: expect.stringContaining('100 ms') })
  answer.done()
  expect((await Promise.all(calls)).map(({ action }) => action)).toEqual(others.map(() => 'recorded'))
})

test('a call given up before it left is not sent; the request ends with the last of its calls', async () => {
  let sent: RequestInit | undefined
  const { transport, paths } = through((path, send, init) => {
    if (path !== '/batch') return send()
    sent = init
    return new Promise((_, reject) => init.signal?.addEventListener('abort', () => reject(lost())))
  })
  const runs = await several(3)
  const controllers = runs.map(() => new AbortController())
  const calls = runs.map((run, n) => record(transport, run, { signal: controllers[n]?.signal }))
  const outcomes = Promise.allSettled(calls)
  controllers[0]?.abort('early')
  await delay(50)
  expect(JSON.parse(String(sent?.body)).calls).toHaveLength(2)
  controllers[1]?.abort('second')
  await delay(20)
  expect(sent?.signal?.aborted).toBe(false)
  controllers[2]?.abort('third')
  expect((await outcomes).map((each) => 'reason' in each && each.reason)).toEqual(['early', 'second', 'third'])
  expect(sent?.signal?.aborted).toBe(true)
  expect(paths).toEqual(['/batch'])
})

test('while two requests are under way further calls gather, but not for long', async () => {
  const held = signalled()
  const { transport, paths } = through(async (_, send) => {
    const response = await send()
    await held.promise
    return response
  })
  const runs = await several(6)
  const calls: Promise<unknown>[] = []
  for (const run of runs) {
    calls.push(record(transport, run))
    await delay(10)
  }
  expect(paths).toEqual(['/runs/:id/steps/record', '/runs/:id/steps/record'])
  await delay(300)
  expect(paths.slice(2)).toEqual(['/batch'])
  held.done()
  await Promise.all(calls)
  for (const run of runs) expect(await events(run)).toEqual(once)
})

test('where bodies, or answers together, are limited, everything still arrives', async () => {
  const small = await startServer({ maxBody: 20_000, leaseMs: 60_000 })
  onTestFinished(() => small.stop(500))
  const { transport, paths } = through(undefined, small)
  const runs = await several(12, small)
  const output = 'x'.repeat(15_000)
  await Promise.all(runs.map((run) => record(transport, run, { output })))
  expect(paths.filter((path) => path === '/batch').length).toBeGreaterThan(0)
  const begins = await Promise.all(
    runs.map((runId) => transport.call('beginStep', { params: { runId }, body: { name: 'a', inputHash, leaseOwner } })),
  )
  expect(begins.every((reply) => reply.action === 'return' && reply.output === output)).toBe(true)
})

test('`coalesce: false` keeps each call a request of its own', async () => {
  const { tide, requests } = watched(server, { coalesce: false })
  await tide.run('apart', (run) => Promise.all([1, 2, 3].map((n) => run.step(`s${n}`, () => n))))
  expect(requests).not.toContain('POST /batch')
  expect(requests.filter((request) => request.endsWith('/steps/record'))).toHaveLength(3)
})
