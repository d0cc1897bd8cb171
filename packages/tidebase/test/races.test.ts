import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { expectLiveRuns } from '../../../test/live-runs.ts'
import { client, startServer } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'

// Many callers at once, spread over two servers on one database.

let first: Awaited<ReturnType<typeof startServer>>
let second: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
beforeAll(async () => {
  first = await startServer()
  second = await startServer({ databaseUrl: first.databaseUrl })
  db = openDatabase({ connectionString: first.databaseUrl }, { hot: 1, cold: 1 })
})
afterAll(async () => {
  await db.close()
  await second.stop()
  await first.stop()
})
afterEach(() => expectLiveRuns(db.cold))

/** Calls `work` 40 times at once, on both servers in turn. */
const race = <T>(work: (server: typeof first, n: number) => Promise<T>, times = 40) =>
  Promise.all(Array.from({ length: times }, (_, n) => work(n % 2 ? first : second, n)))
const begun = async () => {
  const { run } = await first.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  await first.ok('beginRun', { params: { runId: run.id }, headers: { 'x-tidebase-worker': 'w' } })
  return { runId: run.id }
}
const inOrder = async (runId: string) => {
  const { events } = await first.ok('getRun', { params: { runId } })
  expect(events.map(({ seq }) => seq)).toEqual(events.map((_, n) => n + 1))
  return events.map(({ type }) => type)
}

test('exactly one of many first begins of a step may execute', async () => {
  const params = await begun()
  for (let round = 0; round < 5; round++) {
    const replies = await race((server, n) =>
      server.ok('beginStep', { params, body: { name: `s${round}`, inputHash: 'h', leaseOwner: `w${n}` } }),
    )
    expect(replies.filter(({ action }) => action === 'execute')).toHaveLength(1)
    expect(replies.filter(({ action }) => action === 'locked')).toHaveLength(39)
  }
  await inOrder(params.runId)
})

test('exactly one of many workers begins a run', async () => {
  const { run } = await first.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  const replies = await race((server, n) =>
    server.send('beginRun', { params: { runId: run.id }, headers: { 'x-tidebase-worker': `w${n}` } }),
  )
  expect(replies.filter(({ status }) => status === 200)).toHaveLength(1)
  expect(replies.filter(({ body }) => body.code === 'run_leased')).toHaveLength(39)
  expect(await inOrder(run.id)).toEqual(['run.created', 'run.started'])
})

test('a claim that finds the first thousand jobs taken by others asks again', async () => {
  const params = { queue: 'crowded' }
  for (let n = 0; n < 3; n++) {
    const jobs = Array.from({ length: 400 }, () => ({ workflowName: 'w' }))
    await first.ok('enqueueBatch', { params, body: { jobs } })
  }
  let claimed: Promise<{ runs: unknown[] }> | undefined
  await db.transaction(async (tx) => {
    await tx.query('select from tidebase.runs where queue = $1 for update', [params.queue])
    claimed = second.ok('claim', { body: { queues: [params.queue], limit: 10, leaseOwner: 'w' } })
    await new Promise((resolve) => setTimeout(resolve, 100))
  })
  // Fewer than it wanted, if the others let go while it was looking.
  expect((await claimed)?.runs.length).toBeGreaterThan(0)
})

test('of many records of one step the first is what all get', async () => {
  const params = await begun()
  const replies = await race((server, n) =>
    server.ok('recordStep', { params, body: { name: 's', inputHash: 'h', leaseOwner: 'w', output: n } }),
  )
  expect(replies.every(({ action }) => action === 'recorded')).toBe(true)
  const { steps } = await first.ok('getRun', { params })
  expect(steps).toHaveLength(1)
  expect(await inOrder(params.runId)).toEqual(['run.created', 'run.started', 'step.started', 'step.completed'])
})

test('a record that races with a cancel, a heartbeat and another worker is there as it was answered, and nothing follows the cancel', async () => {
  const runs = await Promise.all(Array.from({ length: 40 }, begun))
  const record = (server: typeof first, runId: string, name: string) =>
    server.send('recordStep', {
      params: { runId },
      body: { name, inputHash: 'h', leaseOwner: 'w', output: name, startedAt: new Date().toISOString() },
    })
  const answers = await Promise.all(
    runs.map(async ({ runId }) => {
      const [a, b] = await Promise.all([
        record(first, runId, 'a'),
        record(second, runId, 'b'),
        first.send('heartbeatRun', { params: { runId }, body: { leaseOwner: 'w' } }),
        second.send('cancelRun', { params: { runId }, body: {} }),
      ])
      return { runId, a, b }
    }),
  )
  for (const { runId, a, b } of answers) {
    const types = await inOrder(runId)
    expect(types.at(-1)).toBe('run.cancelled')
    const { steps } = await first.ok('getRun', { params: { runId } })
    for (const [name, reply] of Object.entries({ a, b })) {
      expect(reply.status).toBe(200)
      expect(steps.some((step) => step.name === name)).toBe(reply.body.action === 'recorded')
    }
  }
})

test('parallel steps of one run are all recorded, their events numbered without gaps', async () => {
  const params = await begun()
  await race((server, n) =>
    server.ok('recordStep', { params, body: { name: `s${n}`, inputHash: 'h', leaseOwner: 'w', output: n } }),
  )
  const { steps } = await first.ok('getRun', { params })
  expect(steps.map(({ output }) => output).sort((a, b) => Number(a) - Number(b))).toEqual(
    Array.from({ length: 40 }, (_, n) => n),
  )
  expect(await inOrder(params.runId)).toHaveLength(82)
})

test('a gate is opened once and decided once', async () => {
  const params = await begun()
  const opened = await race((server) => server.ok('beginGate', { params, body: { name: 'g', prompt: '?' } }))
  expect(new Set(opened.map(({ gate }) => gate.id)).size).toBe(1)
  const gateId = opened[0]?.gate.id ?? ''
  const decided = await race((server, n) =>
    server.send('resolveGate', {
      params: { ...params, gateId },
      body: { decision: n % 3 ? 'approved' : 'rejected', actor: `a${n}` },
    }),
  )
  expect(decided.filter(({ status }) => status === 200)).toHaveLength(1)
  expect(decided.filter(({ body }) => body.code === 'gate_resolved')).toHaveLength(39)
  expect(await inOrder(params.runId)).toEqual(['run.created', 'run.started', 'gate.created', 'gate.resolved'])
})

test('state versions have no gaps and patches lose nothing', async () => {
  const params = await begun()
  await race((server, n) => server.ok('patchState', { params, body: { value: { [`k${n}`]: n } } }))
  const { state, stateVersions } = await first.ok('getRun', { params })
  expect(stateVersions.map(({ version }) => version)).toEqual(Array.from({ length: 40 }, (_, n) => n + 1))
  expect(Object.keys(Object(state?.value))).toHaveLength(40)
})

test('a child is made once, and the ledger adds up', async () => {
  const params = await begun()
  const children = await race((server) =>
    server.ok('createChild', { params, body: { name: 'c', workflowName: 'kid' } }),
  )
  expect(new Set(children.map(({ run }) => run.id)).size).toBe(1)
  expect(children.filter(({ created }) => created)).toHaveLength(1)
  await race((server, n) => server.ok('recordUsage', { params, body: { inputTokens: n, costUsd: 0.001 } }))
  const { run, usage } = await first.ok('getRun', { params })
  expect(usage).toHaveLength(40)
  expect(run.usageTotals).toEqual({ inputTokens: 780, outputTokens: 0, totalTokens: 780, costUsd: 0.04 })
})

test('at most one active run has a dedupe key, while runs end in between', async () => {
  const ids = new Set<string>()
  for (let round = 0; round < 5; round++) {
    const replies = await race((server) =>
      server.ok('enqueue', { params: { queue: 'd' }, body: { workflowName: 'w', dedupeKey: 'k' } }),
    )
    expect(new Set(replies.map(({ run }) => run.id)).size).toBe(1)
    expect(replies.filter(({ deduplicated }) => !deduplicated)).toHaveLength(1)
    const runId = replies[0]?.run.id ?? ''
    ids.add(runId)
    await first.ok('cancelRun', { params: { runId }, body: {} })
  }
  expect(ids.size).toBe(5)
})

test('a run created many times with one id is one run', async () => {
  const id = `run_${'c'.repeat(32)}`
  const replies = await race((server) => server.ok('createRun', { params: { workflowName: 'w' }, body: { id } }))
  expect(new Set(replies.map(({ run }) => run.createdAt)).size).toBe(1)
  expect(await inOrder(id)).toEqual(['run.created'])
})

test('claims are disjoint and take everything', async () => {
  await race(
    (server, n) => server.ok('enqueue', { params: { queue: 'claims' }, body: { workflowName: 'w', input: n } }),
    200,
  )
  const claimed: string[] = []
  await race(async (server, n) => {
    for (;;) {
      const { runs } = await server.ok('claim', { body: { queues: ['claims'], limit: 7, leaseOwner: `w${n}` } })
      if (runs.length === 0) return
      claimed.push(...runs.map(({ id }) => id))
    }
  }, 10)
  expect(claimed).toHaveLength(200)
  expect(new Set(claimed).size).toBe(200)
})

test('a concurrency cap holds at every instant', async () => {
  const queue = 'cap'
  await first.ok('configureQueue', { params: { queue }, body: { concurrency: 3 } })
  await race((server) => server.ok('enqueue', { params: { queue }, body: { workflowName: 'w' } }), 60)
  let done = 0
  let working = true
  const watcher = (async () => {
    const seen: number[] = []
    while (working) {
      const { queues } = await second.ok('listQueues')
      seen.push(queues.find(({ name }) => name === queue)?.running ?? 0)
    }
    return seen
  })()
  await race(async (server, n) => {
    while (done < 60) {
      const { runs } = await server.ok('claim', { body: { queues: [queue], limit: 5, leaseOwner: `w${n}` } })
      for (const { id } of runs) {
        await server.ok('completeRun', { params: { runId: id }, body: { leaseOwner: `w${n}` } })
        done++
      }
    }
  }, 8)
  working = false
  expect(Math.max(...(await watcher))).toBeLessThanOrEqual(3)
  expect(done).toBe(60)
})

test('a claim that waits on one server gets a job enqueued on the other', async () => {
  const waiting = second.ok('claim', { body: { queues: ['other'], waitMs: 20_000 } })
  await first.ok('enqueue', { params: { queue: 'other' }, body: { workflowName: 'w' } })
  expect((await waiting).runs).toHaveLength(1)
})

test('event streams on both servers show every event in order, whoever wrote it', async () => {
  const params = await begun()
  const follow = async (url: string, after: number, count: number) => {
    const stop = new AbortController()
    const response = await fetch(`${url}/runs/${params.runId}/events`, {
      headers: { 'last-event-id': String(after) },
      signal: stop.signal,
    })
    expect(response.headers.get('content-type')).toContain('text/event-stream')
    const seen: { seq: number; id: number }[] = []
    const decoder = new TextDecoder()
    let rest = ''
    for await (const chunk of response.body ?? []) {
      rest += decoder.decode(chunk, { stream: true })
      const frames = rest.split('\n\n')
      rest = frames.pop() ?? ''
      for (const frame of frames) {
        const [, id, data] = /^id: (\d+)\ndata: (.*)$/.exec(frame) ?? []
        if (id && data) seen.push({ seq: JSON.parse(data).seq, id: Number(id) })
      }
      if (seen.length >= count) break
    }
    stop.abort()
    return seen
  }
  const streams = [first.url, second.url, first.url, second.url].map((url, n) => follow(url, n, 42 - n))
  await race((server, n) => server.ok('setState', { params, body: { value: n } }))
  for (const [n, seen] of (await Promise.all(streams)).entries()) {
    expect(seen).toEqual(Array.from({ length: 42 - n }, (_, k) => ({ seq: k + n + 1, id: k + n + 1 })))
  }
})

test('a client that goes away does not keep its job: the lease runs out and the job comes back', async () => {
  const short = await startServer({ leaseMs: 200, reconcileMs: 50 })
  try {
    const gone = new AbortController()
    const waiting = fetch(`${short.url}/queues/claim`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ queues: ['q'], waitMs: 20_000, leaseOwner: 'gone' }),
      signal: gone.signal,
    }).catch(() => undefined)
    await short.call('GET', '/health')
    gone.abort()
    await waiting
    const api = client(short.url)
    await api.ok('enqueue', { params: { queue: 'q' }, body: { workflowName: 'w', maxAttempts: 5 } })
    const { runs } = await api.ok('claim', { body: { queues: ['q'], waitMs: 10_000, leaseOwner: 'here' } })
    expect(runs).toHaveLength(1)
  } finally {
    await short.stop()
  }
})
