import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { startServer, whole } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'
import { keepLive } from '../src/live-runs.ts'
import { receiver } from './receiver.ts'

// Jobs with a `concurrencyKey`: tenants take turns, and each has so many at a time.

let first: Awaited<ReturnType<typeof startServer>>
let second: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
beforeAll(async () => {
  first = await startServer({ leaseMs: 60_000 })
  second = await startServer({ leaseMs: 60_000, databaseUrl: first.databaseUrl })
  db = openDatabase({ connectionString: first.databaseUrl }, { hot: 1, cold: 2, timeoutMs: 60_000 })
})
afterAll(async () => {
  await db.close()
  await second.stop()
  await first.stop()
})

const configure = (queue: string, body: object) => first.ok('configureQueue', { params: { queue }, body })
const enqueue = async (queue: string, keys: (string | null)[], more: object = {}) =>
  (
    await first.ok('enqueueBatch', {
      params: { queue },
      body: { jobs: keys.map((concurrencyKey, n) => ({ workflowName: 'w', input: n, concurrencyKey, ...more })) },
    })
  ).jobs.map(({ run }) => whole(run))
const claim = async (queue: string, limit = 1, more: object = {}) =>
  (await first.ok('claim', { body: { queues: [queue], limit, leaseOwner: 'w1', ...more } })).runs
const keysOf = (runs: { concurrencyKey: string | null }[]) => runs.map(({ concurrencyKey }) => concurrencyKey)
const complete = (runId: string) => first.ok('completeRun', { params: { runId }, body: { leaseOwner: 'w1' } })

test('a tenant has so many runs at a time; the others go on', async () => {
  expect((await configure('caps', { perKeyConcurrency: 2 })).config).toMatchObject({ perKeyConcurrency: 2 })
  const runs = await enqueue('caps', ['a', 'a', 'a', 'a', 'b', null, null, null])
  expect(keysOf(runs)).toEqual(['a', 'a', 'a', 'a', 'b', null, null, null])
  const claimed = await claim('caps', 100)
  expect(keysOf(claimed).sort()).toEqual(['a', 'a', 'b', null, null, null].sort())
  expect(await claim('caps', 100)).toEqual([])
  const waiting = claim('caps', 1, { waitMs: 20_000 })
  await complete(claimed.find(({ concurrencyKey }) => concurrencyKey === 'a')?.id ?? '')
  expect(keysOf(await waiting)).toEqual(['a'])
  await configure('caps', { perKeyConcurrency: null })
  expect(keysOf(await claim('caps', 100))).toEqual(['a'])
})

test('tenants take turns: one with many jobs does not keep one with few waiting', async () => {
  await enqueue('turns', Array(200).fill('many'))
  await enqueue('turns', ['few', 'some', 'some', null])
  const order = []
  for (let n = 0; n < 8; n++) order.push(...keysOf(await claim('turns')))
  expect(order.slice(0, 4).sort()).toEqual(['few', 'many', 'some', null].sort())
  expect(order.slice(4).filter((key) => key === 'some')).toHaveLength(1)
  // Within a tenant by priority and then by time.
  const own = await enqueue('inside', ['t', 't', 't'])
  const [urgent] = await enqueue('inside', ['t'], { priority: 5 })
  const taken = [...(await claim('inside', 2)), ...(await claim('inside', 2))]
  expect(taken.map(({ id }) => id)).toEqual([urgent?.id, ...own.map(({ id }) => id)])
  // A claim of many deals them out.
  await enqueue('deal', [...Array(50).fill('x'), ...Array(3).fill('y'), 'z'])
  const dealt = keysOf(await claim('deal', 10))
  expect(dealt.filter((key) => key === 'y')).toHaveLength(3)
  expect(dealt.filter((key) => key === 'z')).toHaveLength(1)
  expect(dealt).toHaveLength(10)
})

test('the caps of the queue and of its tenants hold together, at every instant, over both servers', async () => {
  const queue = 'race'
  await configure(queue, { perKeyConcurrency: 2, concurrency: 5 })
  await enqueue(
    queue,
    Array.from({ length: 90 }, (_, n) => `tenant ${n % 6}`),
  )
  let done = 0
  let working = true
  const watcher = (async () => {
    const seen = { all: 0, one: 0 }
    while (working) {
      const rows = await db.cold.query<{ running: number }>(
        `select count(*) as running from tidebase.runs where queue = $1 and status = 'running' group by concurrency_key`,
        [queue],
      )
      const counts = rows.map(({ running }) => running)
      seen.all = Math.max(
        seen.all,
        counts.reduce((sum, n) => sum + n, 0),
      )
      seen.one = Math.max(seen.one, ...counts)
    }
    return seen
  })()
  const worker = async (server: typeof first, leaseOwner: string) => {
    while (done < 90) {
      const { runs } = await server.ok('claim', { body: { queues: [queue], limit: 3, leaseOwner } })
      for (const { id } of runs) {
        await server.ok('completeRun', { params: { runId: id }, body: { leaseOwner } })
        done++
      }
    }
  }
  await Promise.all([first, second, first, second, first, second].map((server, n) => worker(server, `w${n}`)))
  working = false
  const seen = await watcher
  expect(done).toBe(90)
  expect(seen.all).toBeLessThanOrEqual(5)
  expect(seen.one).toBeLessThanOrEqual(2)
})

test('a hundred thousand blocked jobs of one tenant cost a claim nothing', async () => {
  const queue = 'blocked'
  await configure(queue, { perKeyConcurrency: 1 })
  await enqueue(queue, ['big'])
  expect(await claim(queue)).toHaveLength(1)
  await db.cold.query(
    `with made as (
      insert into tidebase.runs (project, id, workflow_name, status, queue, concurrency_key, priority, run_at, event_seq)
      select 1, gen_random_uuid(), 'w', 'queued', $1, 'big', n % 3, now(), 1 from generate_series(1, 100000) n
      returning *
    ), ${keepLive('made')} select`,
    [queue],
  )
  await enqueue(queue, ['small', null])
  const claimed = [...(await claim(queue)), ...(await claim(queue)), ...(await claim(queue))]
  expect(keysOf(claimed).sort()).toEqual(['small', null].sort())
  // Against a queue where a single job is blocked; the quickest of many, because the machine has more to do.
  await configure('nearly empty', { perKeyConcurrency: 1 })
  await enqueue('nearly empty', ['big', 'big'])
  expect(await claim('nearly empty')).toHaveLength(1)
  const quickest = async (name: string) => {
    const times: number[] = []
    for (let n = 0; n < 30; n++) {
      const began = performance.now()
      expect(await claim(name)).toEqual([])
      times.push(performance.now() - began)
    }
    return Math.min(...times)
  }
  expect(await quickest(queue)).toBeLessThan((await quickest('nearly empty')) * 4 + 5)
})

test('pushed jobs keep within the cap of their tenant', async () => {
  const inbox = await receiver(() => 200)
  const pushing = await startServer({ reconcileMs: 20, allowPrivateWebhooks: true })
  await pushing.ok('configureQueue', {
    params: { queue: 'push' },
    body: { perKeyConcurrency: 1, invokeUrl: inbox.url('/push') },
  })
  const jobs = ['a', 'a', 'b', null, null].map((concurrencyKey) => ({ workflowName: 'w', concurrencyKey }))
  const made = await pushing.ok('enqueueBatch', { params: { queue: 'push' }, body: { jobs } })
  const asked = () => inbox.at('/push').map(({ body }) => body.runId)
  const ids = made.jobs.map(({ run }) => run.id)
  await vi.waitFor(() => expect(asked()).toHaveLength(4), 10_000)
  expect(asked().sort()).toEqual([ids[0], ...ids.slice(2)].sort())
  await pushing.ok('beginRun', { params: { runId: ids[0] ?? '' } })
  await pushing.ok('completeRun', { params: { runId: ids[0] ?? '' }, body: {} })
  await vi.waitFor(() => expect(asked()).toContain(ids[1]), 10_000)
  await pushing.stop()
  await inbox.close()
})

test('delayed jobs of a tenant are claimed when they are due, also by one who waits', async () => {
  await enqueue('later', ['a'], { delayMs: 300 })
  const began = Date.now()
  expect(keysOf(await claim('later', 1, { waitMs: 10_000 }))).toEqual(['a'])
  expect(Date.now() - began).toBeLessThan(8_000)
})

test('a key counts only in its own queue and project, and parked runs hold no place', async () => {
  await configure('park', { perKeyConcurrency: 1 })
  await configure('park2', { perKeyConcurrency: 1 })
  await enqueue('park', ['a', 'a'])
  await enqueue('park2', ['a'])
  const [run] = await claim('park')
  expect(await claim('park2')).toHaveLength(1)
  const params = { runId: run?.id ?? '' }
  const { wait } = await first.ok('waitForSignal', { params, body: { name: 's', signal: 's' } })
  await first.ok('parkRun', { params, body: { leaseOwner: 'w1', waitingFor: [wait.id] } })
  const [next] = await claim('park')
  expect(next?.id).not.toBe(run?.id)
  await first.ok('sendSignal', { params, body: { name: 's' } })
  expect(await claim('park')).toEqual([])
  await complete(next?.id ?? '')
  expect((await claim('park')).map(({ id }) => id)).toEqual([run?.id])
})
