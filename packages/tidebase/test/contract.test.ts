import { type ReplyOf, type Route, type RouteName, type Routes, routes } from '@tidebase/wire'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { anyRequest } from '../../../test/any-request.ts'
import { startServer } from '../../../test/server.ts'
import committed from '../../wire/openapi.json' with { type: 'json' }

// Rows of the contract, one by one. Every reply goes through the schema of its route (see test/server.ts).
// One long file in the contract's order, on one server: to be read beside it, row for row.

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer({ leaseMs: 60_000 })
})
afterAll(() => server.stop())

type Run = ReplyOf<Routes['createRun']>['run']

const create = async (body: object = {}, workflowName = 'w'): Promise<Run> =>
  (await server.ok('createRun', { params: { workflowName }, body })).run
const begin = (runId: string, worker = 'w1') =>
  server.ok('beginRun', { params: { runId }, headers: { 'x-tidebase-worker': worker } })
const begun = async (body: object = {}) => {
  const run = await create(body)
  await begin(run.id)
  return run
}
const detail = (runId: string) => server.ok('getRun', { params: { runId } })
const eventTypes = async (runId: string) => (await detail(runId)).events.map(({ type }) => type)
const hash = 'a'.repeat(64)
const beginStep = (runId: string, name: string, leaseOwner = 'w1', more: object = {}) =>
  server.ok('beginStep', { params: { runId }, body: { name, inputHash: hash, leaseOwner, ...more } })
const executed = async (runId: string, name: string, leaseOwner = 'w1', more: object = {}) => {
  const reply = await beginStep(runId, name, leaseOwner, more)
  if (reply.action !== 'execute') throw new Error(`the step was ${reply.action}`)
  return reply.step
}
const expire = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

describe('runs', () => {
  test('a new run has every field of the contract, absent ones as null', async () => {
    const run = await create()
    expect(run).toEqual({
      id: expect.stringMatching(/^run_[0-9a-f]{32}$/),
      workflowName: 'w',
      input: {},
      metadata: {},
      status: 'pending',
      result: null,
      error: null,
      recoveryWebhook: null,
      leaseOwner: null,
      leaseExpiresAt: null,
      attempt: 0,
      queue: null,
      dedupeKey: null,
      concurrencyKey: null,
      budget: null,
      priority: 0,
      runAt: null,
      maxAttempts: 1,
      deadlineAt: null,
      cancelRequestedAt: null,
      cancelledAt: null,
      cancelReason: null,
      cancelActor: null,
      failureClass: null,
      usageTotals: { inputTokens: 0, outputTokens: 0, totalTokens: 0, costUsd: 0 },
      createdAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      updatedAt: expect.any(String),
      completedAt: null,
    })
  })

  test('null counts as absent and unknown fields are ignored', async () => {
    const body = { input: null, metadata: null, recoveryWebhook: null, channels: null, somethingElse: 1 }
    expect(await create(body)).toMatchObject({ input: {}, metadata: {}, recoveryWebhook: null })
  })

  test('a run made with an id is made once, and the id cannot be used for another workflow', async () => {
    const id = `run_${'5'.repeat(32)}`
    const first = await create({ id, input: 1 })
    expect(await create({ id, input: 1 })).toEqual(first)
    expect(await server.send('createRun', { params: { workflowName: 'other' }, body: { id } })).toMatchObject({
      status: 409,
      body: { code: 'run_conflict' },
    })
  })

  test('begin takes the lease and counts an attempt; its owner may begin again, another may not', async () => {
    const run = await create()
    const first = await begin(run.id)
    expect(first).toMatchObject({ leaseOwner: 'w1', run: { status: 'running', leaseOwner: 'w1', attempt: 1 } })
    expect((await begin(run.id)).run.attempt).toBe(2)
    expect(await server.send('beginRun', { params: { runId: run.id } })).toMatchObject({
      status: 409,
      body: { error: 'run is leased', code: 'run_leased', leaseOwner: 'w1' },
    })
    const { events } = await detail(run.id)
    expect(events.map(({ seq, type }) => [seq, type])).toEqual([
      [1, 'run.created'],
      [2, 'run.started'],
      [3, 'run.started'],
    ])
    expect(events[1]?.payload).toMatchObject({ leaseOwner: 'w1' })
  })

  test('begin without a name gets one from the server', async () => {
    const run = await create()
    const { leaseOwner } = await server.ok('beginRun', { params: { runId: run.id } })
    expect(leaseOwner).toBeTruthy()
  })

  test('a run begun as it is created is the run that create and begin make; a repetition only shows it', async () => {
    const id = `run_${'b'.repeat(32)}`
    const call = () =>
      server.ok('createRun', { params: { workflowName: 'w' }, body: { id, begin: { leaseOwner: 'w1' } } })
    const { run, leaseOwner } = await call()
    expect(leaseOwner).toBe('w1')
    const apart = await begin((await create()).id)
    const same = ({ id: _, leaseExpiresAt, createdAt: __, updatedAt: ___, ...rest }: Run) => ({
      ...rest,
      leased: leaseExpiresAt !== null,
    })
    expect(same(run)).toEqual(same(apart.run))
    const told = async (runId: string) =>
      (await detail(runId)).events.map(({ seq, type, payload }) => ({ seq, type, payload }))
    expect(await told(id)).toEqual(await told(apart.run.id))
    await executed(id, 'a')
    const again = await call()
    expect(again.leaseOwner).toBeUndefined()
    expect(again.run).toMatchObject({ id, status: 'running', attempt: 1 })
    await server.ok('completeRun', { params: { runId: id }, body: { leaseOwner: 'w1' } })
  })

  test('a completed run answers begin with itself, a cancelled one with 409', async () => {
    const done = await begun()
    await server.ok('completeRun', { params: { runId: done.id }, body: { result: { ok: 1 } } })
    expect((await begin(done.id)).run).toMatchObject({ status: 'completed', result: { ok: 1 }, attempt: 1 })
    const gone = await begun()
    await server.ok('cancelRun', { params: { runId: gone.id }, body: { reason: 'no', actor: 'me' } })
    expect(await server.send('beginRun', { params: { runId: gone.id } })).toMatchObject({
      status: 409,
      body: { code: 'run_cancelled' },
    })
  })

  test('a failed run may be begun again', async () => {
    const run = await begun()
    const failed = await server.ok('failRun', {
      params: { runId: run.id },
      body: { error: 'boom', failureClass: 'bug', leaseOwner: 'w1' },
    })
    expect(failed).toMatchObject({ requeued: false, run: { status: 'failed', error: 'boom', failureClass: 'bug' } })
    expect((await begin(run.id, 'w2')).run).toMatchObject({ status: 'running', error: null, attempt: 2 })
    expect(await eventTypes(run.id)).toEqual(['run.created', 'run.started', 'run.failed', 'run.started'])
  })

  test('complete and fail are fenced by the lease owner, and repeating them changes nothing', async () => {
    const run = await begun()
    const complete = (leaseOwner?: string) =>
      server.send('completeRun', { params: { runId: run.id }, body: { result: 1, leaseOwner } })
    expect(await complete('w2')).toMatchObject({ status: 409, body: { code: 'lease_lost' } })
    const first = await complete('w1')
    expect(first).toMatchObject({ status: 200, body: { run: { status: 'completed', leaseOwner: null } } })
    expect((await complete('w1')).body).toEqual(first.body)
    expect((await complete()).body).toEqual(first.body)
    expect(await complete('w2')).toMatchObject({ status: 409, body: { code: 'lease_lost' } })
    const failed = await server.send('failRun', {
      params: { runId: run.id },
      body: { error: 'late', leaseOwner: 'w2' },
    })
    expect(failed).toMatchObject({ status: 409 })
  })

  test('an old client completes and fails without a lease owner', async () => {
    const run = await create()
    expect(await server.ok('completeRun', { params: { runId: run.id }, body: { result: [1] } })).toMatchObject({
      run: { status: 'completed', result: [1] },
    })
  })

  test('who asks for a brief answer to a completion gets the status alone', async () => {
    const run = await begun()
    const end = () => ({ params: { runId: run.id }, body: { result: 1, leaseOwner: 'w1', brief: true } })
    expect(await server.ok('completeRun', end())).toEqual({ status: 'completed' })
    expect(await server.ok('completeRun', end())).toEqual({ status: 'completed' })
    expect((await detail(run.id)).run).toMatchObject({ status: 'completed', result: 1 })
    const stopped = await begun()
    await server.ok('cancelRun', { params: { runId: stopped.id }, body: {} })
    const late = { params: { runId: stopped.id }, body: { leaseOwner: 'w1', brief: true } }
    expect(await server.ok('completeRun', late)).toEqual({ status: 'cancelled' })
  })

  test('cancel is for good and idempotent; a completed run cannot be cancelled', async () => {
    const run = await begun()
    const cancel = () => server.ok('cancelRun', { params: { runId: run.id }, body: { reason: 'r', actor: 'a' } })
    const first = (await cancel()).run
    expect(first).toMatchObject({ status: 'cancelled', cancelReason: 'r', cancelActor: 'a', leaseOwner: null })
    expect((await cancel()).run).toEqual(first)
    const late = { params: { runId: run.id }, body: { result: 1, leaseOwner: 'w1' } }
    expect(await server.ok('completeRun', late)).toEqual({ run: first })
    const failing = { params: { runId: run.id }, body: { error: 'x', leaseOwner: 'w1' } }
    expect(await server.ok('failRun', failing)).toEqual({ run: first, requeued: false })
    expect(await server.send('heartbeatRun', { params: { runId: run.id }, body: { leaseOwner: 'w1' } })).toMatchObject({
      status: 409,
      body: { code: 'run_cancelled' },
    })
    const done = await begun()
    await server.ok('completeRun', { params: { runId: done.id }, body: {} })
    expect(await server.send('cancelRun', { params: { runId: done.id }, body: {} })).toMatchObject({ status: 409 })
  })

  test('a heartbeat extends the lease without an event or an attempt; only its owner may', async () => {
    const run = await begun()
    await server.ok('heartbeatRun', { params: { runId: run.id }, body: { leaseOwner: 'w1' } })
    expect((await detail(run.id)).run.attempt).toBe(1)
    expect(await eventTypes(run.id)).toEqual(['run.created', 'run.started'])
    expect(await server.send('heartbeatRun', { params: { runId: run.id }, body: { leaseOwner: 'w2' } })).toMatchObject({
      status: 409,
      body: { code: 'lease_lost' },
    })
  })

  test('unknown and malformed ids are 404 on every route of a run', async () => {
    for (const runId of [`run_${'0'.repeat(32)}`, 'run_x', 'x']) {
      for (const name of Object.keys(routes) as RouteName[]) {
        const route: Route = routes[name]
        if (!route.path.includes(':runId') || route.keyless) continue
        const reply = await server.send(name, anyRequest(name, { runId }))
        expect({ name, status: reply.status, code: reply.body.code }).toEqual({
          name,
          status: 404,
          code: 'run_not_found',
        })
      }
    }
  })

  test('lists filter, search and page without gaps or repetitions', async () => {
    const mine: string[] = []
    for (let n = 0; n < 7; n++) mine.unshift((await create({ metadata: { batch: 'list', n } }, `List-${n % 2}`)).id)
    const ids = async (query: Record<string, string | number>) =>
      (await server.ok('listRuns', { query: { 'metadata.batch': 'list', ...query } })).runs.map(({ id }) => id)
    expect(await ids({})).toEqual(mine)
    expect(await ids({ workflow: 'List-0' })).toEqual(mine.filter((_, n) => n % 2 === 0))
    expect(await ids({ search: 'list-1' })).toEqual(mine.filter((_, n) => n % 2 === 1))
    expect(await ids({ 'metadata.n': 3 })).toEqual([mine[3]])
    expect(await ids({ status: 'completed' })).toEqual([])
    expect(await ids({ search: mine[2] ?? '' })).toEqual([mine[2]])
    expect(await ids({ after: mine[3] ?? '' })).toEqual(mine.slice(0, 3))
    const paged: string[] = []
    let before: string | null = null
    do {
      const query: Record<string, string | number> = { 'metadata.batch': 'list', limit: 3 }
      const page: ReplyOf<Routes['listRuns']> = await server.ok('listRuns', {
        query: before ? { ...query, before } : query,
      })
      paged.push(...page.runs.map(({ id }) => id))
      before = page.nextCursor
      // A run that comes in between belongs before the first page.
      await create({ metadata: { batch: 'list-later' } })
    } while (before)
    expect(paged).toEqual(mine)
    const wrong: Record<string, string | number>[] = [{ limit: 501 }, { limit: 0 }, { status: 'nope' }, { before: 'x' }]
    for (const query of wrong) {
      expect(await server.send('listRuns', { query })).toMatchObject({
        status: 400,
        body: { code: 'invalid_query', issues: [{ path: Object.keys(query)[0] }] },
      })
    }
  })

  test('a run’s history can be trimmed and its events paged', async () => {
    const run = await begun()
    for (let n = 0; n < 5; n++) await server.ok('setState', { params: { runId: run.id }, body: { value: n } })
    const trimmed = await server.ok('getRun', {
      params: { runId: run.id },
      query: { include: 'events', eventsLimit: 3 },
    })
    expect(trimmed).toMatchObject({ steps: [], stateVersions: [], state: null, nextEventsAfter: 3 })
    const rest = await server.ok('getRun', { params: { runId: run.id }, query: { eventsAfter: 3 } })
    expect([...trimmed.events, ...rest.events].map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5, 6, 7])
    expect(await server.send('getRun', { params: { runId: run.id }, query: { include: 'nope' } })).toMatchObject({
      status: 400,
      body: { issues: [{ path: 'include' }] },
    })
  })
})

describe('steps', () => {
  test('execute, complete, return: the recorded output is what every later begin gets', async () => {
    const run = await begun()
    const options = { sideEffects: ['read'], credentials: ['key'] }
    const reply = await beginStep(run.id, 's', 'w1', { input: { a: 1 }, options })
    expect(reply).toMatchObject({
      action: 'execute',
      leaseOwner: 'w1',
      step: {
        name: 's',
        inputHash: hash,
        input: { a: 1 },
        status: 'running',
        attempt: 1,
        output: null,
        completedAt: null,
        resumeContract: {
          sideEffects: ['read'],
          idempotencyKey: null,
          replay: null,
          checkpointInvariant: null,
          verifiedBy: null,
          credentials: ['key'],
        },
      },
    })
    if (reply.action !== 'execute') return
    const done = await server.ok('completeStep', {
      params: { runId: run.id, stepId: reply.step.id },
      body: { leaseOwner: 'w1', output: { x: [1, null] } },
    })
    expect(done.step).toMatchObject({ status: 'completed', output: { x: [1, null] }, leaseOwner: null })
    expect(await beginStep(run.id, 's', 'w9')).toMatchObject({ action: 'return', output: { x: [1, null] } })
    expect(await eventTypes(run.id)).toEqual(['run.created', 'run.started', 'step.started', 'step.completed'])
  })

  test('another live lease locks, the owner may begin again, another input is a mismatch', async () => {
    const run = await begun()
    await executed(run.id, 's')
    expect(await beginStep(run.id, 's', 'w2')).toMatchObject({ action: 'locked', step: { leaseOwner: 'w1' } })
    expect(await beginStep(run.id, 's', 'w1')).toMatchObject({ action: 'execute', step: { attempt: 2 } })
    expect(await beginStep(run.id, 's', 'w1', { inputHash: 'b' })).toMatchObject({
      action: 'input_mismatch',
      expectedInputHash: hash,
      actualInputHash: 'b',
    })
  })

  test('an expired step lease is taken over; the first owner’s writes are refused', async () => {
    const short = await startServer({ databaseUrl: server.databaseUrl, leaseMs: 100, reconciler: false })
    try {
      const run = await begun()
      const params = { runId: run.id }
      const first = await short.ok('beginStep', { params, body: { name: 's', inputHash: hash, leaseOwner: 'w1' } })
      await expire(120)
      expect(await beginStep(run.id, 's', 'w2')).toMatchObject({ action: 'execute', step: { attempt: 2 } })
      const stepId = first.action === 'execute' ? first.step.id : ''
      for (const name of ['completeStep', 'failStep'] as const) {
        const body = { leaseOwner: 'w1', output: 1, error: 'e' }
        expect(await server.send(name, { params: { ...params, stepId }, body })).toMatchObject({
          status: 409,
          body: { code: 'lease_lost' },
        })
      }
    } finally {
      await short.stop()
    }
  })

  test.each([
    [{ retryable: true }, 'failed_retryable'],
    [{ resumeDecision: 'auto_retry' }, 'failed_retryable'],
    [{ resumeDecision: 'manual_review' }, 'manual_review'],
    [{ resumeDecision: 'fail_hard' }, 'failed'],
    [{}, 'failed'],
  ])('failing with %j makes the step %s and frees it', async (body, status) => {
    const run = await begun()
    const step = await executed(run.id, 's')
    const params = { runId: run.id, stepId: step.id }
    const failed = await server.ok('failStep', { params, body: { leaseOwner: 'w1', error: 'boom', ...body } })
    expect(failed.step).toMatchObject({ status, error: 'boom', leaseOwner: null })
    expect(await beginStep(run.id, 's', 'w2')).toMatchObject({ action: 'execute', step: { attempt: 2, error: null } })
    expect(await eventTypes(run.id)).toContain('step.failed')
  })

  test.each([
    '\n    at save (flow.ts:1:2)',
    '\nTraceback (most recent call last):\n  File "f.py"',
    '\nCaused by: rain',
  ])('a stack is recorded of the step, and is not in its event: %j', async (stack) => {
    const run = await begun()
    const step = await executed(run.id, 's')
    const params = { runId: run.id, stepId: step.id }
    const error = `boom\nat noon${stack}`
    const failed = await server.ok('failStep', { params, body: { leaseOwner: 'w1', error } })
    expect(failed.step.error).toBe(error)
    const { events } = await server.ok('getRun', { params: { runId: run.id } })
    const event = events.find(({ type }) => type === 'step.failed')
    expect(event?.payload).toMatchObject({ error: 'boom\nat noon' })
  })

  test.each([
    [
      { sideEffect: 'write', onAmbiguousFailure: 'retry' },
      { sideEffects: ['write'], replay: 'auto' },
    ],
    [
      { sideEffect: 'none', onAmbiguousFailure: 'review' },
      { sideEffects: [], replay: 'manual' },
    ],
    [{ onAmbiguousFailure: 'fail' }, { sideEffects: [], replay: 'never' }],
  ])('the older spelling %j is read', async (options, contract) => {
    const run = await begun()
    expect(await beginStep(run.id, 's', 'w1', { options })).toMatchObject({ step: { resumeContract: contract } })
  })

  test('a cancelled run answers begin with cancelled, and refuses completions', async () => {
    const run = await begun()
    const step = await executed(run.id, 's')
    await server.ok('cancelRun', { params: { runId: run.id }, body: {} })
    expect(await beginStep(run.id, 't')).toEqual({ action: 'cancelled' })
    const late = { params: { runId: run.id, stepId: step.id }, body: { leaseOwner: 'w1', output: 1 } }
    expect(await server.send('completeStep', late)).toMatchObject({ status: 409, body: { code: 'run_cancelled' } })
  })

  test('record begins and completes in one call under the run’s lease; what was recorded first wins', async () => {
    const run = await begun()
    const record = (leaseOwner: string, more: object = {}) =>
      server.send('recordStep', {
        params: { runId: run.id },
        body: { name: 's', inputHash: hash, leaseOwner, ...more },
      })
    expect(await record('w2', { output: 0 })).toMatchObject({ status: 409, body: { code: 'lease_lost' } })
    expect(await record('w1', { output: 1 })).toMatchObject({ status: 200, body: { action: 'recorded' } })
    // The same again, after a lost reply.
    expect(await record('w1', { output: 1 })).toMatchObject({ body: { action: 'recorded' } })
    expect(await record('w2', { output: 2 })).toMatchObject({ body: { action: 'return', output: 1 } })
    expect(await record('w1', { inputHash: 'x' })).toMatchObject({ body: { action: 'input_mismatch' } })
    expect(await eventTypes(run.id)).toEqual(['run.created', 'run.started', 'step.started', 'step.completed'])
    const { checkpoints } = await server.ok('beginRun', {
      params: { runId: run.id },
      query: { include: 'checkpoints' },
      headers: { 'x-tidebase-worker': 'w1' },
    })
    expect(checkpoints).toMatchObject([{ name: 's', inputHash: hash, output: 1 }])
    await server.ok('cancelRun', { params: { runId: run.id }, body: {} })
    expect(await record('w1', { name: 't' })).toMatchObject({ status: 200, body: { action: 'cancelled' } })
  })

  test('a step begun by a note and finished by record has one start and one end', async () => {
    const run = await begun()
    await executed(run.id, 's')
    await server.ok('recordStep', {
      params: { runId: run.id },
      body: { name: 's', inputHash: hash, leaseOwner: 'w1', output: 5 },
    })
    expect(await eventTypes(run.id)).toEqual(['run.created', 'run.started', 'step.started', 'step.completed'])
  })
})

describe('state', () => {
  test('versions rise by one per stream, and one stream does not disturb another', async () => {
    const run = await begun()
    const params = { runId: run.id }
    await server.ok('setState', { params, body: { value: { a: 1, b: 1 } } })
    expect((await server.ok('patchState', { params, body: { value: { b: 2 }, label: 'L' } })).state).toMatchObject({
      runId: run.id,
      value: { a: 1, b: 2 },
      version: 2,
    })
    expect((await server.ok('setState', { params, body: { value: 7, stream: 'ui' } })).state.version).toBe(1)
    expect((await server.ok('saveState', { params, body: { label: 'saved' } })).stateVersion).toMatchObject({
      version: 3,
      value: { a: 1, b: 2 },
      label: 'saved',
      importance: 'milestone',
    })
    const { state, stateStreams } = await detail(run.id)
    expect(state).toMatchObject({ value: { a: 1, b: 2 }, version: 3 })
    expect(stateStreams.map(({ name, currentVersion }) => [name, currentVersion])).toEqual([
      ['run', 3],
      ['ui', 1],
    ])
    const versions = (query: Record<string, string>) => server.ok('listStateVersions', { params, query })
    expect((await versions({})).stateVersions.map(({ version }) => version)).toEqual([1, 2, 3, 1])
    expect((await versions({ stream: 'run', labeled: 'true' })).stateVersions.map(({ label }) => label)).toEqual([
      'L',
      'saved',
    ])
    expect(await server.send('saveState', { params, body: { label: 'x', stream: 'none' } })).toMatchObject({
      status: 404,
      body: { code: 'state_not_found' },
    })
  })

  test('snapshots are labelled versions of a target, newest first', async () => {
    const run = await begun()
    const params = { runId: run.id }
    const target = { type: 'file', id: 'a.txt' }
    await server.ok('createSnapshot', { params, body: { label: 'one', state: 1, target } })
    const { snapshot } = await server.ok('createSnapshot', { params, body: { label: 'two', state: 2, target } })
    expect(snapshot).toMatchObject({ version: 2, value: 2, label: 'two' })
    await server.ok('createSnapshot', { params, body: { label: 'own', state: 3 } })
    const { snapshots } = await server.ok('listSnapshots', { params })
    expect(snapshots.map(({ label }) => label)).toEqual(['own', 'two', 'one'])
    const { stateStreams } = await detail(run.id)
    expect(stateStreams.map(({ name }) => name)).toEqual(['file:a.txt', `run:${run.id}`])
    expect(await eventTypes(run.id)).toContain('snapshot.created')
  })
})

describe('gates', () => {
  test('a gate is one question by name, decided once with its token', async () => {
    const run = await begun()
    const params = { runId: run.id }
    const open = () => server.ok('beginGate', { params, body: { name: 'g', prompt: 'ok?', data: { a: 1 } } })
    const first = await open()
    expect(first).toMatchObject({
      action: 'wait',
      gate: { name: 'g', prompt: 'ok?', data: { a: 1 }, status: 'pending', decision: null, resolvedAt: null },
    })
    expect(await open()).toEqual(first)
    const resolve = (body: object) =>
      server.send('resolveGate', {
        params: { ...params, gateId: first.gate.id },
        body: { decision: 'approved', ...body },
      })
    expect(await resolve({ token: 'wrong' })).toMatchObject({ status: 409, body: { code: 'gate_token' } })
    const decided = await resolve({ token: first.gate.resolveToken, actor: 'ada', payload: { note: 1 } })
    expect(decided).toMatchObject({
      status: 200,
      body: { gate: { status: 'approved', decision: 'approved', actor: 'ada', decisionPayload: { note: 1 } } },
    })
    expect(await resolve({ token: first.gate.resolveToken })).toMatchObject({
      status: 409,
      body: { code: 'gate_resolved' },
    })
    expect(await open()).toMatchObject({ action: 'return', gate: { status: 'approved' } })
    expect(await server.ok('getGate', { params: { ...params, gateId: first.gate.id } })).toMatchObject({
      gate: { status: 'approved' },
      runStatus: 'running',
    })
    expect(await eventTypes(run.id)).toEqual(['run.created', 'run.started', 'gate.created', 'gate.resolved'])
  })

  test('a waiting reader is answered when the gate is decided, and when the run is cancelled', async () => {
    for (const end of ['resolve', 'cancel']) {
      const run = await begun()
      const params = { runId: run.id }
      const { gate } = await server.ok('beginGate', { params, body: { name: 'g', prompt: 'ok?' } })
      const waiting = server.ok('getGate', { params: { ...params, gateId: gate.id }, query: { waitMs: 20_000 } })
      if (end === 'resolve') {
        await server.ok('resolveGate', { params: { ...params, gateId: gate.id }, body: { decision: 'rejected' } })
        expect(await waiting).toMatchObject({ gate: { decision: 'rejected' } })
      } else {
        await server.ok('cancelRun', { params, body: {} })
        expect(await waiting).toMatchObject({ runStatus: 'cancelled', gate: { status: 'pending' } })
      }
    }
  })

  test('the server decides a gate whose time is up', async () => {
    const run = await begun()
    const { gate } = await server.ok('beginGate', {
      params: { runId: run.id },
      body: { name: 'g', prompt: 'ok?', timeoutMs: 50, onTimeout: 'rejected' },
    })
    const decided = await server.ok('getGate', {
      params: { runId: run.id, gateId: gate.id },
      query: { waitMs: 20_000 },
    })
    expect(decided.gate).toMatchObject({ status: 'rejected', actor: 'timeout' })
  })
})

describe('children and usage', () => {
  test('a child is made once per name and knows its parent', async () => {
    const run = await begun()
    const spawn = () =>
      server.ok('createChild', {
        params: { runId: run.id },
        body: { name: 'c', workflowName: 'kid', input: 3, metadata: { x: 1 }, edgeMetadata: { y: 2 } },
      })
    const first = await spawn()
    expect(first).toMatchObject({
      created: true,
      run: {
        workflowName: 'kid',
        input: 3,
        status: 'pending',
        metadata: { x: 1, parentRunId: run.id, parentEdgeName: 'c' },
      },
      edge: { parentRunId: run.id, childRunId: first.run.id, name: 'c', metadata: { y: 2 } },
    })
    expect(await spawn()).toMatchObject({ created: false, run: { id: first.run.id }, edge: { id: first.edge.id } })
    const parent = await detail(run.id)
    expect(parent.childRuns.map(({ id }) => id)).toEqual([first.run.id])
    expect(parent.runEdges).toHaveLength(1)
    expect(await eventTypes(run.id)).toContain('run.child.created')
    expect(await eventTypes(first.run.id)).toEqual(['run.created'])
  })

  test('the ledger adds up, and an entry with an id counts once', async () => {
    const run = await begun()
    const record = (body: object) => server.ok('recordUsage', { params: { runId: run.id }, body })
    const { usage } = await record({ model: 'm', inputTokens: 5, outputTokens: 6, costUsd: 0.1 })
    expect(usage).toMatchObject({ kind: 'custom', totalTokens: 11, costUsd: 0.1, provider: null })
    const id = `use_${'7'.repeat(32)}`
    await record({ id, kind: 'llm', totalTokens: 4, costUsd: 0.2 })
    expect((await record({ id, kind: 'llm', totalTokens: 4, costUsd: 0.2 })).usage.id).toBe(id)
    await record({ kind: 'file', quantity: 2.5, unit: 'MB' })
    const after = await detail(run.id)
    expect(after.usage).toHaveLength(3)
    expect(after.run.usageTotals).toEqual({ inputTokens: 5, outputTokens: 6, totalTokens: 15, costUsd: 0.3 })
  })
})

describe('queues', () => {
  const enqueue = (queue: string, body: object = {}) =>
    server.ok('enqueue', { params: { queue }, body: { workflowName: 'job', ...body } })
  const claim = (queues: string[], more: object = {}) =>
    server.ok('claim', { body: { queues, leaseOwner: 'w1', limit: 100, ...more } })

  test('claims go by priority and then by time, lease the runs and count an attempt, once with begin', async () => {
    await enqueue('order', { input: 'second' })
    await enqueue('order', { input: 'third' })
    await enqueue('order', { input: 'first', priority: 5 })
    await enqueue('order', { input: 'later', delayMs: 60_000, priority: 9 })
    const { runs, leaseOwner } = await claim(['order'])
    expect(leaseOwner).toBe('w1')
    expect(runs.map(({ input }) => input)).toEqual(['first', 'second', 'third'])
    expect(runs[0]).toMatchObject({ status: 'running', leaseOwner: 'w1', attempt: 1, queue: 'order' })
    expect((await begin(runs[0]?.id ?? '')).run.attempt).toBe(1)
    expect(await eventTypes(runs[0]?.id ?? '')).toEqual(['run.enqueued', 'run.claimed', 'run.started'])
    expect((await claim(['order'])).runs).toEqual([])
  })

  test('an active dedupe key gives the run that holds it; a finished one frees it', async () => {
    const first = await enqueue('dedupe', { dedupeKey: 'k' })
    expect(first.deduplicated).toBe(false)
    expect(await enqueue('dedupe', { dedupeKey: 'k' })).toEqual({ ...first, deduplicated: true })
    await claim(['dedupe'])
    expect((await enqueue('dedupe', { dedupeKey: 'k' })).deduplicated).toBe(true)
    await server.ok('completeRun', { params: { runId: first.run.id }, body: { leaseOwner: 'w1' } })
    expect((await enqueue('dedupe', { dedupeKey: 'k' })).deduplicated).toBe(false)
  })

  test('a failed attempt comes back with backoff until the attempts are used up', async () => {
    const { run } = await enqueue('retry', { maxAttempts: 2 })
    await claim(['retry'])
    const fail = () => server.ok('failRun', { params: { runId: run.id }, body: { error: 'x', leaseOwner: 'w1' } })
    const first = await fail()
    expect(first).toMatchObject({ requeued: true, run: { status: 'queued', attempt: 1, leaseOwner: null } })
    const wait = Date.parse(first.run.runAt ?? '') - Date.parse(first.run.updatedAt)
    expect(wait).toBe(5_000)
    expect(await fail()).toEqual(first)
    await begin(run.id)
    expect(await fail()).toMatchObject({ requeued: false, run: { status: 'failed', failureClass: 'max_retries' } })
    const types = await eventTypes(run.id)
    expect(types.filter((type) => type === 'run.requeued' || type === 'run.failed')).toEqual([
      'run.requeued',
      'run.failed',
    ])
  })

  test('counts and configuration: absent fields stay, null clears', async () => {
    const configure = (body: object) => server.ok('configureQueue', { params: { queue: 'conf' }, body })
    await configure({ concurrency: 2, ratePerMinute: 100 })
    expect((await configure({ ratePerMinute: 50 })).config).toMatchObject({ concurrency: 2, ratePerMinute: 50 })
    expect((await configure({ concurrency: null })).config).toMatchObject({ concurrency: null, ratePerMinute: 50 })
    for (let n = 0; n < 4; n++) await enqueue('conf')
    const { runs } = await claim(['conf'], { limit: 3 })
    await server.ok('completeRun', { params: { runId: runs[0]?.id ?? '' }, body: {} })
    await server.ok('failRun', { params: { runId: runs[1]?.id ?? '' }, body: { error: 'x' } })
    await server.ok('cancelRun', { params: { runId: runs[2]?.id ?? '' }, body: {} })
    const { queues } = await server.ok('listQueues')
    expect(queues.find(({ name }) => name === 'conf')).toMatchObject({
      queued: 1,
      running: 0,
      failed: 1,
      completed: 1,
      cancelled: 1,
      config: { concurrency: null, ratePerMinute: 50, invokeUrl: null },
    })
    await configure({ concurrency: 9 })
    expect((await server.ok('listQueues')).queues.map(({ name }) => name)).toContain('conf')
  })

  test('a rate cap holds over claims', async () => {
    await server.ok('configureQueue', { params: { queue: 'rate' }, body: { ratePerMinute: 3 } })
    for (let n = 0; n < 6; n++) await enqueue('rate')
    expect((await claim(['rate'], { limit: 2 })).runs).toHaveLength(2)
    expect((await claim(['rate'])).runs).toHaveLength(1)
    expect((await claim(['rate'])).runs).toHaveLength(0)
  })

  test('a claim that waits for a delayed job sleeps until then, also where the server’s clock is an hour off', async () => {
    const query = vi.spyOn(pg.Client.prototype, 'query')
    onTestFinished(() => query.mockRestore())
    const now = Date.now
    for (const hours of [1, -1]) {
      const clock = vi.spyOn(Date, 'now').mockImplementation(() => now() + hours * 3_600_000)
      onTestFinished(() => clock.mockRestore())
      const { run } = await enqueue(`skewed${hours}`, { delayMs: 500 })
      query.mockClear()
      const { runs } = await claim([`skewed${hours}`], { waitMs: 20_000 })
      expect(runs.map(({ id }) => id)).toEqual([run.id])
      const looks = query.mock.calls.filter(([given]) => (given as { name?: string }).name === 'queues.claim')
      expect(looks.length).toBeLessThanOrEqual(4)
      clock.mockRestore()
    }
  })

  test('a waiting claim gets a job that is enqueued, one that becomes due, and one that a freed cap lets through', async () => {
    const waiting = claim(['wait'], { waitMs: 20_000 })
    await enqueue('wait')
    expect((await waiting).runs).toHaveLength(1)
    const due = claim(['wait'], { waitMs: 20_000 })
    await enqueue('wait', { delayMs: 150 })
    expect((await due).runs).toHaveLength(1)
    await server.ok('configureQueue', { params: { queue: 'capped' }, body: { concurrency: 1 } })
    await enqueue('capped')
    await enqueue('capped')
    const [held] = (await claim(['capped'])).runs
    const blocked = claim(['capped'], { waitMs: 20_000 })
    await server.ok('completeRun', { params: { runId: held?.id ?? '' }, body: {} })
    expect((await blocked).runs).toHaveLength(1)
  })

  test('a run past its deadline is cancelled', async () => {
    const { run } = await enqueue('deadline', { deadlineMs: 20 })
    await vi.waitFor(async () =>
      expect((await detail(run.id)).run).toMatchObject({
        status: 'cancelled',
        cancelReason: 'deadline',
        cancelActor: 'reconciler',
      }),
    )
  })

  test('an expired lease puts a job back, or fails it when its attempts are used up', async () => {
    const short = await startServer({ leaseMs: 100, reconcileMs: 50 })
    try {
      const enqueueHere = (body: object) =>
        short.ok('enqueue', { params: { queue: 'q' }, body: { workflowName: 'job', ...body } })
      const once = await enqueueHere({})
      const twice = await enqueueHere({ maxAttempts: 2 })
      const plain = await short.ok('createRun', { params: { workflowName: 'plain' }, body: {} })
      await short.ok('beginRun', { params: { runId: plain.run.id } })
      await short.ok('claim', { body: { queues: ['q'], leaseOwner: 'dead', limit: 2 } })
      const status = async (runId: string) => (await short.ok('getRun', { params: { runId } })).run
      await vi.waitFor(async () => {
        expect(await status(once.run.id)).toMatchObject({ status: 'failed', failureClass: 'max_retries' })
        expect(await status(twice.run.id)).toMatchObject({ status: 'queued', attempt: 1 })
      })
      const late = { params: { runId: twice.run.id }, body: { leaseOwner: 'dead' } }
      expect(await short.send('completeRun', late)).toMatchObject({ status: 409, body: { code: 'lease_lost' } })
      // Nobody is to be called for a plain run: it waits for whoever resumes it.
      expect(await status(plain.run.id)).toMatchObject({ status: 'running' })
      const resumed = await short.ok('beginRun', {
        params: { runId: plain.run.id },
        headers: { 'x-tidebase-worker': 'next' },
      })
      expect(resumed.run.attempt).toBe(2)
    } finally {
      await short.stop()
    }
  })
})

test('/openapi.json is the committed document and names every route', async () => {
  const { body } = await server.call('GET', '/openapi.json')
  expect(body).toEqual(committed)
  const paths: Record<string, object> = committed.paths
  for (const { method, path } of Object.values(routes)) {
    expect(paths[path.replace(/:(\w+)/g, '{$1}')]).toHaveProperty(method.toLowerCase())
  }
  const refs = [...JSON.stringify(committed).matchAll(/"#\/components\/schemas\/(\w+)"/g)].map(([, name]) => name)
  for (const name of refs) expect(committed.components.schemas).toHaveProperty(String(name))
})
