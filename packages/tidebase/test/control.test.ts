import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { startServer, whole } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'

// What people and programs do to runs and queues from outside.

let server: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
beforeAll(async () => {
  server = await startServer({ leaseMs: 60_000, reconcileMs: 30 })
  db = openDatabase({ connectionString: server.databaseUrl }, { hot: 1, cold: 1 })
})
afterAll(async () => {
  await db.close()
  await server.stop()
})

const claim = async (queue: string, more: object = {}) =>
  (await server.ok('claim', { body: { queues: [queue], leaseOwner: 'w1', limit: 100, ...more } })).runs
const enqueue = async (queue: string, body: object = {}) =>
  (await server.ok('enqueue', { params: { queue }, body: { workflowName: 'w', ...body } })).run
const statusOf = async (runId: string) => (await server.ok('getRun', { params: { runId } })).run.status
const types = async (runId: string) => (await server.ok('getRun', { params: { runId } })).events.map(({ type }) => type)

test('a paused queue hands out nothing, takes jobs all the same, and goes on when it is resumed', async () => {
  const params = { queue: 'paused' }
  expect((await server.ok('pauseQueue', { params, body: {} })).config).toMatchObject({ name: 'paused', paused: true })
  await enqueue('paused')
  expect(await claim('paused')).toEqual([])
  const waiting = claim('paused', { waitMs: 20_000 })
  expect((await server.ok('listQueues')).queues.find(({ name }) => name === 'paused')).toMatchObject({
    queued: 1,
    config: { paused: true },
  })
  expect((await server.ok('resumeQueue', { params, body: {} })).config.paused).toBe(false)
  expect(await waiting).toHaveLength(1)
  await server.ok('configureQueue', { params, body: { concurrency: 5 } })
  expect((await server.ok('pauseQueue', { params, body: {} })).config).toMatchObject({ concurrency: 5, paused: true })
})

test('a batch is enqueued in order, each job found again by its id or key', async () => {
  const id = `run_${'1'.repeat(32)}`
  const jobs = Array.from({ length: 600 }, (_, n) => ({
    workflowName: 'w',
    input: n,
    ...(n === 0 ? { id } : {}),
    ...(n < 3 && n > 0 ? { dedupeKey: 'same' } : {}),
  }))
  const first = await server.ok('enqueueBatch', { params: { queue: 'batch' }, body: { jobs } })
  expect(first.jobs.map(({ run }) => whole(run).input)).toEqual(jobs.map(({ input }, n) => (n === 2 ? 1 : input)))
  expect(first.jobs.map(({ deduplicated }) => deduplicated).indexOf(true)).toBe(2)
  const again = await server.ok('enqueueBatch', { params: { queue: 'batch' }, body: { jobs: jobs.slice(0, 2) } })
  expect(again.jobs.map(({ run }) => run.id)).toEqual(first.jobs.slice(0, 2).map(({ run }) => run.id))
  const bad = { params: { queue: 'batch' }, body: { jobs: [{ workflowName: 'w' }, { input: 1 }] } }
  expect(await server.send('enqueueBatch', bad)).toMatchObject({
    status: 400,
    body: { issues: [{ path: 'jobs[1].workflowName' }] },
  })
  expect((await server.ok('listQueues')).queues.find(({ name }) => name === 'batch')?.queued).toBe(599)
})

test('a failed run is put back with its checkpoints; others are not', async () => {
  const { id } = await enqueue('retry')
  const params = { runId: id }
  await claim('retry')
  const step = { name: 'a', inputHash: 'h', leaseOwner: 'w1', output: 1 }
  await server.ok('recordStep', { params, body: step })
  expect(await server.send('retryRun', { params, body: {} })).toMatchObject({
    status: 409,
    body: { code: 'run_not_failed' },
  })
  await server.ok('failRun', { params, body: { error: 'no', leaseOwner: 'w1' } })
  const replies = await Promise.all(
    Array.from({ length: 4 }, () => server.send('retryRun', { params, body: { actor: 'ada' } })),
  )
  expect(replies.map(({ status }) => status).sort()).toEqual([200, 409, 409, 409])
  const claimed = await server.ok('claim', { body: { queues: ['retry'], include: ['checkpoints'] } })
  expect(claimed.runs[0]).toMatchObject({ id, attempt: 2, maxAttempts: 2, error: null })
  expect(claimed.checkpoints?.[id]).toMatchObject([{ name: 'a', output: 1 }])
  expect((await server.ok('listQueues')).queues.find(({ name }) => name === 'retry')).toMatchObject({
    failed: 0,
    running: 1,
  })
  expect(await types(id)).toContain('run.retried')
})

test('a failed run whose dedupe key is taken by now is not put back', async () => {
  const { id } = await enqueue('retry-key', { dedupeKey: 'k' })
  await claim('retry-key')
  await server.ok('failRun', { params: { runId: id }, body: { error: 'no' } })
  await enqueue('retry-key', { dedupeKey: 'k' })
  expect(await server.send('retryRun', { params: { runId: id }, body: {} })).toMatchObject({
    status: 409,
    body: { code: 'dedupe_conflict' },
  })
})

test('cancelling a run cancels its live children and theirs, also when the server died in between', async () => {
  const { id } = await enqueue('family')
  const child = async (runId: string, name: string) =>
    (await server.ok('createChild', { params: { runId }, body: { name, workflowName: 'c' } })).run.id
  const first = await child(id, 'first')
  const done = await child(id, 'done')
  const grandchild = await child(first, 'grandchild')
  await server.ok('beginRun', { params: { runId: done } })
  await server.ok('completeRun', { params: { runId: done }, body: {} })
  await server.ok('cancelRun', { params: { runId: id }, body: { reason: 'enough' } })
  expect(await statusOf(first)).toBe('cancelled')
  expect(await statusOf(grandchild)).toBe('cancelled')
  expect(await statusOf(done)).toBe('completed')
  expect((await server.ok('getRun', { params: { runId: first } })).run).toMatchObject({
    cancelReason: 'parent_cancelled',
  })
  // As a crash leaves it: the parent is cancelled, its child not yet.
  const parent = await enqueue('family')
  const orphan = await child(parent.id, 'orphan')
  await db.cold.query('update tidebase.edges set cancelling = true where child_run_id = $1', [orphan.slice(4)])
  await vi.waitFor(async () => expect(await statusOf(orphan)).toBe('cancelled'), 10_000)
})

test('a run that uses up more than its budget is cancelled', async () => {
  const { id, budget } = await enqueue('budget', { budget: { costUsd: 0.5, totalTokens: 1000 } })
  expect(budget).toEqual({ costUsd: 0.5, totalTokens: 1000 })
  const params = { runId: id }
  await claim('budget')
  const use = (body: object) => server.ok('recordUsage', { params, body: { kind: 'llm', ...body } })
  await use({ costUsd: 0.5, totalTokens: 1000 })
  expect(await statusOf(id)).toBe('running')
  await use({ inputTokens: 1 })
  const { run, events } = await server.ok('getRun', { params })
  expect(run).toMatchObject({ status: 'cancelled', cancelReason: 'budget', usageTotals: { totalTokens: 1001 } })
  expect(events.slice(-2).map(({ type, seq }) => [type, seq])).toEqual([
    ['run.budget_exceeded', events.length - 1],
    ['run.cancelled', events.length],
  ])
  const late = { params, body: { name: 'a', inputHash: 'h', leaseOwner: 'w1', output: 1 } }
  expect(await server.ok('recordStep', late)).toEqual({ action: 'cancelled' })
  expect((await enqueue('budget')).budget).toBeNull()
})

test('usage is summed by workflow, model, provider and day, within a time', async () => {
  const own = await startServer()
  const run = async (workflowName: string) => (await own.ok('createRun', { params: { workflowName }, body: {} })).run.id
  const [a, b] = [await run('a'), await run('b')]
  const use = (runId: string, body: object) =>
    own.ok('recordUsage', { params: { runId }, body: { kind: 'llm', ...body } })
  await use(a, { model: 'm1', provider: 'p', inputTokens: 10, outputTokens: 5, costUsd: 0.25 })
  await use(a, { model: 'm2', provider: 'p', totalTokens: 7, costUsd: 0.5 })
  await use(b, { model: 'm1', costUsd: 1 })
  const sums = async (query: Record<string, string>) => (await own.ok('sumUsage', { query })).sums
  expect(await sums({ groupBy: 'workflow' })).toMatchObject([
    { workflow: 'a', entries: 2, totalTokens: 22, costUsd: 0.75, inputTokens: 10, outputTokens: 5 },
    { workflow: 'b', entries: 1, totalTokens: 0, costUsd: 1 },
  ])
  expect(await sums({ groupBy: 'model' })).toMatchObject([
    { key: 'm1', costUsd: 1.25 },
    { key: 'm2', costUsd: 0.5 },
  ])
  expect(await sums({ groupBy: 'provider' })).toMatchObject([{ key: 'p' }, { key: null, costUsd: 1 }])
  expect(await sums({})).toMatchObject([{ day: new Date().toISOString().slice(0, 10), entries: 3 }])
  expect(await sums({ to: '2020-01-01T00:00:00Z' })).toEqual([])
  expect((await own.send('sumUsage', { query: { groupBy: 'colour' } })).status).toBe(400)
  await own.stop()
})

test('the inbox shows what waits for a decision in all runs, oldest first, in pages', async () => {
  const own = await startServer()
  const names: string[] = []
  for (let n = 0; n < 7; n++) {
    const { run } = await own.ok('createRun', { params: { workflowName: `w${n}` }, body: {} })
    const { gate } = await own.ok('beginGate', { params: { runId: run.id }, body: { name: `g${n}`, prompt: '?' } })
    if (n === 2)
      await own.ok('resolveGate', { params: { runId: run.id, gateId: gate.id }, body: { decision: 'approved' } })
    else if (n === 4) await own.ok('cancelRun', { params: { runId: run.id }, body: {} })
    else names.push(gate.name)
  }
  const seen: string[] = []
  for (let after: string | undefined; ; ) {
    const page = await own.ok('listGates', { query: { limit: 2, ...(after && { after }) } })
    seen.push(...page.gates.map(({ name }) => name))
    expect(page.gates[0]).toMatchObject({ workflowName: expect.stringMatching(/^w/), runStatus: 'pending' })
    if (!page.nextCursor) break
    after = page.nextCursor
  }
  expect(seen).toEqual(names)
  expect((await own.send('listGates', { query: { after: 'x' } })).status).toBe(400)
  await own.stop()
})

test('/metrics and /llms.txt tell what the server is and does, and nothing that users keep in it', async () => {
  const own = await startServer({ apiKey: 'root-key' })
  await own.ok('enqueue', {
    params: { queue: 'a "b"' },
    body: { workflowName: 'w', input: 'canary-input', dedupeKey: 'canary-key' },
  })
  await own.send('getRun', { params: { runId: 'run_x' } })
  expect((await fetch(`${own.url}/metrics`)).status).toBe(401)
  const get = (path: string) => fetch(own.url + path, { headers: { authorization: 'Bearer root-key' } })
  const text = await (await get('/metrics')).text()
  for (const line of [
    'tidebase_runs{queue="a \\"b\\"",status="queued"} 1',
    'tidebase_request_seconds_count{route="enqueue",status="200"} 1',
    'tidebase_request_seconds_count{route="getRun",status="404"} 1',
    'tidebase_queue_oldest_seconds{queue="a \\"b\\""}',
    'tidebase_process_resident_memory_bytes',
    'tidebase_nodejs_eventloop_lag_p99_seconds ',
  ])
    expect(text).toContain(line)
  expect(text).not.toMatch(/canary|root-key|run_/)
  // Each metric is declared once, as Prometheus demands.
  const declared = text.split('\n').filter((line) => line.startsWith('# TYPE'))
  expect(new Set(declared).size).toBe(declared.length)
  const page = await (await get('/llms.txt')).text()
  expect(page).toContain('- POST /queues/claim: ')
  expect(page).toContain('lease_lost')
  await own.stop()
})

test('a schedule is triggered by hand, and shows its next five times', async () => {
  const params = { name: 'nightly' }
  const body = { cron: '0 3 * * *', workflowName: 'digest', queue: 'nights', input: { n: 1 }, maxAttempts: 2 }
  const { schedule } = await server.ok('putSchedule', { params, body })
  expect(schedule.nextRuns).toHaveLength(5)
  expect(schedule.nextRuns[0]).toBe(schedule.nextRunAt)
  expect(schedule.nextRuns.every((at) => at.endsWith('T03:00:00.000Z'))).toBe(true)
  const id = `run_${'2'.repeat(32)}`
  const fired = await Promise.all([1, 2].map(() => server.ok('triggerSchedule', { params, body: { id } })))
  expect(fired.map(({ run }) => run.id)).toEqual([id, id])
  expect(await claim('nights')).toMatchObject([
    { input: { n: 1 }, maxAttempts: 2, metadata: { schedule: 'nightly', triggered: true } },
  ])
  expect((await server.ok('listSchedules')).schedules.find(({ name }) => name === 'nightly')?.nextRunAt).toBe(
    schedule.nextRunAt,
  )
  expect(await server.send('triggerSchedule', { params: { name: 'none' }, body: {} })).toMatchObject({ status: 404 })
  const off = await server.ok('putSchedule', { params, body: { ...body, enabled: false } })
  expect(off.schedule.nextRuns.length).toBeLessThanOrEqual(5)
})

test('a fork is forked again and again, each with the steps of the one before and one of its own', async () => {
  let { run } = await server.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  const names: string[] = []
  for (const name of ['a', 'b', 'c', 'd', 'e']) {
    const params = { runId: run.id }
    await server.ok('beginRun', { params, headers: { 'x-tidebase-worker': 'w1' } })
    await server.ok('recordStep', { params, body: { name, inputHash: 'a'.repeat(64), leaseOwner: 'w1', output: name } })
    names.push(name)
    expect((await server.ok('getRun', { params })).steps.map((step) => step.name)).toEqual(names)
    run = (await server.ok('forkRun', { params })).run
    const forked = await server.ok('getRun', { params: { runId: run.id } })
    expect(forked.steps.map((step) => step.name)).toEqual(names)
  }
})

test('a fork starts with the completed steps up to a point and a chosen state, and both runs go their ways', async () => {
  const { run } = await server.ok('createRun', {
    params: { workflowName: 'w' },
    body: { input: 1, metadata: { a: 1 } },
  })
  const params = { runId: run.id }
  await server.ok('beginRun', { params, headers: { 'x-tidebase-worker': 'w1' } })
  for (const name of ['one', 'two', 'three']) {
    await server.ok('recordStep', {
      params,
      body: { name, inputHash: 'h', leaseOwner: 'w1', output: `${name} of the first` },
    })
    await server.ok('setState', { params, body: { value: { after: name } } })
  }
  const fork = (body: object) => server.send('forkRun', { params, body })
  const id = `run_${'3'.repeat(32)}`
  const replies = await Promise.all([1, 2].map(() => fork({ id, fromStep: 'three', stateVersion: 2, input: 5 })))
  expect(replies.map(({ status }) => status)).toEqual([200, 200])
  const forked = await server.ok('getRun', { params: { runId: id } })
  expect(forked.run).toMatchObject({ status: 'pending', input: 5, attempt: 0, metadata: { a: 1, forkedFrom: run.id } })
  expect(forked.steps.map(({ name, output }) => [name, output])).toEqual([
    ['one', 'one of the first'],
    ['two', 'two of the first'],
  ])
  expect(forked.state).toMatchObject({ value: { after: 'two' }, version: 1 })
  expect(forked.events.map(({ seq, type }) => [seq, type])).toEqual([
    [1, 'run.created'],
    [2, 'run.forked'],
  ])
  const begun = await server.ok('beginRun', {
    params: { runId: id },
    query: { include: 'checkpoints' },
    headers: { 'x-tidebase-worker': 'w2' },
  })
  expect(begun.checkpoints?.map(({ name }) => name) ?? []).toEqual(['one', 'two'])
  const known = { name: 'two', inputHash: 'h', leaseOwner: 'w2', output: 'another' }
  expect(await server.ok('recordStep', { params: { runId: id }, body: known })).toMatchObject({
    action: 'return',
    output: 'two of the first',
  })
  expect(await server.ok('recordStep', { params: { runId: id }, body: { ...known, name: 'three' } })).toMatchObject({
    action: 'recorded',
  })
  expect((await server.ok('getRun', { params })).steps.map(({ output }) => output)).toContain('three of the first')
  const all = (await server.ok('forkRun', { params, body: {} })).run
  expect((await server.ok('getRun', { params: { runId: all.id } })).steps).toHaveLength(3)
  expect(await fork({ fromStep: 'none' })).toMatchObject({ status: 404, body: { code: 'step_not_found' } })
  expect(await fork({ stateVersion: 99 })).toMatchObject({ status: 404, body: { code: 'state_not_found' } })
  expect(await fork({ id: run.id })).toMatchObject({ status: 409, body: { code: 'run_conflict' } })
})

test('a gate is decided on the page that its link opens: by its token alone, and not by looking', async () => {
  const own = await startServer({ apiKey: 'root-key' })
  const { run } = await own.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  const params = { runId: run.id }
  const evil = '</pre><script>alert(1)</script>'
  const { gate } = await own.ok('beginGate', {
    params,
    body: { name: 'g', prompt: `Send it? ${evil}`, data: { evil } },
  })
  const at = `${own.url}/runs/${run.id}/gates/${gate.id}`
  const look = (token: string) => fetch(`${at}/resolve?token=${token}`)
  const token = gate.resolveToken ?? ''
  expect((await look('wrong')).status).toBe(404)
  const page = await look(token)
  const html = await page.text()
  expect(page.status).toBe(200)
  expect(page.headers.get('referrer-policy')).toBe('no-referrer')
  expect(page.headers.get('content-security-policy')).toMatch(/^default-src 'none'/)
  expect(html).toContain('Send it?')
  expect(html).not.toContain('<script>')
  expect((await own.ok('getGate', { params: { ...params, gateId: gate.id } })).gate.status).toBe('pending')
  const decide = (fields: Record<string, string>) =>
    fetch(`${at}/decide`, { method: 'POST', body: new URLSearchParams(fields) })
  expect((await decide({ token: 'wrong', decision: 'approved' })).status).toBe(404)
  expect((await decide({ token, decision: 'whatever' })).status).toBe(400)
  expect(
    (await fetch(`${at}/decide`, { method: 'POST', body: '{}', headers: { 'content-type': 'application/json' } }))
      .status,
  ).toBe(415)
  const replies = await Promise.all([
    decide({ token, decision: 'approved', actor: 'Ada <b>', note: 'go on' }),
    decide({ token, decision: 'approved', actor: 'Ada <b>', note: 'go on' }),
  ])
  expect(replies.map(({ status }) => status).sort()).toEqual([200, 409])
  for (const reply of replies) expect(await reply.text()).toContain('approved by Ada &lt;b&gt;')
  expect((await own.ok('getGate', { params: { ...params, gateId: gate.id } })).gate).toMatchObject({
    status: 'approved',
    actor: 'Ada <b>',
    decisionPayload: { note: 'go on' },
  })
  expect(await (await look(token)).text()).toContain('approved by Ada')
  await own.stop()
})
