import { afterAll, beforeAll, expect, test } from 'vitest'
import { startServer } from '../../../test/server.ts'

// GET /runs/:id and checkpoints are put together as text: what they say must be what every other reply says.

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer({ allowPrivateWebhooks: true, reconciler: false })
})
afterAll(() => server.stop())

const inputHash = 'a'.repeat(64)
const leaseOwner = 'w "1"\\'

async function begun(): Promise<{ runId: string }> {
  const { run } = await server.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  const params = { runId: run.id }
  await server.ok('beginRun', { params, headers: { 'x-tidebase-worker': leaseOwner } })
  return params
}

const record = (params: { runId: string }, name: string, more: object = {}) =>
  server.ok('recordStep', { params, body: { name, inputHash, leaseOwner, ...more } })

test('a step reads the same in the run as in the reply to the call that changed it', async () => {
  const params = await begun()
  const replies: unknown[] = []
  for (const options of [
    null,
    { sideEffects: ['email'], idempotencyKey: 'k', retries: 3 },
    { sideEffect: 'write', onAmbiguousFailure: 'retry' },
    { replay: 'never', checkpointInvariant: '"sent"', verifiedBy: { a: [1, 'ü'] }, credentials: null },
  ]) {
    const name = `plain, "quoted", \\ and 🌊 ${JSON.stringify(options)}\n`
    const start = { name, inputHash: `${inputHash} "`, input: { é: '\u2028"', n: 1.5e-7 }, options, leaseOwner }
    const step = await server.ok('beginStep', { params, body: start })
    if (step.action !== 'execute') throw new Error(step.action)
    const path = { ...params, stepId: step.step.id }
    const ended =
      options === null
        ? await server.ok('failStep', { params: path, body: { leaseOwner, error: 'no\n  at "x"\t', retryable: true } })
        : await server.ok('completeStep', { params: path, body: { leaseOwner, output: { text: 'ok "\\ 🌊' } } })
    replies.push(ended.step)
  }
  const { steps } = await server.ok('getRun', { params })
  expect(steps).toEqual(replies)
  expect(Object.keys(steps[0] ?? {})).toEqual(Object.keys(replies[0] ?? {}))
})

test('times have milliseconds, however many digits they were given with', async () => {
  const params = await begun()
  const given = {
    '2026-01-02T03:04:05Z': '2026-01-02T03:04:05.000Z',
    '2026-01-02T03:04:05.1Z': '2026-01-02T03:04:05.100Z',
    '2026-01-02T03:04:05.12Z': '2026-01-02T03:04:05.120Z',
    '2026-01-02T03:04:05.123999Z': '2026-01-02T03:04:05.123Z',
    '2026-01-02T03:04:05.5+02:00': '2026-01-02T01:04:05.500Z',
  }
  for (const startedAt of Object.keys(given)) await record(params, startedAt, { startedAt })
  const { steps } = await server.ok('getRun', { params, query: { include: 'steps' } })
  expect(Object.fromEntries(steps.map(({ name, startedAt }) => [name, startedAt]))).toEqual(given)
})

test('steps come in pages when they are asked for in pages, also those that a fork took over', async () => {
  const params = await begun()
  for (const name of ['a', 'b', 'c', 'd', 'e']) await record(params, name)
  const fork = await server.ok('forkRun', { params, body: {} })
  for (const runId of [params.runId, fork.run.id]) {
    const pages: string[][] = []
    let stepsAfter: number | null | undefined
    do {
      const query = { include: 'steps', stepsLimit: 2, ...(stepsAfter == null ? {} : { stepsAfter }) }
      const page = await server.ok('getRun', { params: { runId }, query })
      pages.push(page.steps.map(({ name }) => name))
      stepsAfter = page.nextStepsAfter
    } while (stepsAfter != null)
    expect(pages).toEqual([['a', 'b'], ['c', 'd'], ['e']])
    const all = await server.ok('getRun', { params: { runId } })
    expect([all.steps.length, all.nextStepsAfter]).toEqual([5, null])
  }
  for (const stepsLimit of [0, 5_001, 'x']) {
    expect(await server.send('getRun', { params, query: { stepsLimit } })).toMatchObject({ status: 400 })
  }
})

test('all parts together are what each part is alone', async () => {
  const channels = [{ type: 'webhook', url: 'http://127.0.0.1:9/', events: ['gate.created'] }]
  const { run } = await server.ok('createRun', {
    params: { workflowName: 'w' },
    body: { channels, recoveryWebhook: 'http://127.0.0.1:9/' },
  })
  const params = { runId: run.id }
  const nothing = await server.ok('getRun', { params })
  await server.ok('beginRun', { params, headers: { 'x-tidebase-worker': leaseOwner } })
  await record(params, 'a', { output: { n: 1 } })
  await server.ok('setState', { params, body: { value: { n: 1 } } })
  await server.ok('createChild', { params, body: { name: 'child', workflowName: 'w' } })
  await server.ok('recoverRun', { params, body: {} })
  await server.ok('beginGate', { params, body: { name: 'g', prompt: '?' } })
  await server.ok('createTimer', { params, body: { name: 't', delayMs: 60_000 } })
  await server.ok('sendSignal', { params, body: { name: 's', payload: [1] } })
  await server.ok('recordUsage', { params, body: { kind: 'llm', inputTokens: 1 } })
  const parts = Object.keys(nothing).filter((name) => !/^(run|next.*After|events)$/.test(name))
  const all: Record<string, unknown> = await server.ok('getRun', { params })
  for (const name of parts) {
    const { [name]: alone }: Record<string, unknown> = await server.ok('getRun', { params, query: { include: name } })
    expect([name, alone].flat().length, name).toBeGreaterThan(1)
    expect([name, all[name]]).toEqual([name, alone])
  }
})

test('checkpoints are the recorded outputs, for who begins and for who claims, alone and in a batch', async () => {
  const outputs = { 'a "b"': { text: 'ü "\\ 🌊', list: [1, null, true] }, nothing: null, text: 'x' }
  const { run } = await server.ok('enqueue', {
    params: { queue: 'q' },
    body: { workflowName: 'w' },
  })
  const params = { runId: run.id }
  await server.ok('claim', { body: { queues: ['q'], leaseOwner } })
  for (const [name, output] of Object.entries(outputs)) await record(params, name, { output })
  const { steps } = await server.ok('getRun', { params })
  const expected = steps.map(({ id, name, inputHash, output }) => ({ id, name, inputHash, output }))
  expect(expected.map(({ name, output }) => [name, output])).toEqual(Object.entries(outputs))
  const again = { params, query: { include: 'checkpoints' }, headers: { 'x-tidebase-worker': leaseOwner } }
  expect((await server.ok('beginRun', again)).checkpoints).toEqual(expected)
  const { answers } = await server.ok('batch', { body: { calls: [{ route: 'getRun', params }] } })
  expect(answers[0]).toMatchObject({ status: 200, body: { steps } })
  await server.ok('failRun', { params, body: { leaseOwner, error: 'no' } })
  await server.ok('retryRun', { params, body: {} })
  const claimed = await server.ok('claim', { body: { queues: ['q'], leaseOwner, include: ['checkpoints'] } })
  expect(claimed.checkpoints).toEqual({ [run.id]: expected })
})
