// What is recorded of a failed step, against a real server: its message, its stack and its causes, and of failed tries.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { StepError } from '../src/index.ts'
import { watched } from './helpers.ts'

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer()
})
afterAll(() => server.stop(500))

const detail = (runId: string) => server.ok('getRun', { params: { runId } })

test('a failed step is recorded with the stack of the program and the causes; its event and its run without', async () => {
  const { tide } = watched(server)
  const { id } = await tide.runs.create('breaks')
  function reserve(): never {
    throw new TypeError('no table\n    at noon', { cause: new Error('full', { cause: 'fire' }) })
  }
  const failed = tide.run('breaks', { runId: id }, (run) =>
    run.step('reserve', { input: { password: 'hunter2' } }, async () => reserve()),
  )
  await expect(failed).rejects.toThrow(StepError)
  const { run, steps, events } = await detail(id)
  const error = steps[0]?.error ?? ''
  expect(error).toMatch(/^TypeError: no table\n {4}at noon\n {4}at reserve \(.*stack\.test\.ts:\d+:\d+\)\n/)
  expect(error).toMatch(/\nCaused by: full\nCaused by: fire$/)
  expect(error).not.toMatch(/node:|sdk\/src|hunter2/)
  expect(error.match(/noon/g)).toHaveLength(1)
  expect(run.error).toBe('Step "reserve" failed: TypeError: no table\n    at noon')
  const event = events.find(({ type }) => type === 'step.failed')
  expect(event?.payload).toMatchObject({ error: 'TypeError: no table', status: 'failed_retryable' })
})

test('of what is no error of the program the text alone is recorded, and a stack has an end', async () => {
  const { tide } = watched(server)
  const { id } = await tide.runs.create('odd')
  const circle = new Error('round')
  circle.cause = circle
  const unreadable = new Error('unreadable')
  Object.defineProperty(unreadable, 'stack', {
    get() {
      throw new Error('not to be read')
    },
  })
  const deep = (n: number): never => {
    if (n > 0) return deep(n - 1)
    throw new Error('deep', { cause: new Error('x'.repeat(9_000)) })
  }
  await tide.run('odd', { runId: id }, async (run) => {
    const attempt = (name: string, fn: () => unknown) => run.step(name, { timeoutMs: 50 }, fn).catch(() => {})
    await attempt('text', () => Promise.reject('only text'))
    await attempt('late', () => new Promise(() => {}))
    await attempt('unfit', () => 1n)
    await attempt('circle', () => Promise.reject(circle))
    await attempt('unreadable', () => Promise.reject(unreadable))
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = 200
    await attempt('deep', () => deep(100))
    Error.stackTraceLimit = stackTraceLimit
  })
  const { steps } = await detail(id)
  const errors = Object.fromEntries(steps.map(({ name, error }) => [name, error ?? '']))
  expect(errors).toMatchObject({ text: 'only text', unreadable: 'unreadable' })
  expect(errors.late).toBe('Step "late" did not end within 50 ms.')
  expect(errors.unfit).not.toContain('\n')
  expect(errors.circle?.match(/round/g)).toHaveLength(1)
  expect(errors.deep?.match(/\n {4}at deep/g)).toHaveLength(20)
  expect(errors.deep).toHaveLength('deep'.length + 8_000)
})

/** The events of a run's steps, in short. */
async function ofSteps(runId: string) {
  const { events } = await detail(runId)
  return events
    .filter(({ type }) => type.startsWith('step.'))
    .map(({ type, payload }) => [
      type,
      Object.fromEntries(Object.entries(Object(payload)).filter(([key]) => told.has(key))),
    ])
}
const told = new Set(['attempt', 'lastError', 'error'])
const shown = (runId: string) => expect.poll(async () => (await detail(runId)).steps[0]?.status).toBe('running')

test('a step that is known to run and fails is one attempt', async () => {
  const { tide } = watched(server)
  const { id } = await tide.runs.create('slow')
  const slow = tide.run('slow', { runId: id }, (run) =>
    run.step('wait', async () => {
      await shown(id)
      throw new Error('no')
    }),
  )
  await expect(slow).rejects.toThrow('no')
  expect(await ofSteps(id)).toEqual([
    ['step.started', { attempt: 1 }],
    ['step.failed', { attempt: 1, error: 'no' }],
  ])
})

test.each([
  {},
  { sideEffects: ['pay'] },
])('each try is told with what the one before failed with: %j', async (options) => {
  const { tide } = watched(server)
  const { id } = await tide.runs.create('tries')
  await tide.run('tries', { runId: id }, (run) =>
    run.step('call', { ...options, retries: 2, backoffMs: 1 }, async ({ attempt }) => {
      if (attempt === 1) await shown(id)
      if (attempt < 3) throw new TypeError(`${attempt}`)
      return 'fine'
    }),
  )
  expect(await ofSteps(id)).toEqual([
    ['step.started', { attempt: 1 }],
    ['step.started', { attempt: 2, lastError: 'TypeError: 1' }],
    ['step.started', { attempt: 3, lastError: 'TypeError: 2' }],
    ['step.completed', {}],
  ])
  expect((await detail(id)).steps).toMatchObject([{ attempt: 3, output: 'fine', error: null }])
})
