import { afterAll, beforeAll, expect, test } from 'vitest'
import { startServer, whole } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'

// Jobs that are like most are made by statements of their own, single ones and many in one call: nobody can tell.

let server: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
beforeAll(async () => {
  server = await startServer({ leaseMs: 60_000, reconciler: false })
  db = openDatabase({ connectionString: server.databaseUrl }, { hot: 1, cold: 1 })
})
afterAll(async () => {
  await db.close()
  await server.stop()
})

type Job = Record<string, unknown>

const many = (job: (n: number) => Job = () => ({})): Job[] =>
  Array.from({ length: 100 }, (_, n) => ({ workflowName: 'w', input: { n }, ...job(n) }))
const idOf = (n: number, of = 0) => `run_${(of * 1_000 + n + 1).toString(16).padStart(32, '0')}`
const send = (queue: string, jobs: Job[]) =>
  server.send('enqueueBatch', { params: { queue }, body: { jobs, brief: true } })
const enqueue = async (queue: string, jobs: Job[]) =>
  (await server.ok('enqueueBatch', { params: { queue }, body: { jobs, brief: true } })).jobs
const queued = async (queue: string) =>
  (await server.ok('listQueues')).queues.find(({ name }) => name === queue)?.queued ?? 0
/** What is known of a run, apart from what no two have in common. */
const known = async (runId: string) => {
  const { run, events } = await server.ok('getRun', { params: { runId } })
  const plain = ({ id, createdAt, updatedAt, runAt, dedupeKey, ...rest }: typeof run) => ({
    ...rest,
    dueMs: runAt && Date.parse(runAt) - Date.parse(createdAt),
    new: createdAt === updatedAt,
  })
  return {
    run: plain(run),
    events: events.map(({ seq, type, payload }) => ({ seq, type, payload: Object.keys(Object(payload)) })),
  }
}

test('a job is what it is with a key, by itself and in a large batch', async () => {
  const kinds: Job[] = [
    {},
    { input: null },
    { input: 'text "with" ✓' },
    { metadata: { tenant: 'a', deep: { list: [1] } }, priority: -5 },
    { metadata: null, priority: null, maxAttempts: null, delayMs: null, runAt: null, channels: null },
    { maxAttempts: 7, delayMs: 90_000 },
    { delayMs: 5, budget: { costUsd: 1 } },
  ]
  const together = await enqueue(
    'alike',
    kinds.slice(0, 6).flatMap((kind) => Array.from({ length: 20 }, () => ({ workflowName: 'w', ...kind }))),
  )
  for (const [n, kind] of kinds.slice(0, 6).entries()) {
    const body = { workflowName: 'w', ...kind }
    const single = await server.ok('enqueue', { params: { queue: 'alike' }, body })
    // A key makes it a matter of the statement that knows all jobs.
    const keyed = await server.ok('enqueue', { params: { queue: 'alike' }, body: { ...body, dedupeKey: `k${n}` } })
    const wanted = await known(keyed.run.id)
    expect(await known(single.run.id)).toEqual(wanted)
    expect(await known(together[n * 20]?.run.id ?? '')).toEqual(wanted)
    expect(single.run).toEqual((await server.ok('getRun', { params: { runId: single.run.id } })).run)
  }
  const others = await enqueue('alike', [...many(), ...kinds.map((kind) => ({ workflowName: 'w', ...kind }))])
  expect(await known(others.at(-1)?.run.id ?? '')).toMatchObject({ run: { budget: { costUsd: 1 } } })
  const at = new Date(Date.now() + 3_600_000).toISOString()
  const [due] = await enqueue(
    'later',
    many(() => ({ runAt: at })),
  )
  expect((await server.ok('getRun', { params: { runId: due?.run.id ?? '' } })).run.runAt).toBe(at)
})

test('its jobs are answered in order and claimed in order', async () => {
  const made = await enqueue(
    'ordered',
    many((n) => (n % 2 ? {} : { id: idOf(n) })),
  )
  expect(made.map(({ deduplicated }) => deduplicated)).toEqual(many().map(() => false))
  expect(made[4]?.run).toEqual({ id: idOf(4) })
  const { runs } = await server.ok('claim', { body: { queues: ['ordered'], limit: 100 } })
  expect(runs.map(({ id }) => id).sort()).toEqual(made.map(({ run }) => run.id).sort())
  const few = await enqueue('few', [{ workflowName: 'w' }, { workflowName: 'w', id: idOf(0, 7) }])
  expect(few).toEqual([
    { run: { id: expect.stringMatching(/^run_/) }, deduplicated: false },
    { run: { id: idOf(0, 7) }, deduplicated: false },
  ])
  const inputs = new Map(runs.map((run) => [run.id, run.input]))
  expect(made.map(({ run }) => inputs.get(run.id))).toEqual(many().map(({ input }) => input))
})

test('a claim of all of them has them in their order', async () => {
  for (const brief of [false, true]) {
    const jobs = many().slice(0, 60)
    await enqueue('fifo', jobs)
    const { runs } = await server.ok('claim', { body: { queues: ['fifo'], limit: 100, brief } })
    expect(runs.map(({ input }) => input)).toEqual(jobs.map(({ input }) => input))
  }
})

test('it may be repeated, as it was or with more, and says so of a run that is another’s', async () => {
  const jobs = many((n) => ({ id: idOf(n, 1) }))
  const first = await enqueue('repeated', jobs)
  expect(await enqueue('repeated', jobs)).toEqual(first)
  const more = [...jobs, ...many((n) => ({ id: idOf(n, 2) }))]
  expect(await enqueue('repeated', more)).toEqual(more.map(({ id }) => ({ run: { id }, deduplicated: false })))
  expect(await queued('repeated')).toBe(200)
  const others = many((n) => (n === 50 ? { id: idOf(50, 1), workflowName: 'another' } : { id: idOf(n, 3) }))
  expect(await send('repeated', others)).toMatchObject({ status: 409, body: { code: 'run_conflict' } })
  // Each by itself: the others are there.
  expect(await queued('repeated')).toBe(299)
})

test('where one of its jobs is there already, the others are made once', async () => {
  await server.ok('enqueue', { params: { queue: 'mixed' }, body: { workflowName: 'w', id: idOf(0, 8) } })
  const made = await enqueue('mixed', [{ workflowName: 'w', id: idOf(0, 8) }, ...many()])
  expect(new Set(made.map(({ run }) => run.id)).size).toBe(101)
  expect(await queued('mixed')).toBe(101)
})

test('a single job may be repeated, and is made once when it is said twice at once', async () => {
  const job = { params: { queue: 'single' }, body: { workflowName: 'w', id: idOf(0, 6) } }
  const answers = await Promise.all([1, 2, 3].map(() => server.ok('enqueue', job)))
  for (const answer of [...answers, await server.ok('enqueue', job)]) expect(answer).toEqual(answers[0])
  expect(answers[0]).toMatchObject({ run: { id: idOf(0, 6), status: 'queued' }, deduplicated: false })
  expect(await queued('single')).toBe(1)
  const another = { ...job, body: { ...job.body, workflowName: 'another' } }
  expect(await server.send('enqueue', another)).toMatchObject({ status: 409, body: { code: 'run_conflict' } })
})

test('two at once with the same ids make one run of each', async () => {
  const jobs = many((n) => ({ id: idOf(n, 4) }))
  const answers = await Promise.all([jobs, [...jobs].reverse(), jobs].map((each) => enqueue('raced', each)))
  for (const answer of answers) expect(answer.map(({ deduplicated }) => deduplicated)).not.toContain(true)
  expect(await queued('raced')).toBe(100)
})

test('an id that it says twice is one run; a key keeps one of its jobs', async () => {
  const twice = await enqueue(
    'twice',
    many((n) => ({ id: idOf(n % 50, 5) })),
  )
  expect(new Set(twice.map(({ run }) => run.id)).size).toBe(50)
  const keyed = await enqueue(
    'twice',
    many((n) => (n < 2 ? { dedupeKey: 'k' } : {})),
  )
  expect(keyed.slice(0, 3).map(({ deduplicated }) => deduplicated)).toEqual([false, true, false])
  expect(keyed[0]?.run.id).toBe(keyed[1]?.run.id)
  expect(await queued('twice')).toBe(149)
})

test('what the schema refuses of one job, it refuses of all: nothing is made', async () => {
  const jobs = many()
  expect(await send('bad', [...jobs, { input: 1 }])).toMatchObject({
    status: 400,
    body: { code: 'invalid_body', issues: [{ path: 'jobs[100].workflowName' }] },
  })
  expect(await send('bad', [...jobs, { workflowName: 'w', id: 'run_1' }])).toMatchObject({
    body: { issues: [{ path: 'jobs[100].id' }] },
  })
  // Times that ISO 8601 has and Postgres has not.
  for (const runAt of ['0000-01-01T00:00:00Z', '2026-01-01T00:00:00+16:00'])
    expect(await send('bad', [...jobs, { workflowName: 'w', runAt }])).toMatchObject({
      status: 400,
      body: { code: 'invalid_body', issues: [{ path: 'jobs[100].runAt' }] },
    })
  expect(await queued('bad')).toBe(0)
})

test('what Postgres refuses one job for refuses the call when the others are made, not before', async () => {
  await db.cold.query(`alter table tidebase.runs add constraint refused check (workflow_name <> 'refused')`)
  const large = many((n) => (n === 0 ? { workflowName: 'refused' } : {}))
  const keyed = large.map((job, n) => ({ ...job, dedupeKey: `k${n}` }))
  for (const [queue, jobs] of Object.entries({ large, small: large.slice(0, 20), keyed })) {
    expect(await send(queue, jobs)).toMatchObject({ status: 500, body: { code: 'internal' } })
    expect(await queued(queue)).toBe(jobs.length - 1)
  }
})

test('who waits for a job hears of it', async () => {
  const waiting = server.ok('claim', { body: { queues: ['awaited'], limit: 100, waitMs: 20_000 } })
  await new Promise((resolve) => setTimeout(resolve, 100))
  await enqueue('awaited', many())
  expect((await waiting).runs.map(whole)).toHaveLength(100)
})
