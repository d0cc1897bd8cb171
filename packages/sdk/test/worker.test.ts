import { afterAll, beforeAll, expect, test } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { delay } from '../src/abort.ts'
import { type RunContext, TidebaseError, type WorkOptions } from '../src/index.ts'
import { restartable, signalled, type Watched, watched } from './helpers.ts'

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer()
})
afterAll(() => server.stop(500))

const detail = (runId: string) => server.ok('getRun', { params: { runId } })
const quiet = () => {}

/** A worker that runs while the test does its part. */
async function working<T>(
  tide: Watched['tide'],
  options: WorkOptions,
  part: (stop: () => Promise<void>) => Promise<T>,
): Promise<T> {
  const controller = new AbortController()
  const stopped = tide.work({ waitMs: 200, onError: quiet, ...options, signal: controller.signal })
  try {
    return await part(async () => {
      controller.abort()
      await stopped
    })
  } finally {
    controller.abort()
    await stopped
  }
}

test('works off a queue, so many at a time, and learns of new work at once', async () => {
  const { tide } = watched(server)
  let now = 0
  let most = 0
  tide.workflow('square', async (run, input: number) => {
    most = Math.max(most, ++now)
    const result = await run.step('multiply', async () => {
      await delay(150)
      return input ** 2
    })
    now--
    return result
  })
  await working(tide, { queues: ['q'], concurrency: 4, waitMs: 5_000 }, async (stop) => {
    const ids = await Promise.all(
      Array.from({ length: 20 }, async (_, n) => (await tide.enqueue('square', { queue: 'q', input: n })).run.id),
    )
    const runs = await Promise.all(ids.map((id) => tide.runs.wait(id)))
    expect(runs.map(({ result }) => result)).toEqual(Array.from({ length: 20 }, (_, n) => n ** 2))
    expect(most).toBe(4)
    await delay(50)
    const at = performance.now()
    await tide.runs.wait((await tide.enqueue('square', { queue: 'q', input: 1 })).run.id)
    expect(performance.now() - at).toBeLessThan(3_000)
    // The claim that waits at the server would wait five seconds more; this work ends it.
    const stopped = stop()
    await tide.enqueue('square', { queue: 'q', input: 2 })
    await stopped
  })
  const { runs } = await tide.runs.list({ queue: 'q' })
  expect(new Set(runs.map(({ status }) => status))).toEqual(new Set(['completed']))
  expect((await tide.queues.list()).find(({ name }) => name === 'q')).toMatchObject({ completed: 22, running: 0 })
})

test('a stop lets what runs end, and claims no more', async () => {
  const { tide, requests } = watched(server)
  const started = signalled()
  let ended = false
  tide.workflow('slow', async () => {
    started.done()
    await delay(400)
    ended = true
  })
  const { run } = await tide.enqueue('slow', { queue: 'graceful' })
  await working(tide, { queues: ['graceful'], concurrency: 1 }, async (stop) => {
    await started.promise
    const later = await tide.enqueue('slow', { queue: 'graceful' })
    await stop()
    expect(ended).toBe(true)
    expect((await detail(run.id)).run.status).toBe('completed')
    expect((await detail(later.run.id)).run.status).toBe('queued')
  })
  const after = requests.length
  await delay(300)
  expect(requests.length).toBe(after + 0)
})

test('what does not end within the grace is stopped, and queued again when it has attempts left', async () => {
  const { tide } = watched(server)
  const started = signalled()
  const signalSeen = signalled()
  let attempts = 0
  tide.workflow('endless', async (run) => {
    if (++attempts > 1) return 'second time'
    run.signal.addEventListener('abort', signalSeen.done)
    await run.step('first', () => 1)
    started.done()
    await new Promise(() => {})
    return 'never'
  })
  const { run } = await tide.enqueue('endless', { queue: 'grace', maxAttempts: 2 })
  await working(tide, { queues: ['grace'], graceMs: 100 }, async (stop) => {
    await started.promise
    const at = performance.now()
    await stop()
    expect(performance.now() - at).toBeLessThan(4_000)
    await signalSeen.promise
  })
  const { run: stopped } = await detail(run.id)
  expect(stopped).toMatchObject({ status: 'queued', attempt: 1, error: 'The worker stopped before the run ended.' })
})

test('a failed attempt is repeated later, from its checkpoints', async () => {
  const { tide } = watched(server)
  const ran: string[] = []
  const failures: unknown[] = []
  tide.workflow('flaky', async (run: RunContext, input: unknown) => {
    const first = await run.step('first', { input }, () => {
      ran.push('first')
      return 1
    })
    return run.step('second', () => {
      ran.push('second')
      if (run.attempt === 1) throw new Error('once')
      return first + run.attempt
    })
  })
  const { run } = await tide.enqueue('flaky', { queue: 'again', input: { a: 1 }, maxAttempts: 3 })
  await working(
    tide,
    { queues: ['again'], onError: (error, failed) => failures.push([error, failed?.id]) },
    async () => {
      expect(await tide.runs.wait(run.id, { timeoutMs: 20_000 })).toMatchObject({
        status: 'completed',
        result: 3,
        attempt: 2,
      })
    },
  )
  expect(ran).toEqual(['first', 'second', 'second'])
  expect(failures).toMatchObject([[{ name: 'StepError' }, run.id]])
})

test('a workflow that nobody registered is a failed run, not a broken worker', async () => {
  const { tide } = watched(server)
  tide.workflow('known', () => 'fine')
  await working(tide, { queues: ['strange'] }, async () => {
    const unknown = await tide.enqueue('unknown', { queue: 'strange' })
    const known = await tide.enqueue('known', { queue: 'strange' })
    expect(await tide.runs.wait(unknown.run.id)).toMatchObject({
      status: 'failed',
      error: 'No workflow "unknown" is registered here.',
      failureClass: 'workflow_not_registered',
    })
    expect(await tide.runs.wait(known.run.id)).toMatchObject({ status: 'completed', result: 'fine' })
  })
})

test('several workers share the work, each run once', async () => {
  const ran: string[] = []
  const workers = [1, 2, 3].map(() => {
    const { tide } = watched(server)
    tide.workflow('shared', (run) => void ran.push(run.id))
    return tide
  })
  const [first = watched(server).tide] = workers
  const ids = await Promise.all(
    Array.from({ length: 60 }, async () => (await first.enqueue('shared', { queue: 'many' })).run.id),
  )
  const stop = new AbortController()
  const all = workers.map((tide) => tide.work({ queues: ['many'], concurrency: 5, waitMs: 200, signal: stop.signal }))
  await Promise.all(ids.map((id) => first.runs.wait(id)))
  stop.abort()
  await Promise.all(all)
  expect(ran.toSorted()).toEqual(ids.toSorted())
})

test('an outage is waited out, also in the middle of a run', async () => {
  const service = await restartable()
  const { tide } = watched(service, { timeoutMs: 3_000 })
  const errors: unknown[] = []
  const begun = signalled()
  tide.workflow('across', async (run) => {
    await run.step('before', () => 1)
    begun.done()
    await delay(300)
    return run.step('after', () => 2)
  })
  await working(tide, { queues: ['out'], onError: (error) => errors.push(error) }, async () => {
    const { run } = await tide.enqueue('across', { queue: 'out' })
    await begun.promise
    await service.stop()
    await delay(1_000)
    await service.start()
    expect(await tide.runs.wait(run.id)).toMatchObject({ status: 'completed', result: 2, attempt: 1 })
    const next = await tide.enqueue('across', { queue: 'out' })
    expect(await tide.runs.wait(next.run.id)).toMatchObject({ status: 'completed' })
  })
  expect(errors).toMatchObject([{ retryable: true }])
  await service.end()
})

test('a refusal ends the worker with an error', async () => {
  const locked = await startServer({ apiKey: 'right' })
  const { tide } = watched(locked, { apiKey: 'wrong' })
  await expect(tide.work({ queues: ['x'] })).rejects.toMatchObject({ status: 401, code: 'unauthorized' })
  await expect(tide.work({ queues: [] })).rejects.toBeInstanceOf(TidebaseError)
  await expect(tide.work({ concurrency: 0 })).rejects.toThrow(RangeError)
  await locked.stop()
})

test('a signal that has aborted already claims nothing', async () => {
  const { tide, requests } = watched(server)
  await tide.work({ signal: AbortSignal.abort() })
  expect(requests).toEqual([])
})

test('delay, priority, deadline and caps', async () => {
  const { tide } = watched(server)
  const order: string[] = []
  tide.workflow('ordered', (_run, input: string) => void order.push(input))
  await tide.queues.configure('capped', { concurrency: 1 })
  const at = Date.now()
  const later = await tide.enqueue('ordered', { queue: 'capped', input: 'later', runAt: new Date(at + 1_500) })
  await tide.enqueue('ordered', { queue: 'capped', input: 'low', priority: -1 })
  await tide.enqueue('ordered', { queue: 'capped', input: 'high', priority: 5 })
  await tide.enqueue('ordered', { queue: 'capped', input: 'normal', delayMs: 0 })
  await working(tide, { queues: ['capped'] }, async () => {
    await tide.runs.wait(later.run.id)
    expect(Date.now() - at).toBeGreaterThanOrEqual(1_490)
  })
  expect(order).toEqual(['high', 'normal', 'low', 'later'])
  expect(await tide.queues.configure('capped', { concurrency: null })).toMatchObject({ concurrency: null })
})

test('schedules are set, listed and deleted', async () => {
  const { tide } = watched(server)
  const set = { cron: '0 9 * * 1-5', timezone: 'Europe/Berlin', workflowName: 'digest', input: { a: 1 } }
  expect(await tide.schedules.set('digest', set)).toMatchObject({ ...set, name: 'digest', queue: 'default' })
  expect(await tide.schedules.list()).toMatchObject([{ name: 'digest', nextRunAt: expect.any(String) }])
  await expect(tide.schedules.set('bad', { ...set, cron: '99 * * * *' })).rejects.toMatchObject({
    code: 'invalid_cron',
  })
  await tide.schedules.delete('digest')
  await expect(tide.schedules.delete('digest')).rejects.toMatchObject({ code: 'schedule_not_found' })
})

test('a project keeps its ended runs for as many days as it says', async () => {
  const { tide } = watched(server)
  expect(await tide.project.get()).toMatchObject({ name: 'default', retentionDays: null })
  expect(await tide.project.configure({ retentionDays: 400 })).toMatchObject({ effectiveRetentionDays: 400 })
  expect(await tide.project.configure({})).toMatchObject({ retentionDays: 400 })
  expect(await tide.project.configure({ retentionDays: null })).toMatchObject({ retentionDays: null })
})
