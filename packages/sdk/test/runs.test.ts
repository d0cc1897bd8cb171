// Runs and gates without a workflow function around them: attached, asked, listed, and what the server refuses.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { delay } from '../src/abort.ts'
import { RunLeasedError, TidebaseError } from '../src/index.ts'
import { watched } from './helpers.ts'

const leaseMs = 600
let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer({ leaseMs })
})
afterAll(() => server.stop(500))

const detail = (runId: string) => server.ok('getRun', { params: { runId } })

test('attach holds a run without a function around it', async () => {
  const { tide } = watched(server)
  const { id } = await tide.runs.create('session', { input: { name: 'ann' } })
  const session = await tide.runs.attach<{ name: string }>(id)
  expect(session.input).toEqual({ name: 'ann' })
  expect(await session.run.step('hello', () => `hello ${session.input.name}`)).toBe('hello ann')
  await delay(leaseMs * 1.5)
  await expect(tide.runs.attach(id)).rejects.toBeInstanceOf(RunLeasedError)
  session.detach()
  await expect(session.run.step('more', () => 1)).rejects.toMatchObject({ code: 'run_ended' })
  const again = await tide.runs.attach(id, { leaseWaitMs: leaseMs * 2 })
  expect(await again.run.step('hello', () => 'never')).toBe('hello ann')
  await again.complete('bye')
  expect((await detail(id)).run).toMatchObject({ status: 'completed', result: 'bye' })
  await expect(tide.runs.attach(id)).rejects.toMatchObject({ code: 'run_completed' })

  const failing = await tide.runs.attach((await tide.runs.create('session')).id)
  await failing.fail(new Error('gave up'))
  expect((await detail(failing.run.id)).run).toMatchObject({ status: 'failed', error: 'gave up' })
})

test('gates without waiting', async () => {
  const { tide } = watched(server)
  await tide.run('polls', async (run) => {
    const { action, gate } = await run.gates.begin('g', 'Well?')
    expect(action).toBe('wait')
    expect((await run.gates.get(gate.id, { waitMs: 20 })).gate.status).toBe('pending')
    await tide.runs.resolveGate(run.id, gate.id, { token: gate.resolveToken, decision: 'rejected' })
    expect(await run.gates.begin('g', 'Well?')).toMatchObject({ action: 'return', gate: { status: 'rejected' } })
    expect(await run.gate('g', 'Well?')).toMatchObject({ decision: 'rejected', approved: false })
  })
})

test('runs are listed by what they carry', async () => {
  const { tide } = watched(server)
  for (const n of [1, 2, 3]) await tide.runs.create('listed', { metadata: { customer: 'acme', n } })
  await tide.runs.create('listed', { metadata: { customer: 'other' } })
  const page = await tide.runs.list({ workflow: 'listed', metadata: { customer: 'acme' }, limit: 2 })
  expect(page.runs.map(({ metadata }) => metadata.n)).toEqual([3, 2])
  const rest = await tide.runs.list({
    workflow: 'listed',
    metadata: { customer: 'acme' },
    before: page.nextCursor ?? '',
  })
  expect(rest).toMatchObject({ runs: [{ metadata: { n: 1 } }], nextCursor: null })
})

test('errors of the server keep status, code, hint and issues', async () => {
  const { tide } = watched(server)
  const error = await tide.runs.create('x', { recoveryWebhook: 'nonsense' }).catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(TidebaseError)
  expect(error).toMatchObject({
    status: 400,
    code: 'invalid_body',
    issues: [{ path: 'recoveryWebhook', message: expect.any(String) }],
    message: expect.stringContaining('recoveryWebhook'),
    retryable: false,
  })
})
