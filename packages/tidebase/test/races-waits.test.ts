import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { expectLiveRuns } from '../../../test/live-runs.ts'
import { type Reply, startServer } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'

// As races.test.ts, for what waits, what is steered from outside, and what is cleared away: many callers at once, spread
// over two servers on one database, whose reconcilers both look all the time.

type Server = Awaited<ReturnType<typeof startServer>>
let first: Server
let second: Server
let db: ReturnType<typeof openDatabase>
beforeAll(async () => {
  first = await startServer({ reconcileMs: 10, leaseMs: 60_000 })
  second = await startServer({ reconcileMs: 10, leaseMs: 60_000, databaseUrl: first.databaseUrl })
  db = openDatabase({ connectionString: first.databaseUrl }, { hot: 1, cold: 3 })
})
afterAll(async () => {
  await db.close()
  await second.stop()
  await first.stop()
})
afterEach(() => expectLiveRuns(db.cold))

interface Params extends Record<string, string> {
  runId: string
}

const race = <T>(work: (server: Server, n: number) => Promise<T>, times = 40) =>
  Promise.all(Array.from({ length: times }, (_, n) => work(n % 2 ? first : second, n)))
/** Does `work` so many times at once, with another server first each time: both orders are seen. */
const rounds = <T>(work: (a: Server, b: Server, n: number) => Promise<T>, times = 20) =>
  Promise.all(Array.from({ length: times }, (_, n) => (n % 2 ? work(first, second, n) : work(second, first, n))))

let queues = 0
async function claimed(more: object = {}): Promise<{ params: Params; queue: string }> {
  const queue = `q${queues++}`
  await first.ok('enqueue', { params: { queue }, body: { workflowName: 'w', ...more } })
  const { runs } = await first.ok('claim', { body: { queues: [queue], leaseOwner: 'w1' } })
  return { params: { runId: runs[0]?.id ?? '' }, queue }
}
const detail = (params: Params) => first.ok('getRun', { params })
const count = (types: string[], type: string) => types.filter((each) => each === type).length
const park = (server: Server, params: Params, waitingFor: string[]) =>
  server.send('parkRun', { params, body: { leaseOwner: 'w1', waitingFor } })

/** The run as it must be when one of two who raced has parked it and the other has ended what it waits for. */
async function goesOn(params: Params, queue: string, action: unknown): Promise<string[]> {
  const { run, events } = await detail(params)
  expect([action, run.status]).toEqual(action === 'parked' ? ['parked', 'queued'] : ['continue', 'running'])
  if (action === 'parked') {
    const { runs } = await second.ok('claim', { body: { queues: [queue], leaseOwner: 'w2' } })
    expect(runs).toMatchObject([{ id: params.runId, attempt: 1 }])
  }
  expect(events.map(({ seq }) => seq)).toEqual(events.map((_, n) => n + 1))
  const types = events.map(({ type }) => type)
  expect(count(types, 'run.waiting')).toBe(action === 'parked' ? 1 : 0)
  expect(count(types, 'run.resumed')).toBe(count(types, 'run.waiting'))
  return types
}

test('a signal and parking: the run goes on, whichever came first', async () => {
  await rounds(async (a, b) => {
    const { params, queue } = await claimed()
    const { wait } = await a.ok('waitForSignal', { params, body: { name: 'n', signal: 's' } })
    const [parked] = await Promise.all([
      park(a, params, [wait.id]),
      b.ok('sendSignal', { params, body: { name: 's', payload: 1 } }),
    ])
    const types = await goesOn(params, queue, parked.body.action)
    expect([count(types, 'signal.received'), count(types, 'wait.ended')]).toEqual([1, 1])
  })
})

test('a timer that fires on two servers and parking: it ends once, and the run goes on', async () => {
  await rounds(async (a, _, n) => {
    const { params, queue } = await claimed()
    const { wait } = await a.ok('createTimer', { params, body: { name: 't', delayMs: n * 3 } })
    const { body } = await park(a, params, [wait.id])
    await vi.waitFor(async () => expect((await detail(params)).waits[0]?.status).toBe('resolved'), 10_000)
    expect(count(await goesOn(params, queue, body.action), 'wait.ended')).toBe(1)
  })
})

test('a decision, the gate’s time and parking: it is decided once, and the run goes on', async () => {
  await rounds(async (a, b, n) => {
    const { params, queue } = await claimed()
    const body = { name: 'g', prompt: '?', timeoutMs: 20 + n, onTimeout: 'rejected' }
    const { gate } = await a.ok('beginGate', { params, body })
    const path = { ...params, gateId: gate.id }
    const resolve = (server: Server) =>
      server.send('resolveGate', { params: path, body: { decision: 'approved', token: gate.resolveToken } })
    const [parked, ...decided] = await Promise.all([park(a, params, [gate.id]), resolve(a), resolve(b)])
    expect(
      count(
        decided.map(({ status }) => String(status)),
        '200',
      ),
    ).toBeLessThanOrEqual(1)
    const types = await goesOn(params, queue, parked.body.action)
    expect(count(types, 'gate.resolved')).toBe(1)
  })
})

test('a decision, parking and a cancel: cancelled is the end, and nothing follows it', async () => {
  await rounds(async (a, b, n) => {
    const { params, queue } = await claimed()
    const { gate } = await a.ok('beginGate', { params, body: { name: 'g', prompt: '?' } })
    const calls = [
      () => park(a, params, [gate.id]),
      () =>
        b.send('resolveGate', {
          params: { ...params, gateId: gate.id },
          body: { decision: 'approved', token: gate.resolveToken },
        }),
      () => a.send('cancelRun', { params, body: {} }),
    ]
    await Promise.all([...calls.slice(n % 3), ...calls.slice(0, n % 3)].map((call) => call()))
    const { run, events, gates } = await detail(params)
    expect(run).toMatchObject({ status: 'cancelled', leaseOwner: null, attempt: 1 })
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_, n) => n + 1))
    const types = events.map(({ type }) => type)
    expect(types.at(-1)).toBe('run.cancelled')
    expect(count(types, 'gate.resolved')).toBe(gates[0]?.status === 'approved' ? 1 : 0)
    expect((await b.ok('claim', { body: { queues: [queue] } })).runs).toEqual([])
  })
})

test('a step in review is decided by one of many, and its parked run is woken once', async () => {
  await rounds(async (a) => {
    const { params, queue } = await claimed()
    const step = { name: 'pay', inputHash: 'h', options: { sideEffects: ['charge'] } }
    const begun = await a.ok('beginStep', { params, body: { ...step, leaseOwner: 'lost' } })
    const stepId = begun.action === 'execute' ? begun.step.id : ''
    await db.cold.query(`update tidebase.steps set lease_expires_at = now() - interval '1 s' where run_id = $1`, [
      params.runId.slice(4),
    ])
    expect((await a.send('beginStep', { params, body: { ...step, leaseOwner: 'w1' } })).body.code).toBe('manual_review')
    const [parked, ...decided] = await Promise.all([
      park(a, params, [stepId]),
      ...['retry', 'complete', 'fail', 'complete'].map((decision, n) =>
        (n % 2 ? first : second).send('resolveStep', { params: { ...params, stepId }, body: { decision } }),
      ),
    ])
    expect(decided.map(({ status }) => status).sort()).toEqual([200, 409, 409, 409])
    expect(count(await goesOn(params, queue, parked.body.action), 'step.resolved')).toBe(1)
  }, 10)
})

test('a failed run is put back once, and claimed once', async () => {
  await rounds(async () => {
    const { params, queue } = await claimed()
    await first.ok('failRun', { params, body: { error: 'no', leaseOwner: 'w1' } })
    const claims = race(
      (server, n) => server.ok('claim', { body: { queues: [queue], leaseOwner: `c${n}`, waitMs: 300 } }),
      6,
    )
    const retries = await race((server) => server.send('retryRun', { params, body: {} }), 6)
    expect(retries.map(({ status }) => status).sort()).toEqual([200, 409, 409, 409, 409, 409])
    expect((await claims).flatMap(({ runs }) => runs)).toMatchObject([{ id: params.runId, attempt: 2 }])
    const { events } = await detail(params)
    expect(events.map(({ type }) => type)).toEqual([
      'run.enqueued',
      'run.claimed',
      'run.failed',
      'run.retried',
      'run.claimed',
    ])
  }, 6)
})

test('a run forked many times with one id is forked once, whole', async () => {
  const { params } = await claimed()
  for (const name of ['a', 'b', 'c']) {
    await first.ok('recordStep', { params, body: { name, inputHash: 'h', leaseOwner: 'w1', output: name } })
  }
  await first.ok('setState', { params, body: { value: 7 } })
  await rounds(async (_, __, n) => {
    const id = `run_${n.toString(16).padStart(32, 'f')}`
    const forks = await race((server) => server.ok('forkRun', { params, body: { id } }), 8)
    expect(new Set(forks.map(({ run }) => run.createdAt)).size).toBe(1)
    const forked = await detail({ runId: id })
    expect(forked.steps.map(({ output }) => output)).toEqual(['a', 'b', 'c'])
    expect(forked.state).toMatchObject({ value: 7, version: 1 })
    expect(forked.events.map(({ type }) => type)).toEqual(['run.enqueued', 'run.forked'])
  }, 5)
})

test('a budget that many entries cross at once cancels the run once, and the ledger has them all', async () => {
  await rounds(async () => {
    const { params } = await claimed({ budget: { totalTokens: 50 } })
    await race((server) => server.ok('recordUsage', { params, body: { totalTokens: 10 } }), 12)
    const { run, events, usage } = await detail(params)
    expect(run).toMatchObject({ status: 'cancelled', cancelReason: 'budget', usageTotals: { totalTokens: 120 } })
    expect(usage).toHaveLength(12)
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_, n) => n + 1))
    const types = events.map(({ type }) => type)
    expect([count(types, 'run.budget_exceeded'), count(types, 'run.cancelled')]).toEqual([1, 1])
  }, 5)
})

test('a run cancelled while it and its children have children: none goes on', async () => {
  await rounds(async (a) => {
    const { params } = await claimed()
    const child = (server: Server, runId: string, name: string) =>
      server.send('createChild', { params: { runId }, body: { name, workflowName: 'kid' } })
    const idOf = ({ body }: Reply) => String(Object(body.run).id)
    const born: string[] = []
    const refused: unknown[] = []
    const births = race<unknown>(async (server, n) => {
      const kid = await child(server, params.runId, `c${n}`)
      if (kid.status !== 200) return refused.push(kid.body.code)
      born.push(idOf(kid))
      const grandkid = await child(server, idOf(kid), 'g')
      if (grandkid.status !== 200) return refused.push(grandkid.body.code)
      return born.push(idOf(grandkid))
    }, 20)
    await vi.waitFor(() => expect(born.length).toBeGreaterThan(4), { timeout: 10_000, interval: 1 })
    await a.ok('cancelRun', { params, body: {} })
    await births
    expect(refused.every((code) => code === 'run_cancelled')).toBe(true)
    await vi.waitFor(async () => {
      const states = await Promise.all(born.map(async (runId) => (await detail({ runId })).run.status))
      expect(new Set(states)).toEqual(new Set(['cancelled']))
    }, 10_000)
  }, 4)
})

test('cancelling a run with many children that have children takes a few statements, not one for every two', async () => {
  const { params } = await claimed()
  const child = (runId: string, name: string) =>
    first.ok('createChild', { params: { runId }, body: { name, workflowName: 'kid' } })
  const kids = await Promise.all(Array.from({ length: 150 }, (_, n) => child(params.runId, `c${n}`)))
  const grandkids = await Promise.all(kids.map(({ run }) => child(run.id, 'g')))
  const began = performance.now()
  await first.ok('cancelRun', { params, body: {} })
  expect(performance.now() - began).toBeLessThan(8_000)
  expect((await detail({ runId: grandkids[149]?.run.id ?? '' })).run.cancelReason).toBe('parent_cancelled')
})
