import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { openFrames, take } from '../../../test/frames.ts'
import { startServer } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'

// Token streams: POST /runs/:runId/stream, and `event: chunk` on the run's event stream.

let first: Awaited<ReturnType<typeof startServer>>
let second: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
beforeAll(async () => {
  first = await startServer({ leaseMs: 60_000, reconcileMs: 20 })
  second = await startServer({ leaseMs: 60_000, databaseUrl: first.databaseUrl })
  db = openDatabase({ connectionString: first.databaseUrl }, { hot: 1, cold: 1 })
})
afterAll(async () => {
  await db.close()
  await second.stop()
  await first.stop()
})

async function begun(): Promise<{ runId: string }> {
  const { run } = await first.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  await first.ok('beginRun', { params: { runId: run.id }, headers: { 'x-tidebase-worker': 'w1' } })
  return { runId: run.id }
}
const append = (params: { runId: string }, offset: number, chunk: string, more: object = {}) =>
  first.send('appendStream', { params, body: { stream: 'answer', offset, chunk, ...more } })
const watch = async (server: { url: string }, { runId }: { runId: string }, query = '') => {
  const stream = await openFrames(`${server.url}/runs/${runId}/events?after=2${query}`)
  onTestFinished(stream.close)
  return stream.frames
}
const chunks = async (frames: Awaited<ReturnType<typeof watch>>, count: number) =>
  (await take(frames, count)).map(({ event, data }) => [event, data.stream, data.offset, data.chunk])
const kept = () =>
  db.cold.query('select name from tidebase.streams union all select stream from tidebase.stream_chunks')

test('chunks reach the watchers of both servers, in order, and stand in no event log', async () => {
  const params = await begun()
  const early = [await watch(first, params), await watch(second, params)]
  expect(await append(params, 0, 'Hel')).toMatchObject({ status: 200, body: { nextOffset: 3, closed: false } })
  expect(await append(params, 3, 'lo 🌊')).toMatchObject({ body: { nextOffset: 7 } })
  expect(await append(params, 7, '!')).toMatchObject({ body: { nextOffset: 8 } })
  const all = [
    ['chunk', 'answer', 0, 'Hel'],
    ['chunk', 'answer', 3, 'lo 🌊'],
    ['chunk', 'answer', 7, '!'],
  ]
  for (const frames of early) expect(await chunks(frames, 3)).toEqual(all)
  expect(await chunks(await watch(second, params), 3)).toEqual(all)
  expect((await first.ok('getRun', { params })).events.map(({ type }) => type)).toEqual(['run.created', 'run.started'])
})

test('a repeated offset changes nothing, a gap is refused with the offset expected', async () => {
  const params = await begun()
  await append(params, 0, 'one')
  expect(await append(params, 0, 'one')).toMatchObject({ status: 200, body: { nextOffset: 3 } })
  expect(await append(params, 5, 'x')).toMatchObject({
    status: 409,
    body: { code: 'stream_gap', expectedOffset: 3, hint: expect.any(String) },
  })
  expect(await append(params, 1, 'x', { stream: 'none' })).toMatchObject({ body: { expectedOffset: 0 } })
  const replies = await Promise.all(Array.from({ length: 8 }, () => append(params, 3, 'two')))
  expect(replies.map(({ body }) => body.nextOffset)).toEqual(Array(8).fill(6))
  expect(await chunks(await watch(first, params), 2)).toEqual([
    ['chunk', 'answer', 0, 'one'],
    ['chunk', 'answer', 3, 'two'],
  ])
})

test('a watcher goes on at its offset, also within a chunk', async () => {
  const params = await begun()
  await append(params, 0, '0123')
  await append(params, 4, '4567')
  await append(params, 8, '89')
  await append(params, 0, 'other', { stream: 'b c,d' })
  expect((await chunks(await watch(second, params, '&offsets=answer:6'), 3)).sort()).toEqual([
    ['chunk', 'answer', 6, '67'],
    ['chunk', 'answer', 8, '89'],
    ['chunk', 'b c,d', 0, 'other'],
  ])
  const query = `&offsets=answer:10,${encodeURIComponent(encodeURIComponent('b c,d'))}:2`
  expect(await chunks(await watch(second, params, query), 1)).toEqual([['chunk', 'b c,d', 2, 'her']])
  expect(await first.call('GET', `/runs/${params.runId}/events?offsets=x`)).toMatchObject({
    status: 400,
    body: { code: 'invalid_query', issues: [{ path: 'offsets' }] },
  })
})

test('a writer that starts over does so for its watchers too', async () => {
  const params = await begun()
  const watcher = await watch(second, params)
  await append(params, 0, 'a long first attempt')
  expect(await chunks(watcher, 1)).toEqual([['chunk', 'answer', 0, 'a long first attempt']])
  expect(await append(params, 0, 'again', { reset: true })).toMatchObject({ body: { nextOffset: 5 } })
  await append(params, 5, '!')
  expect(await chunks(watcher, 2)).toEqual([
    ['chunk', 'answer', 0, 'again'],
    ['chunk', 'answer', 5, '!'],
  ])
  expect((await append(params, 6, '', { reset: true })).body.issues).toMatchObject([{ path: 'offset' }])
})

test('a stream is dropped when the step of its name completes; what comes later is not kept', async () => {
  const params = await begun()
  const step = { inputHash: 'h', leaseOwner: 'w1' }
  const before = (await kept()).length
  await append(params, 0, 'x')
  await append(params, 0, 'y', { stream: 'begun' })
  await first.ok('recordStep', { params, body: { ...step, name: 'answer', output: 'xy' } })
  const reply = await first.ok('beginStep', { params, body: { ...step, name: 'begun' } })
  const stepId = reply.action === 'execute' ? reply.step.id : ''
  await first.ok('completeStep', { params: { ...params, stepId }, body: { leaseOwner: 'w1', output: 1 } })
  expect(await kept()).toHaveLength(before)
  expect(await append(params, 1, 'y')).toMatchObject({ status: 200, body: { closed: true, nextOffset: 2 } })
  expect(await kept()).toHaveLength(before)
})

test('only who holds the lease may write, and what is left of an ended run is cleared away', async () => {
  const params = await begun()
  expect(await append(params, 0, 'x', { leaseOwner: 'w1' })).toMatchObject({ status: 200 })
  expect(await append(params, 1, 'x', { leaseOwner: 'w2' })).toMatchObject({
    status: 409,
    body: { code: 'lease_lost' },
  })
  await first.ok('cancelRun', { params, body: {} })
  expect(await append(params, 1, 'x')).toMatchObject({ status: 409, body: { code: 'run_cancelled' } })
  const done = await begun()
  await append(done, 0, 'x')
  await first.ok('completeRun', { params: done, body: {} })
  expect(await append(done, 1, 'x')).toMatchObject({ status: 409, body: { code: 'run_completed' } })
  expect(await append({ runId: `run_${'0'.repeat(32)}` }, 0, 'x')).toMatchObject({ status: 404 })
  const of = (runId: string) => db.cold.query('select from tidebase.streams where run_id = $1', [runId.slice(4)])
  await vi.waitFor(async () => expect([...(await of(params.runId)), ...(await of(done.runId))]).toEqual([]), 5_000)
})
