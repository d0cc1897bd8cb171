import { setTimeout } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
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
