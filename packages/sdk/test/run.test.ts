// Executions against a real server: who holds a run, what ends it, and what survives lost answers.
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { delay } from '../src/abort.ts'
import { LeaseLostError, newRunId, RunCancelledError, type RunContext, RunLeasedError, Tidebase } from '../src/index.ts'
import { bodyOf, signalled, watched } from './helpers.ts'

const leaseMs = 600
let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer({ leaseMs })
})
afterAll(() => server.stop(500))

const detail = (runId: string) => server.ok('getRun', { params: { runId } })

test('a completed run gives its recorded result without executing', async () => {
  const { tide } = watched(server)
  let ran = 0
  const workflow = (run: RunContext) => ({ id: run.id, ran: ++ran, at: new Date(0) })
  const { id } = await tide.run('once', workflow)
  expect(await tide.run('once', { runId: id }, workflow)).toEqual({ id, ran: 1, at: '1970-01-01T00:00:00.000Z' })
  expect(ran).toBe(1)
})

test('a new run is created and begun by one call; when its answer is lost, or its server only creates, it begins as ever', async () => {
  const watch = watched(server)
  expect(await watch.tide.run('one', () => 1)).toBe(1)
  expect(watch.requests.splice(0)).toEqual(['POST /runs/one', 'POST /runs/:id/complete'])

  let lost = 0
  watch.fault = (request) => (request === 'POST /runs/two' && lost++ === 0 ? 'lost after' : undefined)
  expect(await watch.tide.run('two', (run) => run.id)).toMatch(/^run_/)
  expect(watch.requests.splice(0)).toEqual([
    'POST /runs/two',
    'POST /runs/two',
    'POST /runs/:id/begin',
    'POST /runs/:id/complete',
  ])
  expect((await watch.tide.runs.list({ workflow: 'two' })).runs).toHaveLength(1)

  const older = new Tidebase({
    url: server.url,
    fetch: (url, init) => {
      const { begin: _, ...body } = typeof init.body === 'string' ? JSON.parse(init.body) : {}
      return fetch(url, { ...init, ...(init.body ? { body: JSON.stringify(body) } : {}) })
    },
  })
  expect(await older.run('three', () => 3)).toBe(3)
})

test('a workflow of another name, and a run that is not there', async () => {
  const { tide } = watched(server)
  const { id } = await tide.runs.create('one')
  await expect(tide.run('two', { runId: id }, () => 1)).rejects.toMatchObject({ code: 'workflow_mismatch' })
  expect((await detail(id)).run).toMatchObject({ status: 'pending', attempt: 0 })
  await expect(tide.run('two', { runId: newRunId() }, () => 1)).rejects.toMatchObject({
    name: 'TidebaseError',
    status: 404,
    code: 'run_not_found',
    hint: expect.stringContaining('GET /runs'),
  })
})

test('registered workflows run by name and by handle, with their types', async () => {
  const { tide } = watched(server)
  const double = tide.workflow('double', (_run, input: { n: number }) => input.n * 2)
  const result: number = await tide.run(double, { input: { n: 4 } })
  expect(result).toBe(8)
  expect(await tide.run('double', { input: { n: 5 } })).toBe(10)
})

test('heartbeats keep a run, and its step, for as long as it takes', async () => {
  const { tide, requests } = watched(server)
  const rival = watched(server)
  await tide.run('long', async (run) => {
    await run.step('call', { sideEffects: ['pay'] }, () => delay(leaseMs * 2))
    await expect(rival.tide.run('long', { runId: run.id, leaseWaitMs: 0 }, () => 'stolen')).rejects.toBeInstanceOf(
      RunLeasedError,
    )
  })
  const beats = requests.filter((request) => request.endsWith('/heartbeat')).length
  expect(beats).toBeGreaterThanOrEqual(4)
  expect(beats).toBeLessThanOrEqual(8)
})

test('a run that another worker holds is waited for, and then its result taken', async () => {
  const { tide } = watched(server)
  const rival = watched(server)
  const begun = signalled()
  let id = ''
  const first = tide.run('shared', async (run) => {
    id = run.id
    begun.done()
    await delay(leaseMs)
    return 'first'
  })
  await begun.promise
  expect(await rival.tide.run('shared', { runId: id }, () => 'second')).toBe('first')
  expect(await first).toBe('first')
})

test('cancelling stops the workflow, its step and its waiting', async () => {
  const { tide } = watched(server)
  const stepStopped = signalled()
  const hanging = signalled()
  let id = ''
  let after: unknown
  const outcome = tide.run('cancelled', async (run) => {
    id = run.id
    const step = run.step('hang', ({ signal }) => {
      signal.addEventListener('abort', stepStopped.done)
      hanging.done()
      return new Promise(() => {})
    })
    await step.catch(async () => {
      after = await run.state.set(1).catch((thrown: unknown) => thrown)
    })
  })
  await hanging.promise
  await tide.runs.cancel(id, { reason: 'enough', actor: 'me' })
  await expect(outcome).rejects.toBeInstanceOf(RunCancelledError)
  await stepStopped.promise
  await vi.waitFor(() => expect(after).toBeInstanceOf(RunCancelledError))
  expect((await detail(id)).run).toMatchObject({ status: 'cancelled', cancelReason: 'enough', cancelActor: 'me' })
  await expect(tide.run('cancelled', { runId: id }, () => 1)).rejects.toBeInstanceOf(RunCancelledError)
})

test('a cancelled run is noticed at the next step, and at its end', async () => {
  const { tide } = watched(server)
  await expect(
    tide.run('between', async (run) => {
      await tide.runs.cancel(run.id)
      await run.step('next', () => 1)
    }),
  ).rejects.toBeInstanceOf(RunCancelledError)
  await expect(
    tide.run('last', async (run) => {
      await tide.runs.cancel(run.id)
      return 'done'
    }),
  ).rejects.toBeInstanceOf(RunCancelledError)
})

test('who was taken over stops, and nothing it writes counts', async () => {
  const slow = watched(server)
  const rival = watched(server)
  const taken = signalled()
  const begun = signalled()
  let id = ''
  const outcome = slow.tide.run('fenced', async (run) => {
    id = run.id
    slow.fault = (request) => (request.endsWith('/heartbeat') ? 'lost before' : undefined)
    return run.step('work', async () => {
      begun.done()
      await taken.promise
      return 'slow'
    })
  })
  await begun.promise
  await delay(leaseMs + 100)
  const winner = rival.tide.run('fenced', { runId: id }, (run) =>
    run.step('work', async () => {
      taken.done()
      await delay(200)
      return 'rival'
    }),
  )
  await expect(outcome).rejects.toBeInstanceOf(LeaseLostError)
  expect(await winner).toBe('rival')
  expect((await detail(id)).run).toMatchObject({ status: 'completed', result: 'rival', attempt: 2 })
})

test('a lost heartbeat or two do no harm', async () => {
  const { tide, requests, ...rest } = watched(server)
  const watch = { tide, requests, ...rest }
  let lost = 0
  watch.fault = (request) => (request.endsWith('/heartbeat') && lost++ % 2 === 0 ? 'lost after' : undefined)
  expect(await tide.run('shaky', () => delay(leaseMs * 2))).toBeUndefined()
})

test('a signal ends the attempt and leaves the run free to be resumed at once', async () => {
  const { tide } = watched(server)
  const stop = new AbortController()
  let id = ''
  const outcome = tide.run('stopped', { signal: stop.signal }, async (run) => {
    id = run.id
    await run.step('done', () => 1)
    stop.abort(new Error('ctrl-c'))
    await run.step('never', () => 2)
  })
  await expect(outcome).rejects.toThrow('ctrl-c')
  expect((await detail(id)).run).toMatchObject({ status: 'failed', failureClass: 'aborted', error: 'ctrl-c' })
  expect(await tide.run('stopped', { runId: id, leaseWaitMs: 0 }, (run) => run.step('done', () => 2))).toBe(1)
})

test('a signal that aborts while the run’s first answer is read ends the attempt in the same way', async () => {
  const stop = new AbortController()
  const tide = new Tidebase({
    url: server.url,
    fetch: async (url, init) => {
      const text = await (await fetch(url, init)).text()
      const stopThenRead = async () => {
        stop.abort(new Error('ctrl-c'))
        return text
      }
      return Object.defineProperty(new Response(text), 'text', { value: stopThenRead })
    },
  })
  await expect(tide.run('interrupted', { signal: stop.signal }, () => 1)).rejects.toThrow('ctrl-c')
  const { runs } = await tide.runs.list({ workflow: 'interrupted' })
  expect(runs).toMatchObject([{ status: 'failed', failureClass: 'aborted', error: 'ctrl-c' }])
})

test('every answer may be lost once: everything happens once', async () => {
  const watch = watched(server)
  const seen = new Set<string>()
  watch.fault = (request, init) => {
    const { leaseOwner: _, startedAt: __, ...body } = bodyOf(init)
    const key = `${request} ${JSON.stringify(body)}`
    if (request.startsWith('GET') || seen.has(key)) return undefined
    seen.add(key)
    return 'lost after'
  }
  let id = ''
  const ran: string[] = []
  const result = await watch.tide.run('lossy', { input: { a: 1 } }, async (run) => {
    id = run.id
    await run.step('safe', async () => {
      ran.push('safe')
      await run.usage({ kind: 'llm', inputTokens: 10, costUsd: 0.5 })
    })
    await run.step('unsafe', { sideEffects: ['pay'] }, () => void ran.push('unsafe'))
    await run.step('caught', () => Promise.reject(new Error('no'))).catch(() => ran.push('caught'))
    const { created } = await run.children.create('kid', 'child')
    expect(created).toBe(false)
    return 'end'
  })
  expect(result).toBe('end')
  expect(ran).toEqual(['safe', 'unsafe', 'caught'])
  const { run, steps, usage, childRuns, events } = await detail(id)
  expect(run).toMatchObject({ status: 'completed', attempt: expect.any(Number), usageTotals: { costUsd: 0.5 } })
  expect(steps.map(({ name, status }) => `${name} ${status}`)).toEqual([
    'safe completed',
    'unsafe completed',
    'caught failed_retryable',
  ])
  expect(usage).toHaveLength(1)
  expect(childRuns).toHaveLength(1)
  expect(events.map(({ seq }) => seq)).toEqual(events.map((_, index) => index + 1))
  const { runs } = await watch.tide.runs.list({ workflow: 'lossy' })
  expect(runs).toHaveLength(1)

  const failing = watch.tide.run('lossy-end', (run) => {
    id = run.id
    throw new Error('really')
  })
  await expect(failing).rejects.toThrow('really')
  expect((await detail(id)).run).toMatchObject({ status: 'failed', error: 'really' })

  const enqueued = await watch.tide.enqueue('job', { queue: 'lossy', dedupeKey: 'one' })
  expect(enqueued.deduplicated).toBe(false)
  expect(await watch.tide.enqueue('job', { queue: 'lossy', dedupeKey: 'one' })).toMatchObject({
    deduplicated: true,
    run: { id: enqueued.run.id },
  })
})

test('state, versions, snapshots and usage', async () => {
  const { tide } = watched(server)
  let id = ''
  await tide.run('stateful', async (run) => {
    id = run.id
    expect(await run.state.get()).toBeNull()
    await expect(run.state.save('early')).rejects.toMatchObject({ code: 'state_not_found' })
    expect(await run.state.set({ a: 1, b: 2 }, { reason: 'start' })).toMatchObject({ version: 1 })
    expect(await run.state.patch({ b: 3 })).toMatchObject({ version: 2, value: { a: 1, b: 3 } })
    await run.state.set('elsewhere', { stream: 'notes' })
    expect(await run.state.get<{ a: number }>()).toEqual({ a: 1, b: 3 })
    expect(await run.state.get('notes')).toBe('elsewhere')
    expect(await run.state.save('good', { metadata: { by: 'me' } })).toMatchObject({ label: 'good', version: 3 })
    expect(await run.state.versions({ stream: 'run' })).toHaveLength(3)
    expect(await run.state.versions({ labeled: true })).toMatchObject([{ label: 'good', importance: 'milestone' }])
    await run.snapshots.create('draft', { target: { type: 'report', id: '7' }, state: { text: 'x' } })
    expect(await run.snapshots.list()).toMatchObject([{ label: 'draft', value: { text: 'x' } }, { label: 'good' }])
    expect(await run.usage({ inputTokens: 2, outputTokens: 3 })).toMatchObject({ totalTokens: 5, kind: 'custom' })
  })
  expect((await detail(id)).run.usageTotals).toMatchObject({ totalTokens: 5 })
})

test('a gate waits for its decision', async () => {
  const { tide, requests } = watched(server)
  let id = ''
  const begun = signalled()
  const outcome = tide.run('asks', async (run) => {
    id = run.id
    begun.done()
    return run.gate<{ note: string }>('send', 'Send it?', { data: { to: 'you' } })
  })
  await begun.promise
  await delay(leaseMs * 1.5)
  const { gates } = await tide.runs.get(id, { include: ['gates'] })
  expect(gates).toMatchObject([{ name: 'send', prompt: 'Send it?', data: { to: 'you' }, status: 'pending' }])
  await tide.runs.resolveGate(id, gates[0]?.id ?? '', {
    decision: 'approved',
    actor: 'ann',
    payload: { note: 'fine' },
  })
  expect(await outcome).toMatchObject({
    decision: 'approved',
    approved: true,
    actor: 'ann',
    payload: { note: 'fine' },
  })
  expect(requests.filter((request) => request.startsWith('GET'))).toHaveLength(2)
  await expect(tide.runs.resolveGate(id, gates[0]?.id ?? '', { decision: 'rejected' })).rejects.toMatchObject({
    code: 'gate_resolved',
  })
})

test('a gate that nobody answers is decided by the server; one of a cancelled run throws', async () => {
  const { tide } = watched(server)
  expect(await tide.run('timeout', (run) => run.gate('soon', 'Soon?', { timeoutMs: 50 }))).toMatchObject({
    decision: 'canceled',
    approved: false,
    actor: 'timeout',
  })
  let id = ''
  const asked = signalled()
  const waiting = tide.run('gone', async (run) => {
    id = run.id
    await run.gates.begin('never', 'Never?')
    asked.done()
    return run.gate('never')
  })
  await asked.promise
  await tide.runs.cancel(id)
  await expect(waiting).rejects.toBeInstanceOf(RunCancelledError)
})

test('a result that cannot be recorded fails the run; a lease must have a name', async () => {
  const { tide } = watched(server)
  let id = ''
  const outcome = tide.run('big', (run) => {
    id = run.id
    return { n: 1n }
  })
  await expect(outcome).rejects.toMatchObject({ code: 'not_json' })
  expect((await detail(id)).run).toMatchObject({ status: 'failed', error: expect.stringContaining('not JSON') })
  await expect(tide.run('named', { leaseOwner: 'a\nb' }, () => 1)).rejects.toMatchObject({
    code: 'invalid_lease_owner',
  })
  await tide.run('named', { leaseOwner: 'agent 7' }, async (run) => {
    expect((await detail(run.id)).run.leaseOwner).toBe('agent 7')
  })
})
