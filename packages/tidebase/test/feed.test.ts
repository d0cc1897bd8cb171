import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { type Frame, openFrames, take } from '../../../test/frames.ts'
import { client, startServer } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'
import { createKey } from '../src/keys.ts'

// GET /events: everything that happens in a project, in one order, on every server.

let first: Awaited<ReturnType<typeof startServer>>
let second: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
beforeAll(async () => {
  first = await startServer({ apiKey: 'root' })
  second = await startServer({ apiKey: 'root', databaseUrl: first.databaseUrl })
  db = openDatabase({ connectionString: first.databaseUrl }, { hot: 1, cold: 3 })
})
afterAll(async () => {
  await db.close()
  await second.stop()
  await first.stop()
})

let projects = 0
/** A project of its own: an admin key on both servers, and streams. */
async function project() {
  const name = `p${projects++}`
  const { secret } = await createKey(db.cold, { project: name, name: 'test', scope: 'admin' })
  const open = async (server: { url: string }, query = '', headers: Record<string, string> = {}) => {
    const stream = await openFrames(`${server.url}/events${query}`, { authorization: `Bearer ${secret}`, ...headers })
    onTestFinished(stream.close)
    return stream.frames
  }
  return { secret, a: client(first.url, secret), b: client(second.url, secret), open }
}
const create = async (api: ReturnType<typeof client>) =>
  (await api.ok('createRun', { params: { workflowName: 'w' }, body: {} })).run.id
const idsOf = (frames: Frame[]) => frames.map(({ id }) => Number(id))
const rising = (ids: number[]) => ids.every((id, n) => n === 0 || id > (ids[n - 1] ?? 0))

test('backlog and then live, from both servers, in one order and without loss', async () => {
  const { a, b, open } = await project()
  const runs = [await create(a), await create(b), await create(a)]
  const streams = [await open(first), await open(second), await open(first, '?after=0')]
  const writes = Array.from({ length: 120 }, (_, n) =>
    (n % 2 ? a : b).ok('setState', { params: { runId: runs[n % 3] ?? '' }, body: { value: n } }),
  )
  await Promise.all(writes)
  const [one, two, three] = await Promise.all(streams.map((frames) => take(frames, 123)))
  expect(one).toEqual(two)
  expect(one).toEqual(three)
  expect(rising(idsOf(one ?? []))).toBe(true)
  for (const run of runs) {
    const seqs = (one ?? []).filter(({ data }) => data.runId === run).map(({ data }) => data.seq)
    expect(seqs).toEqual(Array.from({ length: 41 }, (_, n) => n + 1))
  }
  expect(one?.[0]?.data).toMatchObject({ id: Number(one?.[0]?.id), type: 'run.created', payload: expect.any(Object) })
})

test('a stream is resumed on another server where it was left', async () => {
  const { a, b, open } = await project()
  const run = await create(a)
  for (let n = 0; n < 9; n++) await a.ok('setState', { params: { runId: run }, body: { value: n } })
  const all = await take(await open(first), 10)
  const left = all[3]?.id ?? ''
  expect(await take(await open(second, '', { 'last-event-id': left }), 6)).toEqual(all.slice(4))
  expect(await take(await open(second, `?after=${left}`), 6)).toEqual(all.slice(4))
  const latest = await open(second, '?after=latest')
  const settling = new Promise((resolve) => setTimeout(resolve, 200))
  await settling
  await b.ok('setState', { params: { runId: run }, body: { value: 'new' } })
  expect((await take(latest, 1))[0]?.data).toMatchObject({ seq: 11, type: 'state.updated' })
})

test('a reader may stop and go on between the two events of a recorded step', async () => {
  const { secret, a, open } = await project()
  const { run } = await a.ok('createRun', { params: { workflowName: 'w' }, body: { begin: { leaseOwner: 'w1' } } })
  const params = { runId: run.id }
  const live = await open(first)
  for (const name of ['a, "attempt" : 1}', 'b']) {
    await a.ok('recordStep', { params, body: { name, inputHash: 'h', leaseOwner: 'w1', output: 1 } })
  }
  await a.ok('setState', { params, body: { value: 1 } })
  const seen = await take(live, 7)
  const all = seen.map(({ data }) => data)
  expect(all.map(({ seq, type }) => `${seq} ${type}`)).toEqual([
    '1 run.created',
    '2 run.started',
    '3 step.started',
    '4 step.completed',
    '5 step.started',
    '6 step.completed',
    '7 state.updated',
  ])
  expect(all[2]?.payload).toEqual({ stepId: expect.any(String), name: 'a, "attempt" : 1}', attempt: 1 })
  const { attempt: _, ...completed } = Object(all[2]?.payload)
  expect(all[3]?.payload).toEqual(completed)
  expect(rising(idsOf(seen))).toBe(true)
  expect((await a.ok('getRun', { params })).events).toEqual(all)
  for (const [n, { id, data }] of seen.entries()) {
    const rest = all.slice(n + 1)
    if (rest.length === 0) break
    expect((await take(await open(second, `?after=${id}`), rest.length)).map(({ data }) => data)).toEqual(rest)
    const run = await openFrames(`${first.url}/runs/${params.runId}/events?after=${data.seq}`, {
      authorization: `Bearer ${secret}`,
    })
    onTestFinished(run.close)
    expect((await take(run.frames, rest.length)).map(({ data }) => data)).toEqual(rest)
    const pages = []
    for (let after: number | null = n + 1; after !== null; ) {
      const query = { eventsAfter: String(after), eventsLimit: '1' }
      const page: { events: unknown[]; nextEventsAfter: number | null } = await a.ok('getRun', { params, query })
      pages.push(...page.events)
      after = page.nextEventsAfter
    }
    expect(pages).toEqual(rest)
  }
})

test('another project’s events never show, and only a key that may read opens it', async () => {
  const ours = await project()
  const theirs = await project()
  const stream = await ours.open(first)
  for (let n = 0; n < 5; n++) {
    await create(theirs.a)
    await create(ours.a)
  }
  const seen = await take(stream, 5)
  const own = (await ours.a.ok('listRuns')).runs.map(({ id }) => id)
  expect(seen.map(({ data }) => data.runId).sort()).toEqual(own.sort())
  expect((await fetch(`${first.url}/events?token=${ours.secret}`)).status).toBe(200)
  expect((await fetch(`${first.url}/events`)).status).toBe(401)
  expect(await ours.a.call('GET', '/events?after=x')).toMatchObject({ status: 400, body: { code: 'invalid_query' } })
  const { secret } = await createKey(db.cold, { project: 'default', name: 'test', scope: 'enqueue' })
  expect(await client(first.url, secret).call('GET', '/events')).toMatchObject({ status: 403 })
})

test('what commits late is not skipped; what is rolled back, or lasts long elsewhere, holds nothing up', async () => {
  const { a, b, open } = await project()
  const [late, prompt] = [await create(a), await create(b)]
  const streams = [await open(first), await open(second)]
  for (const stream of streams) await take(stream, 2)
  const writeLate = (finish: () => Promise<void>) =>
    db.transaction(async (tx) => {
      // As a server's statement does: the run's row first, then its event.
      const [row] = await tx.query<{ project: number; seq: number }>(
        'update tidebase.runs set event_seq = event_seq + 1 where id = $1 returning project, event_seq as seq',
        [late.slice(4)],
      )
      await tx.query(
        `insert into tidebase.events (project, run_id, seq, type, payload) values ($1, $2, $3, 'state.saved', '{}')`,
        [row?.project, late.slice(4), row?.seq],
      )
      await finish()
    })
  const next = streams.map((stream) => take(stream, 2))
  let seen = 0
  for (const each of next) void each.then(() => seen++)
  await writeLate(async () => {
    await b.ok('setState', { params: { runId: prompt }, body: { value: 1 } })
    await new Promise((resolve) => setTimeout(resolve, 150))
    expect(seen).toBe(0)
  })
  for (const frames of await Promise.all(next)) {
    expect(frames.map(({ data }) => data.type)).toEqual(['state.saved', 'state.updated'])
    expect(rising(idsOf(frames))).toBe(true)
  }
  // A transaction of the application's own, and one of ours that is rolled back.
  await db.transaction(async (tx) => {
    await tx.query('create table if not exists public.elsewhere (n integer)')
    await tx.query('insert into public.elsewhere values (1)')
    await writeLate(() => Promise.reject(new Error('rolled back'))).catch(() => {})
    await a.ok('setState', { params: { runId: prompt }, body: { value: 2 } })
    for (const stream of streams) expect((await take(stream, 1))[0]?.data).toMatchObject({ seq: 3, runId: prompt })
  })
})

test('a reader that takes its time misses nothing', async () => {
  const { a, open } = await project()
  const slow = await open(first)
  const run = await create(a)
  const value = 'x'.repeat(20_000)
  for (let n = 0; n < 8; n++) {
    await Promise.all(
      Array.from({ length: 10 }, () =>
        a.ok('setState', { params: { runId: run }, body: { value, label: value.slice(0, 900) } }),
      ),
    )
  }
  const seqs = (await take(slow, 81)).map(({ data }) => data.seq)
  expect(seqs).toEqual(Array.from({ length: 81 }, (_, n) => n + 1))
})
