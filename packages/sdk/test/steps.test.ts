// Steps against a real server: what is recorded, what runs again, what goes over the wire.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { delay } from '../src/abort.ts'
import { InputMismatchError, type RunContext, StepError, StepTimeoutError, TidebaseError } from '../src/index.ts'
import { signalled, watched } from './helpers.ts'

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer()
})
afterAll(() => server.stop(500))

const detail = (runId: string) => server.ok('getRun', { params: { runId } })

test('a replay-safe step is one request after the work', async () => {
  const { tide, requests } = watched(server)
  let id = ''
  const result = await tide.run('report', { input: { topic: 'tides' } }, async (run, input) => {
    id = run.id
    const plan = await run.step('plan', { input }, () => ({ about: input.topic }))
    return run.step('write', () => `On ${plan.about}`)
  })
  expect(result).toBe('On tides')
  expect(requests).toEqual([
    'POST /runs/report',
    'POST /runs/:id/steps/record',
    'POST /runs/:id/steps/record',
    'POST /runs/:id/complete',
  ])
  const { run, steps, events } = await detail(id)
  expect(run).toMatchObject({ status: 'completed', result: 'On tides', attempt: 1, leaseOwner: null })
  expect(steps.map(({ name, status, output, attempt }) => ({ name, status, output, attempt }))).toEqual([
    { name: 'plan', status: 'completed', output: { about: 'tides' }, attempt: 1 },
    { name: 'write', status: 'completed', output: 'On tides', attempt: 1 },
  ])
  expect(steps[0]).toMatchObject({ input: { topic: 'tides' }, leaseOwner: null })
  expect(events.map(({ seq, type }) => `${seq} ${type}`)).toEqual([
    '1 run.created',
    '2 run.started',
    '3 step.started',
    '4 step.completed',
    '5 step.started',
    '6 step.completed',
    '7 run.completed',
  ])
})

test('a resumed run replays its steps from one answer', async () => {
  const { tide, requests } = watched(server)
  const ran: string[] = []
  const keep = (name: string, value: number) => {
    ran.push(name)
    return value
  }
  let id = ''
  let broken = true
  const workflow = async (run: RunContext) => {
    id = run.id
    const a = await run.step('a', { input: [1] }, () => keep('a', 1))
    const b = await run.step('b', () => keep('b', 2))
    if (broken) throw new Error('the worker died')
    return (await run.step('c', () => keep('c', 3))) + a + b
  }
  await expect(tide.run('sum', workflow)).rejects.toThrow('the worker died')
  expect((await detail(id)).run).toMatchObject({ status: 'failed', error: 'the worker died' })
  broken = false
  requests.length = 0
  expect(await tide.run('sum', { runId: id }, workflow)).toBe(6)
  expect(ran).toEqual(['a', 'b', 'c'])
  expect(requests).toEqual([
    'GET /runs/:id',
    'POST /runs/:id/begin',
    'POST /runs/:id/steps/record',
    'POST /runs/:id/complete',
  ])
  expect((await detail(id)).run).toMatchObject({ status: 'completed', attempt: 2 })
})

test('a step that may not be repeated is begun durably first', async () => {
  const { tide, requests } = watched(server)
  let id = ''
  await tide.run('mail', async (run) => {
    id = run.id
    await run.step('send', { sideEffects: ['email.send'] }, async () => {
      const { steps } = await detail(id)
      expect(steps).toMatchObject([{ name: 'send', status: 'running' }])
      return 'sent'
    })
  })
  expect(requests.filter((request) => request.includes('/steps'))).toEqual([
    'POST /runs/:id/steps/begin',
    'POST /runs/:id/steps/:id/complete',
  ])
  expect((await detail(id)).steps).toMatchObject([
    { name: 'send', status: 'completed', output: 'sent', resumeContract: { sideEffects: ['email.send'] } },
  ])
})

test('a step that takes long shows as running meanwhile', async () => {
  const { tide } = watched(server)
  let id = ''
  await tide.run('slow', async (run) => {
    id = run.id
    await run.step('think', async () => {
      await delay(300)
      expect((await detail(id)).steps).toMatchObject([{ name: 'think', status: 'running' }])
    })
  })
  const { steps, events } = await detail(id)
  expect(steps).toMatchObject([{ name: 'think', status: 'completed', output: null, attempt: 1 }])
  expect(events.map(({ type }) => type).filter((type) => type.startsWith('step.'))).toEqual([
    'step.started',
    'step.completed',
  ])
})

test('each numbers the calls in order, also on replay', async () => {
  const { tide } = watched(server)
  const ran: string[] = []
  let id = ''
  let stopAt = 2
  const workflow = async (run: RunContext) => {
    id = run.id
    const said: string[] = []
    for (let turn = 0; turn < 4; turn++) {
      if (turn === stopAt) throw new Error('stop')
      said.push(
        await run.step('llm', { each: true, input: turn }, ({ name }) => {
          ran.push(name)
          return `turn ${turn}`
        }),
      )
    }
    return said
  }
  await expect(tide.run('loop', workflow)).rejects.toThrow('stop')
  stopAt = -1
  expect(await tide.run('loop', { runId: id }, workflow)).toEqual(['turn 0', 'turn 1', 'turn 2', 'turn 3'])
  expect(ran).toEqual(['llm#1', 'llm#2', 'llm#3', 'llm#4'])
})

test('one name is one step: at once, one after the other, and with another input', async () => {
  const { tide } = watched(server)
  let ran = 0
  await tide.run('same', async (run) => {
    const work = () =>
      run.step('x', { input: 1 }, async () => {
        await delay(20)
        return { n: ++ran }
      })
    expect(await Promise.all([work(), work()])).toEqual([{ n: 1 }, { n: 1 }])
    expect(await work()).toEqual({ n: 1 })
    const pending = run.step('y', { input: 1 }, () => delay(20))
    await expect(run.step('y', { input: 2 }, () => 2)).rejects.toBeInstanceOf(InputMismatchError)
    await pending
    await expect(run.step('x', { input: 2 }, () => 2)).rejects.toBeInstanceOf(InputMismatchError)
  })
  expect(ran).toBe(1)
})

test('another input on replay is an error that names step and hashes', async () => {
  const { tide } = watched(server)
  let id = ''
  let input = 'first'
  const workflow = async (run: RunContext) => {
    id = run.id
    await run.step('x', { input }, () => 1)
    if (input === 'first') throw new Error('stop')
  }
  await expect(tide.run('mismatch', workflow)).rejects.toThrow('stop')
  input = 'second'
  const error = await tide.run('mismatch', { runId: id }, workflow).catch((thrown: unknown) => thrown)
  expect(error).toMatchObject({
    name: 'InputMismatchError',
    step: 'x',
    expectedInputHash: expect.stringMatching(/^[0-9a-f]{64}$/),
    actualInputHash: expect.stringMatching(/^[0-9a-f]{64}$/),
  })
  expect((await detail(id)).run).toMatchObject({ status: 'failed', failureClass: 'input_mismatch' })
})

test('retries with a growing pause; the attempt that counts is recorded', async () => {
  const { tide } = watched(server)
  const at: number[] = []
  const attempts: number[] = []
  let id = ''
  await tide.run('retry', async (run) => {
    id = run.id
    await run.step('flaky', { retries: 3, backoffMs: 40 }, ({ attempt }) => {
      at.push(performance.now())
      attempts.push(attempt)
      if (attempt < 3) throw new Error('not yet')
    })
  })
  expect(attempts).toEqual([1, 2, 3])
  const [first = 0, second = 0, third = 0] = at
  expect(second - first).toBeGreaterThanOrEqual(19)
  expect(third - second).toBeGreaterThanOrEqual(39)
  expect((await detail(id)).steps).toMatchObject([{ status: 'completed', attempt: 3 }])
})

test.each([
  [{ retries: 1, backoffMs: 1 }, 2, 'failed_retryable'],
  [{ sideEffects: ['pay'], retries: 1, backoffMs: 1 }, 2, 'manual_review'],
  [{ replay: 'never' as const }, 1, 'failed'],
])('a step that fails for good, with %o', async (options, times, status) => {
  const { tide } = watched(server)
  let ran = 0
  let id = ''
  const error = await tide
    .run('fails', async (run) => {
      id = run.id
      await run.step('bad', options, () => {
        ran++
        throw Object.assign(new RangeError('too much'), { failureClass: 'quota' })
      })
    })
    .catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(StepError)
  expect(error).toMatchObject({ step: 'bad', attempts: times, cause: expect.any(RangeError), failureClass: 'quota' })
  expect(ran).toBe(times)
  const { run, steps } = await detail(id)
  expect(steps).toMatchObject([
    { name: 'bad', status, error: expect.stringMatching(/^RangeError: too much\n {4}at /), leaseOwner: null },
  ])
  expect(run).toMatchObject({ status: 'failed', failureClass: 'quota', error: expect.stringContaining('too much') })
  expect(run.error).not.toContain('steps.test.ts')
})

test('an error that says so is not retried', async () => {
  const { tide } = watched(server)
  let ran = 0
  await expect(
    tide.run('final', (run) =>
      run.step('bad', { retries: 5 }, () => {
        ran++
        throw Object.assign(new Error('no'), { retryable: false })
      }),
    ),
  ).rejects.toThrow('Step "bad" failed: no')
  expect(ran).toBe(1)
})

test('a workflow may catch the failure of a step and go on', async () => {
  const { tide } = watched(server)
  const result = await tide.run('catch', async (run) => {
    const first = await run.step('a', () => Promise.reject(new Error('no'))).catch(() => 'plan B')
    return [first, await run.step('a', () => 'now it works')]
  })
  expect(result).toEqual(['plan B', 'now it works'])
})

test('a step that takes too long is stopped, also when it ignores its signal', async () => {
  const { tide } = watched(server)
  const aborted = signalled()
  let id = ''
  const error = await tide
    .run('late', async (run) => {
      id = run.id
      await run.step('hang', { timeoutMs: 50, retries: 1, backoffMs: 1 }, ({ signal }) => {
        signal.addEventListener('abort', aborted.done)
        return new Promise(() => {})
      })
    })
    .catch((thrown: unknown) => thrown)
  await aborted.promise
  expect(error).toMatchObject({ name: 'StepError', attempts: 2, cause: expect.any(StepTimeoutError) })
  expect((await detail(id)).run).toMatchObject({ failureClass: 'timeout' })
})

test('an output that cannot be recorded fails the step', async () => {
  const { tide } = watched(server)
  let id = ''
  const error = await tide
    .run('unfit', async (run) => {
      id = run.id
      await run.step('big', () => ({ n: 1n }))
    })
    .catch((thrown: unknown) => thrown)
  expect(error).toMatchObject({ name: 'StepError', cause: expect.objectContaining({ code: 'not_json' }) })
  expect((await detail(id)).steps).toMatchObject([{ name: 'big', status: 'failed_retryable' }])

  const huge = tide.run('huge', (run) => run.step('huge', () => 'x'.repeat(5 * 1024 * 1024)))
  await expect(huge).rejects.toMatchObject({ name: 'StepError', cause: { status: 413, code: 'body_too_large' } })
})

test('fanout: bounded, in order, and only what failed runs again', async () => {
  const { tide } = watched(server)
  let id = ''
  let now = 0
  let most = 0
  const ran: number[] = []
  let broken = true
  const workflow = async (run: RunContext) => {
    id = run.id
    return run.fanout(
      'square',
      [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
      async (n, { index, attempt }) => {
        expect(index).toBe(n - 1)
        expect(attempt).toBe(1)
        most = Math.max(most, ++now)
        await delay(10 * (n % 3))
        now--
        ran.push(n)
        if (broken && n % 4 === 0) throw new Error(`no ${n}`)
        return n * n
      },
      { concurrency: 3 },
    )
  }
  const error = await tide.run('squares', workflow).catch((thrown: unknown) => thrown)
  expect(most).toBe(3)
  expect(error).toMatchObject({ name: 'FanoutError', fanout: 'square', message: expect.stringContaining('2 of 10') })
  expect(error).toMatchObject({ results: expect.arrayContaining([{ status: 'fulfilled', value: 81 }]) })
  expect(ran.toSorted((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
  broken = false
  ran.length = 0
  expect(await tide.run('squares', { runId: id }, workflow)).toEqual([1, 4, 9, 16, 25, 36, 49, 64, 81, 100])
  expect(ran.toSorted((a, b) => a - b)).toEqual([4, 8])
  expect((await detail(id)).steps.map(({ name }) => name).toSorted()).toContain('square#10')
})

test('fanout: stopOnError starts nothing more; nothing to do is nothing', async () => {
  const { tide } = watched(server)
  const ran: number[] = []
  const error = await tide
    .run('stops', (run) =>
      run.fanout(
        'x',
        [1, 2, 3, 4, 5],
        (n) => {
          ran.push(n)
          if (n === 2) throw new Error('two')
        },
        { concurrency: 1, stopOnError: true },
      ),
    )
    .catch((thrown: unknown) => thrown)
  expect(ran).toEqual([1, 2])
  expect(error).toMatchObject({ message: expect.stringContaining('two') })
  expect(await tide.run('none', (run) => run.fanout('x', [], () => 1))).toEqual([])
  await expect(tide.run('zero', (run) => run.fanout('x', [1], () => 1, { concurrency: 0 }))).rejects.toThrow(RangeError)
})

test('many steps at once, without a warning', async () => {
  const warnings: Error[] = []
  const note = (warning: Error) => void warnings.push(warning)
  process.on('warning', note)
  const { tide } = watched(server)
  const outputs = await tide.run('wide', (run) =>
    Promise.all(Array.from({ length: 100 }, (_, n) => run.step('n', { each: true }, () => n))),
  )
  expect(outputs).toEqual(Array.from({ length: 100 }, (_, n) => n))
  await delay(10)
  process.off('warning', note)
  expect(warnings).toEqual([])
})

test('a step after the end of its run is refused', async () => {
  const { tide } = watched(server)
  let kept: RunContext | undefined
  await tide.run('over', (run) => {
    kept = run
  })
  expect(kept?.signal.aborted).toBe(true)
  await expect(kept?.step('late', () => 1)).rejects.toMatchObject({ code: 'run_ended' })
  await expect(kept?.step('late', () => 1)).rejects.toBeInstanceOf(TidebaseError)
})
