import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { Tidebase } from '@tidebase/sdk'
import { afterEach, expect, test, vi } from 'vitest'
import { createDatabase, type Reply, spawnServer } from '../server.ts'

// Servers and workers killed while runs wait: for a time, a signal, a decision, a review.

type Spawned = Awaited<ReturnType<typeof spawnServer>>
type Detail = Awaited<ReturnType<typeof history>>

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean()
})

async function place(leaseMs: number) {
  const database = await createDatabase()
  cleanups.push(() => database.drop())
  const env = {
    DATABASE_URL: database.url,
    TIDEBASE_LEASE_MS: String(leaseMs),
    TIDEBASE_RECONCILE_MS: '50',
  }
  return async (args: string[] = []) => {
    const server = await spawnServer(args, env)
    cleanups.push(() => server.kill('SIGKILL'))
    return server
  }
}
const soon = (check: () => Promise<unknown>) => vi.waitFor(check, { timeout: 40_000, interval: 100 })
const history = (server: Spawned, runId: string) => server.ok('getRun', { params: { runId } })
const statusOf = async (server: Spawned, runId: string) => (await history(server, runId)).run.status

/** What holds of every run that waited: nothing happened twice, and waking used no attempt. */
function expectSound({ run, events, waits, gates }: Detail): void {
  expect(events.map(({ seq }) => seq)).toEqual(events.map((_, n) => n + 1))
  const count = (type: string, more: object = {}) =>
    events.filter(
      (event) => event.type === type && Object.entries(more).every(([k, v]) => Object(event.payload)[k] === v),
    ).length
  for (const { id: waitId, status, createdAt, resolvedAt } of waits) {
    expect(status).toBe('resolved')
    // A signal that was there already: the wait was over as it began.
    expect(count('wait.ended', { waitId })).toBe(createdAt === resolvedAt ? 0 : 1)
  }
  for (const { id: gateId } of gates) expect(count('gate.resolved', { gateId })).toBe(1)
  expect(count('run.completed')).toBe(1)
  expect(count('run.resumed')).toBe(count('run.waiting'))
  // A lease that ran out took one: a claim whose answer the kill cut off.
  expect(run.attempt).toBe(1 + count('run.requeued'))
}

function startWorker(server: Spawned, name: string) {
  const script = fileURLToPath(new URL('worker.ts', import.meta.url))
  const child = spawn(process.execPath, ['--conditions=source', '--import', 'tsx', script, name], {
    env: { ...process.env, TIDEBASE_URL: server.url },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const lines: string[] = []
  child.stdout.setEncoding('utf8').on('data', (text: string) => lines.push(...text.trim().split('\n')))
  cleanups.push(() => child.kill('SIGKILL'))
  return { kill: () => child.kill('SIGKILL'), lines }
}

test('SIGKILL of the server, again and again, while runs are parked: each wait ends once and every run ends', {
  timeout: 60_000,
}, async () => {
  const start = await place(2_000)
  let server = await start()
  const port = new URL(server.url).port
  const { url } = server
  const made = await server.ok('enqueueBatch', {
    params: { queue: 'q' },
    body: { jobs: Array.from({ length: 24 }, (_, n) => ({ workflowName: 'wait', input: n, maxAttempts: 9 })) },
  })
  const ids = made.jobs.map(({ run }) => run.id)

  const stop = new AbortController()
  const tide = new Tidebase({ url })
  tide.workflow('wait', async (run, n: number) => {
    await run.step('before', () => n)
    const [, heard] = await Promise.all([run.sleep(200 + n * 60), run.waitForSignal<number>('s')])
    const { approved } = await run.gate('g', '?')
    await run.sleep(100)
    return run.step('after', () => [n, heard?.payload, approved])
  })
  const working = tide.work({
    queues: ['q'],
    concurrency: 8,
    parkAfterMs: 30,
    waitMs: 500,
    signal: stop.signal,
    onError: () => {},
  })
  cleanups.push(async () => {
    stop.abort()
    await working
  })

  /** Until it has an answer, as a client would; a repetition may find that it was done. */
  const insist = async (call: () => Promise<Reply>) => {
    for (;;) {
      const reply = await call().catch(() => undefined)
      if (reply && reply.status < 500) return reply
      if (stop.signal.aborted) return undefined
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
  /** Six of the runs get their signal and their decision; the others stay parked. */
  const answer = (group: number) =>
    ids.slice(group * 6, group * 6 + 6).map(async (runId, n) => {
      await new Promise((resolve) => setTimeout(resolve, n * 40))
      const body = { name: 's', payload: group * 6 + n, idempotencyKey: 'once' }
      expect(await insist(() => server.send('sendSignal', { params: { runId }, body }))).toMatchObject({ status: 200 })
      for (;;) {
        const reply = await insist(() => server.send('getRun', { params: { runId }, query: { include: 'gates' } }))
        const [gate] = (reply?.body.gates ?? []) as { id: string }[]
        if (gate) {
          const params = { runId, gateId: gate.id }
          const decided = await insist(() => server.send('resolveGate', { params, body: { decision: 'approved' } }))
          expect(['gate_resolved', undefined]).toContain(decided?.body.code)
          return
        }
        await new Promise((resolve) => setTimeout(resolve, 100))
      }
    })

  const people: Promise<void>[] = []
  for (let round = 0; round < 3; round++) {
    people.push(...answer(round))
    // In the middle: one of those that are being answered has ended, the unanswered wait.
    await soon(async () => {
      const { runs } = await server.ok('listRuns', { query: { limit: 100 } })
      expect(runs.filter(({ status }) => status === 'waiting').length).toBeGreaterThan(1)
      expect(runs.filter(({ status }) => status === 'completed').length).toBeGreaterThan(round * 6)
    })
    await server.kill('SIGKILL')
    server = await start(['--port', port])
  }
  people.push(...answer(3))
  await Promise.all(people)
  await soon(async () => {
    for (const runId of ids) expect(await statusOf(server, runId)).toBe('completed')
  })
  for (const [n, runId] of ids.entries()) {
    const detail = await history(server, runId)
    expect(detail.run.result).toEqual([n, n, true])
    expect(detail.waits).toHaveLength(3)
    expect(detail.gates).toHaveLength(1)
    expectSound(detail)
  }
})

test('a worker killed in the middle of a side effect: the run waits for a decision, over a kill of the server too', {
  timeout: 60_000,
}, async () => {
  const start = await place(1_500)
  let server = await start()
  const { run } = await server.ok('enqueue', { params: { queue: 'q' }, body: { workflowName: 'pay', maxAttempts: 9 } })
  const killed = startWorker(server, 'killed')
  await soon(async () => expect(killed.lines).toContain('charging killed'))
  killed.kill()
  const next = startWorker(server, 'next')
  await soon(async () => expect(await statusOf(server, run.id)).toBe('waiting'))
  await server.kill('SIGKILL')
  server = await start(['--port', new URL(server.url).port])
  const [step] = (await history(server, run.id)).steps
  expect(step).toMatchObject({ name: 'charge', status: 'manual_review', needsReview: true })
  expect(await statusOf(server, run.id)).toBe('waiting')
  const params = { runId: run.id, stepId: step?.id ?? '' }
  await server.ok('resolveStep', { params, body: { decision: 'complete', output: 'charged, says the bank' } })
  await soon(async () => expect(await statusOf(server, run.id)).toBe('completed'))
  const detail = await history(server, run.id)
  expect(detail.run.result).toBe('charged, says the bank')
  expectSound(detail)
  expect(next.lines).toEqual([])
})

test('a worker killed while its run waits: parked it uses no attempt, and the wait and the steps stay', {
  timeout: 60_000,
}, async () => {
  const server = await (await place(3_000))()
  const enqueue = async () =>
    (await server.ok('enqueue', { params: { queue: 'q' }, body: { workflowName: 'ask', maxAttempts: 9 } })).run.id
  const waits = async (runId: string) => expect((await history(server, runId)).waits).toHaveLength(1)

  const held = await enqueue()
  const patient = startWorker(server, 'patient')
  await soon(() => waits(held))
  patient.kill()
  const second = startWorker(server, 'second')
  await soon(async () => expect(await statusOf(server, held)).toBe('waiting'))
  const parked = await enqueue()
  await soon(async () => expect(await statusOf(server, parked)).toBe('waiting'))
  second.kill()
  for (const runId of [held, parked])
    await server.ok('sendSignal', { params: { runId }, body: { name: 'go', payload: 1 } })
  startWorker(server, 'third')
  await soon(async () => {
    for (const runId of [held, parked]) expect(await statusOf(server, runId)).toBe('completed')
  })
  const [first, other] = [await history(server, held), await history(server, parked)]
  expect(first.run).toMatchObject({ result: ['one by patient', 1, 'two by third'] })
  expect(other.run).toMatchObject({ result: ['one by second', 1, 'two by third'] })
  expect(first.run.attempt).toBeGreaterThan(1)
  for (const detail of [first, other]) expectSound(detail)
})
