import { setTimeout } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { openFrames, take } from '../../../test/frames.ts'
import { startServer } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'

// What those who wait do when nobody wakes them: jobs and events that no notification told of, for it may be lost.

let server: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
beforeAll(async () => {
  server = await startServer({ reconciler: false })
  db = openDatabase({ connectionString: server.databaseUrl }, { hot: 1, cold: 1 })
})
afterAll(async () => {
  await db.close()
  await server.stop()
})

test('claims that wait for the same queue get the jobs that nobody told them of, each one', async () => {
  const jobs = Array.from({ length: 3 }, () => ({ workflowName: 'w', delayMs: 3_600_000 }))
  await server.ok('enqueueBatch', { params: { queue: 'q' }, body: { jobs } })
  const claims = jobs.map((_, n) =>
    server.ok('claim', { body: { queues: ['q'], leaseOwner: `w${n}`, waitMs: 30_000, limit: 1 } }),
  )
  // Until all of them wait.
  await setTimeout(1_000)
  await db.cold.query(
    `with due as (update tidebase.runs set run_at = now() where queue = 'q' returning id, run_at)
      update tidebase.live_runs l set run_at = due.run_at from due where l.run_id = due.id`,
  )
  const claimed = await Promise.all(claims)
  expect(new Set(claimed.flatMap(({ runs }) => runs.map(({ id }) => id))).size).toBe(3)
}, 40_000)

test('an event stream shows what nobody told it of', async () => {
  const { run } = await server.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  const stream = await openFrames(`${server.url}/runs/${run.id}/events`)
  await take(stream.frames, 1)
  await db.cold.query(
    `with counted as (update tidebase.runs set event_seq = event_seq + 1 where id = $1 returning project, id, event_seq)
      insert into tidebase.events (project, run_id, seq, type, payload)
      select project, id, event_seq, 'run.started', '{}' from counted`,
    [run.id.slice('run_'.length)],
  )
  expect(await take(stream.frames, 1)).toHaveLength(1)
  stream.close()
}, 40_000)

test('a claim without jobs answers when its time is up', async () => {
  const { runs } = await server.ok('claim', { body: { queues: ['empty'], leaseOwner: 'w', waitMs: 50 } })
  expect(runs).toEqual([])
})

test('who comes while others wait for the same asks the database nothing, and hears of every job', async () => {
  const asked = vi.spyOn(pg.Client.prototype, 'query')
  onTestFinished(() => asked.mockRestore())
  const looks = () => asked.mock.calls.filter(([given]) => nameOf(given).startsWith('queues.claim')).length
  const claim = (waitMs: number) => server.ok('claim', { body: { queues: ['calm'], leaseOwner: 'w', waitMs } })
  const first = claim(20_000)
  await setTimeout(300)
  const before = looks()
  for (let n = 0; n < 5; n++) expect((await claim(20)).runs).toEqual([])
  expect(looks() - before).toBeLessThan(5)
  const others = [claim(20_000), claim(20_000)]
  await setTimeout(100)
  const jobs = Array.from({ length: 3 }, () => ({ workflowName: 'w' }))
  await server.ok('enqueueBatch', { params: { queue: 'calm' }, body: { jobs } })
  const claimed = await Promise.all([first, ...others])
  expect(new Set(claimed.flatMap(({ runs }) => runs.map(({ id }) => id))).size).toBe(3)
  // Nothing is there again, but a job is to come.
  await server.ok('enqueue', { params: { queue: 'calm' }, body: { workflowName: 'w', delayMs: 400 } })
  const waiting = [claim(20_000), claim(1_000)]
  expect((await Promise.race(waiting)).runs).toHaveLength(1)
  await server.ok('enqueue', { params: { queue: 'calm' }, body: { workflowName: 'w' } })
  expect((await Promise.all(waiting)).flatMap(({ runs }) => runs)).toHaveLength(2)
}, 40_000)

const nameOf = (given: unknown) => String(Object(given).name ?? '')
