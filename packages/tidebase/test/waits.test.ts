import { type ReplyOf, type Routes, routes } from '@tidebase/wire'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'
import { receiver } from './receiver.ts'

// Waiting without a worker: timers, signals, parking, and steps whose outcome nobody knows.

let server: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
beforeAll(async () => {
  server = await startServer({ leaseMs: 60_000, reconcileMs: 20, allowPrivateWebhooks: true })
  db = openDatabase({ connectionString: server.databaseUrl }, { hot: 1, cold: 2 })
})
afterAll(async () => {
  await db.close()
  await server.stop()
})

let queues = 0
/** A queue run that `w1` has claimed. */
async function claimed(more: object = {}): Promise<{ params: { runId: string }; queue: string }> {
  const queue = `q${queues++}`
  await server.ok('enqueue', { params: { queue }, body: { workflowName: 'w', maxAttempts: 3, ...more } })
  const { runs } = await claim(queue)
  return { params: { runId: runs[0]?.id ?? '' }, queue }
}
const claim = (queue: string, leaseOwner = 'w1', waitMs = 0) =>
  server.ok('claim', { body: { queues: [queue], leaseOwner, waitMs } })
const timer = (params: { runId: string }, name: string, delayMs: number) =>
  server.ok('createTimer', { params, body: { name, delayMs } })
const wait = (params: { runId: string }, name: string, signal: string, timeoutMs?: number) =>
  server.ok('waitForSignal', { params, body: { name, signal, timeoutMs } })
const send = (params: { runId: string }, name: string, payload: unknown, idempotencyKey?: string) =>
  server.ok('sendSignal', { params, body: { name, payload, idempotencyKey } })
const park = (params: { runId: string }, waitingFor: string[], leaseOwner = 'w1') =>
  server.ok('parkRun', { params, body: { leaseOwner, reason: 'asleep', waitingFor } })
const detail = (params: { runId: string }) => server.ok('getRun', { params })
const types = async (params: { runId: string }) => (await detail(params)).events.map(({ type }) => type)
const statusOf = async (params: { runId: string }) => (await detail(params)).run.status

describe('timers', () => {
  test('fire once at their time, are found again by name, and are seen by a long-poll', async () => {
    const { params } = await claimed()
    const { action, wait } = await timer(params, 'nap', 150)
    expect(action).toBe('wait')
    expect(wait).toMatchObject({ kind: 'timer', name: 'nap', status: 'pending', signal: null, payload: null })
    expect((await timer(params, 'nap', 9_999_999)).wait).toEqual(wait)
    const path = { ...params, waitId: wait.id }
    const over = await server.ok('getWait', { params: path, query: { waitMs: 20_000 } })
    expect(over).toMatchObject({ runStatus: 'running', wait: { status: 'resolved', resolvedAt: expect.any(String) } })
    expect(await timer(params, 'nap', 1)).toMatchObject({ action: 'return', wait: { status: 'resolved' } })
    expect((await types(params)).slice(2)).toEqual(['wait.started', 'wait.ended'])
    expect((await detail(params)).waits).toHaveLength(1)
  })

  test('take a point in time, and exactly one of the two ways to say when', async () => {
    const { params } = await claimed()
    const wakeAt = new Date(Date.now() + 3_600_000).toISOString()
    expect((await server.ok('createTimer', { params, body: { name: 't', wakeAt } })).wait.dueAt).toBe(wakeAt)
    for (const body of [{ name: 'x' }, { name: 'x', wakeAt, delayMs: 1 }]) {
      const { status, body: error } = await server.send('createTimer', { params, body })
      expect({ status, code: error.code }).toEqual({ status: 400, code: 'invalid_body' })
      expect(error.issues).toHaveLength(1)
    }
    expect(await server.send('getWait', { params: { ...params, waitId: 'wait_none' } })).toMatchObject({
      status: 404,
      body: { code: 'wait_not_found' },
    })
  })
})

describe('signals', () => {
  test('are kept until somebody waits, and taken in order, each once', async () => {
    const { params } = await claimed()
    await send(params, 'message', 'one')
    await send(params, 'other', 'x')
    await send(params, 'message', 'two')
    expect(await wait(params, 'm#1', 'message')).toMatchObject({ action: 'return', wait: { payload: 'one' } })
    expect(await wait(params, 'm#1', 'message')).toMatchObject({ action: 'return', wait: { payload: 'one' } })
    expect(await wait(params, 'm#2', 'message')).toMatchObject({ action: 'return', wait: { payload: 'two' } })
    const third = await wait(params, 'm#3', 'message')
    const fourth = await wait(params, 'm#4', 'message')
    expect(third).toMatchObject({ action: 'wait', wait: { status: 'pending' } })
    const reading = server.ok('getWait', { params: { ...params, waitId: third.wait.id }, query: { waitMs: 20_000 } })
    const { signal } = await send(params, 'message', { deep: [3] })
    expect(signal).toMatchObject({ name: 'message', payload: { deep: [3] }, waitId: third.wait.id })
    expect((await reading).wait).toMatchObject({ status: 'resolved', payload: { deep: [3] } })
    expect((await wait(params, 'm#4', 'message')).wait).toEqual(fourth.wait)
  })

  test('sent twice with one idempotency key are one, also at once', async () => {
    const { params } = await claimed()
    const replies = await Promise.all(Array.from({ length: 5 }, () => send(params, 's', 1, 'key')))
    expect(new Set(replies.map(({ signal }) => signal.id)).size).toBe(1)
    await send(params, 's', 2, 'other key')
    expect((await detail(params)).signals.map(({ payload }) => payload)).toEqual([1, 2])
  })

  test('that do not come in time: the wait is over, and a later one goes to the next wait', async () => {
    const { params } = await claimed()
    const { wait: first } = await wait(params, 'a', 'late', 30)
    const path = { ...params, waitId: first.id }
    expect((await server.ok('getWait', { params: path, query: { waitMs: 20_000 } })).wait.status).toBe('timed_out')
    await send(params, 'late', 'now')
    expect((await wait(params, 'a', 'late')).wait).toMatchObject({ status: 'timed_out', payload: null })
    expect((await wait(params, 'b', 'late')).wait).toMatchObject({ status: 'resolved', payload: 'now' })
  })

  test('to a run that has ended are refused', async () => {
    const { params } = await claimed()
    await server.ok('completeRun', { params, body: { leaseOwner: 'w1' } })
    const after = { params, body: { name: 's' } }
    expect(await server.send('sendSignal', after)).toMatchObject({ status: 409, body: { code: 'run_completed' } })
    const other = await claimed()
    await server.ok('cancelRun', { params: other.params, body: {} })
    const cancelled = { params: other.params, body: { name: 's' } }
    expect(await server.send('sendSignal', cancelled)).toMatchObject({ status: 409, body: { code: 'run_cancelled' } })
  })

  test('many waits and many signals at once: each signal is taken by one wait', async () => {
    const { params } = await claimed()
    const numbers = Array.from({ length: 25 }, (_, n) => n)
    const calls = numbers.flatMap((n) => [send(params, 's', n), wait(params, `w${n}`, 's')])
    await Promise.all(calls)
    const { waits, signals, events } = await detail(params)
    expect(waits.map(({ status }) => status)).toEqual(numbers.map(() => 'resolved'))
    expect(waits.map(({ payload }) => Number(payload)).sort((a, b) => a - b)).toEqual(numbers)
    expect(new Set(signals.map(({ waitId }) => waitId)).size).toBe(25)
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_, n) => n + 1))
  })
})

describe('parking', () => {
  test('frees the worker; the gate puts the run back at once, without using an attempt', async () => {
    const { params, queue } = await claimed({ maxAttempts: 1 })
    const { gate } = await server.ok('beginGate', { params, body: { name: 'g', prompt: '?' } })
    const parked = await park(params, [gate.id])
    expect(parked).toMatchObject({ action: 'parked', run: { status: 'waiting', leaseOwner: null, attempt: 1 } })
    expect(await park(params, [gate.id])).toEqual(parked)
    for (const name of ['heartbeatRun', 'completeRun'] as const) {
      const late = await server.send(name, { params, body: { leaseOwner: 'w1' } })
      expect(late).toMatchObject({ status: 409, body: { code: 'lease_lost' } })
    }
    expect((await claim(queue, 'w2')).runs).toEqual([])
    const claiming = claim(queue, 'w2', 20_000)
    const { resolveToken: token } = gate
    await server.ok('resolveGate', { params: { ...params, gateId: gate.id }, body: { token, decision: 'approved' } })
    const [back] = (await claiming).runs
    expect(back).toMatchObject({ id: params.runId, attempt: 1, leaseOwner: 'w2' })
    await server.ok('completeRun', { params, body: { leaseOwner: 'w2', result: 1 } })
    const { events } = await detail(params)
    expect(events.map(({ type }) => type).slice(2)).toEqual([
      'gate.created',
      'run.waiting',
      'gate.resolved',
      'run.resumed',
      'run.claimed',
      'run.completed',
    ])
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_, n) => n + 1))
  })

  test('is not done when what is waited for is over already, or was never begun', async () => {
    const { params } = await claimed()
    await send(params, 's', 1)
    const { wait: over } = await wait(params, 'a', 's')
    const { wait: open } = await wait(params, 'b', 's')
    expect(await park(params, [open.id, over.id])).toMatchObject({ action: 'continue', run: { status: 'running' } })
    expect(await park(params, ['gate_00000000000000000000000000000000'])).toMatchObject({ action: 'continue' })
    expect(await park(params, ['nonsense'])).toMatchObject({ action: 'continue', run: { leaseOwner: 'w1' } })
    const other = { params, body: { leaseOwner: 'w9', waitingFor: [open.id] } }
    expect(await server.send('parkRun', other)).toMatchObject({ status: 409, body: { code: 'lease_lost' } })
  })

  test('a timer, a signal and a gate’s timeout wake; a signal nobody waits for does not', async () => {
    const slept = await claimed()
    await park(slept.params, [(await timer(slept.params, 't', 60)).wait.id])
    expect((await claim(slept.queue, 'w2', 20_000)).runs[0]).toMatchObject({ id: slept.params.runId, attempt: 1 })

    const signalled = await claimed()
    await park(signalled.params, [(await wait(signalled.params, 'a', 's')).wait.id])
    await send(signalled.params, 'other', 0)
    expect(await statusOf(signalled.params)).toBe('waiting')
    await send(signalled.params, 's', 1)
    expect((await claim(signalled.queue, 'w2')).runs).toHaveLength(1)

    const asked = await claimed()
    const body = { name: 'g', prompt: '?', timeoutMs: 60, onTimeout: 'rejected' }
    await park(asked.params, [(await server.ok('beginGate', { params: asked.params, body })).gate.id])
    expect((await claim(asked.queue, 'w2', 20_000)).runs).toHaveLength(1)
  })

  test('a race between parking and what ends the wait never leaves a run asleep', async () => {
    const rounds = Array.from({ length: 20 }, async () => {
      const { params } = await claimed()
      const { wait: open } = await wait(params, 'a', 's')
      const [parked] = await Promise.all([park(params, [open.id]), send(params, 's', 1)])
      const { run } = await detail(params)
      expect([parked.action, run.status]).toEqual(
        parked.action === 'parked' ? ['parked', 'queued'] : ['continue', 'running'],
      )
    })
    await Promise.all(rounds)
  })

  test('a run with a recovery webhook is called when it may go on; any other run can be begun again', async () => {
    const inbox = await receiver(() => 200)
    const begun = async (body: object) => {
      const { run } = await server.ok('createRun', { params: { workflowName: 'w' }, body })
      const params = { runId: run.id }
      await server.ok('beginRun', { params, headers: { 'x-tidebase-worker': 'w1' } })
      await park(params, [(await wait(params, 'a', 's')).wait.id])
      expect(await statusOf(params)).toBe('waiting')
      return params
    }
    const called = await begun({ recoveryWebhook: inbox.url('/resume') })
    await send(called, 's', 1)
    await vi.waitFor(() => expect(inbox.at('/resume')).toHaveLength(1), 10_000)
    expect(inbox.at('/resume')[0]?.body).toMatchObject({ type: 'run.resume', runId: called.runId, reason: 'wait_over' })
    inbox.close()
    const plain = await begun({})
    await send(plain, 's', 1)
    expect(await statusOf(plain)).toBe('pending')
    const again = await server.ok('beginRun', { params: plain, headers: { 'x-tidebase-worker': 'w2' } })
    expect(again.run).toMatchObject({ status: 'running', attempt: 1, leaseOwner: 'w2' })
  })

  test('counts neither as running for caps nor as free for its dedupe key, and ends by cancel and deadline', async () => {
    const queue = 'capped'
    await server.ok('configureQueue', { params: { queue }, body: { concurrency: 1 } })
    const job = { params: { queue }, body: { workflowName: 'w', dedupeKey: 'k' } }
    const { run } = await server.ok('enqueue', job)
    await server.ok('enqueue', { params: { queue }, body: { workflowName: 'w' } })
    const params = { runId: run.id }
    expect((await claim(queue)).runs).toHaveLength(1)
    expect((await claim(queue, 'w2')).runs).toHaveLength(0)
    const second = claim(queue, 'w2', 20_000)
    const { wait: open } = await wait(params, 'a', 's', 900)
    await park(params, [open.id])
    expect((await second).runs).toHaveLength(1)
    expect(await server.ok('enqueue', job)).toMatchObject({ deduplicated: true, run: { id: run.id } })
    await server.ok('cancelRun', { params, body: {} })
    const before = await types(params)
    // Its timer runs out and changes nothing.
    await vi.waitFor(async () => {
      const [row] = await db.cold.query<{ due_at: Date | null }>('select due_at from tidebase.waits where id = $1', [
        open.id.slice('wait_'.length),
      ])
      expect(row?.due_at).toBeNull()
    }, 10_000)
    expect(await types(params)).toEqual(before)
    const dated = await claimed({ deadlineMs: 300 })
    await park(dated.params, [(await wait(dated.params, 'a', 's')).wait.id])
    await vi.waitFor(async () => expect(await statusOf(dated.params)).toBe('cancelled'), 10_000)
  })

  test('a thousand parked runs hold no lease, and the reconciler reads none of them', async () => {
    const queue = 'many'
    const jobs = Array.from({ length: 500 }, () => ({ workflowName: 'w' }))
    for (let n = 0; n < 2; n++) await server.ok('enqueueBatch', { params: { queue }, body: { jobs, brief: true } })
    const together = async (calls: object[]) => {
      const { answers } = await server.ok('batch', { body: { calls } })
      expect(answers.filter(({ status }) => status !== 200)).toEqual([])
      return answers
    }
    for (let n = 0; n < 10; n++) {
      const { runs } = await server.ok('claim', { body: { queues: [queue], limit: 100, leaseOwner: 'w1' } })
      expect(runs).toHaveLength(100)
      const of = (route: string, body: (n: number) => object) =>
        together(runs.map(({ id }, n) => ({ route, params: { runId: id }, body: body(n) })))
      const timers = await of('createTimer', () => ({ name: 't', delayMs: 604_800_000 }))
      const waits = timers.map(({ body }) => routes.createTimer.reply.parse(body).wait.id)
      await of('parkRun', (n) => ({ leaseOwner: 'w1', reason: 'asleep', waitingFor: [waits[n]] }))
    }
    await db.cold.query('analyze')
    const plans = await db.cold.query<{ 'QUERY PLAN': string }>(
      `explain (analyze, costs off, timing off, summary off) select id from tidebase.waits w
        where w.status = 'pending' and w.due_at < now() limit 500`,
    )
    expect(plans.map((row) => row['QUERY PLAN']).join('\n')).toMatch(/Index.* using waits_due .*rows=0/)
    const [leased] = await db.cold.query<{ n: number }>(
      `select count(*) as n from tidebase.runs where queue = $1 and (lease_owner is not null or status <> 'waiting')`,
      [queue],
    )
    expect(leased?.n).toBe(0)
  }, 90_000)
})

describe('a step whose worker died in the middle', () => {
  type Step = ReplyOf<Routes['failStep']>['step']
  const begin = (params: { runId: string }, leaseOwner: string, options: object = { sideEffects: ['email'] }) =>
    server.send('beginStep', { params, body: { name: 'pay', inputHash: 'h', leaseOwner, options } })
  const expire = (params: { runId: string }) =>
    db.cold.query(
      `update tidebase.steps set lease_expires_at = now() - interval '1 s' where run_id = $1 and status = 'running'`,
      [params.runId.slice('run_'.length)],
    )
  const resolve = (params: { runId: string }, step: Step, body: object) =>
    server.send('resolveStep', { params: { ...params, stepId: step.id }, body })

  async function inDoubt() {
    const { params, queue } = await claimed()
    const { body } = await begin(params, 'w1')
    const step = body.step as Step
    await expire(params)
    const doubted = await begin(params, 'w2')
    expect(doubted).toMatchObject({ status: 409, body: { code: 'manual_review', stepId: step.id } })
    expect(await begin(params, 'w3')).toMatchObject({ status: 409, body: { code: 'manual_review' } })
    expect((await detail(params)).steps).toMatchObject([{ status: 'manual_review', needsReview: true }])
    return { params, queue, step }
  }

  test('is run again when its effects cannot have been doubled, and by its own worker', async () => {
    for (const options of [{}, { sideEffects: ['read'] }, { sideEffects: ['email'], idempotencyKey: 'k' }]) {
      const { params } = await claimed()
      await begin(params, 'w1', options)
      await expire(params)
      expect((await begin(params, 'w2', options)).body).toMatchObject({ action: 'execute', step: { attempt: 2 } })
    }
    const { params } = await claimed()
    await begin(params, 'w1')
    await expire(params)
    expect((await begin(params, 'w1')).body).toMatchObject({ action: 'execute', step: { attempt: 2 } })
  })

  test('waits for a decision: to run it again', async () => {
    const { params, step } = await inDoubt()
    const decided = await resolve(params, step, { decision: 'retry', actor: 'ada' })
    expect(decided.body.step).toMatchObject({ status: 'failed_retryable', needsReview: false })
    expect((await begin(params, 'w2')).body).toMatchObject({ action: 'execute', step: { attempt: 2 } })
    expect(await resolve(params, step, { decision: 'retry' })).toMatchObject({
      status: 409,
      body: { code: 'step_not_in_review' },
    })
    const { events } = await detail(params)
    expect(events.map(({ type }) => type).slice(2)).toEqual([
      'step.started',
      'step.manual_review',
      'step.resolved',
      'step.started',
    ])
    expect(events.find(({ type }) => type === 'step.resolved')?.payload).toMatchObject({
      decision: 'retry',
      actor: 'ada',
    })
  })

  test('waits for a decision: that it was done', async () => {
    const { params, step } = await inDoubt()
    await resolve(params, step, { decision: 'complete', output: { receipt: 7 } })
    expect((await begin(params, 'w2')).body).toMatchObject({ action: 'return', output: { receipt: 7 } })
  })

  test('waits for a decision: that it failed', async () => {
    const { params, step } = await inDoubt()
    await resolve(params, step, { decision: 'fail' })
    expect(await begin(params, 'w2')).toMatchObject({ status: 409, body: { code: 'step_failed', stepId: step.id } })
  })

  test('parks its run until somebody has decided', async () => {
    const { params, queue, step } = await inDoubt()
    expect(await park(params, [step.id])).toMatchObject({ action: 'parked' })
    await resolve(params, step, { decision: 'retry' })
    expect((await claim(queue, 'w2')).runs).toMatchObject([{ id: params.runId, attempt: 1 }])
  })

  test('is decided once, whoever comes at the same time', async () => {
    const { params, step } = await inDoubt()
    const replies = await Promise.all(
      ['retry', 'complete', 'fail', 'retry'].map((decision) => resolve(params, step, { decision })),
    )
    expect(replies.map(({ status }) => status).sort()).toEqual([200, 409, 409, 409])
  })
})
