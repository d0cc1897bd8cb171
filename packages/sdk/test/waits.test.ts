import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { openDatabase } from '../../tidebase/src/db.ts'
import { receiver } from '../../tidebase/test/receiver.ts'
import { ManualReviewError, type RunContext, Tidebase } from '../src/index.ts'

// Waiting from a workflow: in place for a short while, without a worker for a long one.

let server: Awaited<ReturnType<typeof startServer>>
let tide: Tidebase
beforeAll(async () => {
  server = await startServer({ leaseMs: 2_000, reconcileMs: 20, allowPrivateWebhooks: true, webhookSecret: 'shh' })
  tide = new Tidebase({ url: server.url })
})
afterAll(() => server.stop())

let names = 0
/** A worker of its own, with one workflow on one queue. What it complains about is collected. */
function worker(
  fn: (run: RunContext, input: unknown) => unknown,
  { parkAfterMs = 100, fetch = globalThis.fetch } = {},
) {
  const name = `wf${names++}`
  const own = new Tidebase({ url: server.url, fetch })
  own.workflow(name, fn)
  const stop = new AbortController()
  const errors: unknown[] = []
  const working = own.work({
    queues: [name],
    signal: stop.signal,
    waitMs: 500,
    parkAfterMs,
    graceMs: 100,
    onError: (error) => errors.push(error),
  })
  onTestFinished(async () => {
    stop.abort()
    await working
  })
  const enqueue = async (input?: unknown) => (await tide.enqueue(name, { queue: name, input })).run.id
  return { name, enqueue, errors }
}
const statusOf = async (id: string) => (await tide.runs.get(id, { include: ['run'] })).run.status
const until = (id: string, status: string) =>
  vi.waitFor(async () => expect(await statusOf(id)).toBe(status), { timeout: 15_000, interval: 30 })

test('a heartbeat that learns of parking sooner than who parks is no error', async () => {
  const slowly: typeof fetch = async (input, init) => {
    const response = await fetch(input, init)
    // Longer than a heartbeat, which comes every 667 ms.
    if (String(input).endsWith('/park')) await new Promise((resolve) => setTimeout(resolve, 800))
    return response
  }
  const { enqueue, errors } = worker((run) => run.waitForSignal('word'), { parkAfterMs: 300, fetch: slowly })
  const id = await enqueue()
  await until(id, 'waiting')
  await new Promise((resolve) => setTimeout(resolve, 1_000))
  await tide.runs.signal(id, 'word', 'hello')
  expect((await tide.runs.wait(id)).result).toMatchObject({ payload: 'hello' })
  expect(errors).toEqual([])
})

test('a short sleep and a signal that is there are waited for in place', async () => {
  const seen: number[] = []
  const answer = async (run: RunContext) => {
    seen.push(run.attempt)
    await run.sleep(30)
    const first = await run.waitForSignal<string>('word')
    const second = await run.waitForSignal<string>('word', { timeoutMs: 50 })
    return [first?.payload, second]
  }
  const { enqueue, errors } = worker(answer, { parkAfterMs: 10_000 })
  const id = await enqueue()
  await tide.runs.signal(id, 'word', 'hello')
  expect((await tide.runs.wait(id)).result).toEqual(['hello', null])
  expect(seen).toEqual([1])
  expect(errors).toEqual([])
})

test('a long gate parks the run: no lease, no attempt used; the decision brings it back to where it was', async () => {
  const did: string[] = []
  const { enqueue, errors } = worker(async (run) => {
    const plan = await run.step('plan', () => {
      did.push('plan')
      return 'the plan'
    })
    let caught: unknown
    const decision = await run.gate('ok?').catch((error: unknown) => {
      caught = error
    })
    did.push(`after ${run.attempt}`)
    return { plan, approved: decision?.approved, caught }
  })
  const id = await enqueue()
  await until(id, 'waiting')
  const parked = (await tide.runs.get(id)).run
  expect(parked).toMatchObject({ leaseOwner: null, leaseExpiresAt: null, attempt: 1 })
  const [gate] = (await tide.runs.get(id)).gates
  await tide.runs.resolveGate(id, gate?.id ?? '', { decision: 'approved' })
  expect((await tide.runs.wait(id)).result).toEqual({ plan: 'the plan', approved: true })
  expect(did).toEqual(['plan', 'after 1'])
  expect(errors).toEqual([])
})

test('a run parks only when everything in it waits', async () => {
  const did: string[] = []
  const { enqueue } = worker(async (run) => {
    const work = run.step('work', async () => {
      did.push('work')
      await new Promise((resolve) => setTimeout(resolve, 300))
      return 1
    })
    const [value, signal] = await Promise.all([work, run.waitForSignal<number>('n')])
    return value + (signal?.payload ?? 0)
  })
  const id = await enqueue()
  await vi.waitFor(() => expect(did).toEqual(['work']), 5_000)
  await until(id, 'waiting')
  // The step had ended before the run was parked, so it did not run again.
  await tide.runs.signal(id, 'n', 41)
  expect((await tide.runs.wait(id)).result).toBe(42)
  expect(did).toEqual(['work'])
})

test('a sleep that outlasts its worker goes on for what is left', async () => {
  const { enqueue } = worker(async (run) => {
    await run.sleep(900)
    return run.attempt
  })
  const id = await enqueue()
  await until(id, 'waiting')
  const { waits } = await tide.runs.get(id)
  expect(waits).toMatchObject([{ kind: 'timer', name: 'sleep#1', status: 'pending' }])
  expect((await tide.runs.wait(id)).result).toBe(1)
})

test('a run that nothing would execute again waits in place, however long', async () => {
  const result = tide.run('plain', async (run) => (await run.waitForSignal<number>('go'))?.payload)
  const id = await vi.waitFor(async () => {
    const [found] = (await tide.runs.list({ workflow: 'plain' })).runs
    expect(found?.status).toBe('running')
    return found?.id ?? ''
  }, 5_000)
  await new Promise((resolve) => setTimeout(resolve, 300))
  expect(await statusOf(id)).toBe('running')
  await tide.runs.signal(id, 'go', 7)
  expect(await result).toBe(7)
})

test('a run with a recovery webhook is parked too, and executed again when it is called', async () => {
  const own = new Tidebase({ url: server.url, webhookSecret: 'shh' })
  const attempts: number[] = []
  own.workflow('hooked', async (run) => {
    attempts.push(run.attempt)
    return (await run.gate('ok?')).decision
  })
  const handle = own.webhook({ parkAfterMs: 100 })
  const inbox = await receiver(async ({ raw, headers }) => {
    const given = new Headers(Object.entries(headers).map(([name, value]) => [name, String(value)]))
    return (await handle(new Request('http://app/', { method: 'POST', body: raw, headers: given }))).status
  })
  onTestFinished(inbox.close)
  const { id } = await own.runs.create('hooked', { recoveryWebhook: inbox.url('/') })
  await own.runs.recover(id)
  await until(id, 'waiting')
  const [gate] = (await own.runs.get(id)).gates
  await own.runs.resolveGate(id, gate?.id ?? '', { decision: 'rejected' })
  expect((await own.runs.wait(id)).result).toBe('rejected')
  expect(attempts).toEqual([1, 1])
})

test('cancelling a parked run ends it; one that waits in place is told', async () => {
  const { enqueue } = worker((run) => run.sleep(3_600_000))
  const id = await enqueue()
  await until(id, 'waiting')
  await tide.runs.cancel(id)
  expect(await statusOf(id)).toBe('cancelled')
  await expect(tide.runs.signal(id, 'x')).rejects.toMatchObject({ code: 'run_cancelled' })
  const inPlace = tide.run('cancelled-wait', (run) => run.sleep(3_600_000))
  const waiting = await vi.waitFor(async () => {
    const [found] = (await tide.runs.list({ workflow: 'cancelled-wait' })).runs
    expect(found?.status).toBe('running')
    return found?.id ?? ''
  }, 5_000)
  await tide.runs.cancel(waiting)
  await expect(inPlace).rejects.toMatchObject({ code: 'run_cancelled' })
})

test('a step whose worker died asks for a decision: a queue run waits for it, any other fails with what to do', async () => {
  const db = openDatabase({ connectionString: server.databaseUrl }, { hot: 1, cold: 1 })
  onTestFinished(() => db.close())
  const pay = (run: RunContext) =>
    run.step('pay', { sideEffects: ['charge'] }, () => {
      charged.push(run.id)
      return 'paid'
    })
  const charged: string[] = []
  /** As a worker leaves it that was killed in the middle of the step. */
  const leftBehind = async (id: string) => {
    const owner = { 'x-tidebase-worker': 'dead' }
    await server.ok('beginRun', { params: { runId: id }, headers: owner })
    const body = { name: 'pay', inputHash: 'x', leaseOwner: 'dead', options: { sideEffects: ['charge'] } }
    const { inputHash } = await import('../src/index.ts')
    await server.ok('beginStep', { params: { runId: id }, body: { ...body, inputHash: inputHash(undefined) } })
    await db.cold.query(`update tidebase.steps set lease_expires_at = now() - interval '1 s' where run_id = $1`, [
      id.slice('run_'.length),
    ])
    await db.cold.query(`update tidebase.runs set lease_expires_at = now() - interval '1 s' where id = $1`, [
      id.slice('run_'.length),
    ])
  }
  const plain = await tide.runs.create('payment')
  await leftBehind(plain.id)
  const refused = await tide.run('payment', { runId: plain.id }, pay).catch((error: unknown) => error)
  expect(refused).toBeInstanceOf(ManualReviewError)
  expect(refused).toMatchObject({ hint: expect.stringContaining(plain.id), stepId: expect.stringMatching(/^step_/) })
  const { run, steps } = await tide.runs.get(plain.id)
  expect(run).toMatchObject({ status: 'failed', failureClass: 'manual_review' })
  await tide.runs.resolveStep(plain.id, steps[0]?.id ?? '', { decision: 'complete', output: 'paid by hand' })
  expect(await tide.run('payment', { runId: plain.id }, pay)).toBe('paid by hand')
  expect(charged).toEqual([])

  const name = `wf${names}`
  const { run: job } = await tide.enqueue(name, { queue: name, maxAttempts: 5 })
  await leftBehind(job.id)
  const { errors } = worker(pay)
  await until(job.id, 'waiting')
  const [step] = (await tide.runs.get(job.id)).steps
  await tide.runs.resolveStep(job.id, step?.id ?? '', { decision: 'retry' })
  expect((await tide.runs.wait(job.id)).result).toBe('paid')
  expect(charged).toEqual([job.id])
  expect(errors).toEqual([])
})

test('queues, retries, budgets, usage and the inbox from the SDK', async () => {
  const own = await startServer()
  onTestFinished(() => own.stop())
  const client = new Tidebase({ url: own.url })
  const jobs = Array.from({ length: 1_200 }, (_, n) => ({ workflowName: 'job', input: n }))
  const made = await client.queues.enqueueAll('many', jobs)
  expect(made.map(({ run }) => run.input)).toEqual(jobs.map(({ input }) => input))
  expect((await client.queues.pause('many')).paused).toBe(true)
  expect((await client.queues.resume('many')).paused).toBe(false)
  await expect(client.run('fails', () => Promise.reject(new Error('no')))).rejects.toThrow('no')
  const [failed] = (await client.runs.list({ workflow: 'fails' })).runs
  expect((await client.runs.retry(failed?.id ?? '')).status).toBe('pending')
  const spend = client.run('spends', { budget: { totalTokens: 10 } }, async (run) => {
    await run.usage({ kind: 'llm', totalTokens: 11, model: 'm' })
    await run.step('never', () => 1)
  })
  await expect(spend).rejects.toMatchObject({ code: 'run_cancelled' })
  expect(await client.runs.usage({ groupBy: 'model' })).toMatchObject([{ model: 'm', totalTokens: 11 }])
  const { run } = await client.runs.attach((await client.runs.create('asks')).id)
  await run.gates.begin('ok?', 'Is it?')
  expect((await client.runs.inbox()).gates).toMatchObject([{ name: 'ok?', workflowName: 'asks' }])
  await client.schedules.set('s', { cron: '0 0 1 1 *', workflowName: 'yearly' })
  expect((await client.schedules.trigger('s')).workflowName).toBe('yearly')
})
