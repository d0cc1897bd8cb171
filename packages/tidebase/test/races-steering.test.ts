import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { expectLiveRuns } from '../../../test/live-runs.ts'
import { type Reply, startServer, whole } from '../../../test/server.ts'
import { Coalescers } from '../src/coalesce.ts'
import { openDatabase } from '../src/db.ts'
import type { Engine } from '../src/engine.ts'
import { retention } from '../src/retention.ts'
import { fireSchedules } from '../src/schedules.ts'
import { endWait } from '../src/waits.ts'
import { Wakeups } from '../src/wakeups.ts'

// As races.test.ts, for queues that are paused, batches, schedules, token streams and retention. What the reconciler
// does is done by two engines of the tests, so that it happens in the middle of the calls.

type Server = Awaited<ReturnType<typeof startServer>>
let first: Server
let second: Server
let db: ReturnType<typeof openDatabase>
let engines: Engine[]
beforeAll(async () => {
  first = await startServer({ reconciler: false, leaseMs: 60_000 })
  second = await startServer({ reconciler: false, leaseMs: 60_000, databaseUrl: first.databaseUrl })
  db = openDatabase({ connectionString: first.databaseUrl }, { hot: 2, cold: 6 })
  const settings = {
    leaseMs: 60_000,
    reconcileMs: 1_000,
    retentionDays: 30,
    publicUrl: first.url,
    webhookSecret: undefined,
    allowPrivateWebhooks: false,
    keyless: true,
  }
  engines = [0, 1].map(() => ({ db, coalescers: new Coalescers(db), wakeups: new Wakeups(db), settings }))
})
afterAll(async () => {
  await db.close()
  await second.stop()
  await first.stop()
})
afterEach(() => expectLiveRuns(db.cold))

const race = <T>(work: (server: Server, n: number) => Promise<T>, times = 40) =>
  Promise.all(Array.from({ length: times }, (_, n) => work(n % 2 ? first : second, n)))
/** Statements that wait for what a transaction does. */
const blocked = `select from pg_stat_activity where datname = current_database() and wait_event = 'transactionid'`
const both = <T>(work: (engine: Engine) => Promise<T>) => Promise.all(engines.map(work))
const statuses = (replies: Reply[]) => [...new Set(replies.map(({ status }) => status))].sort()

const running = async (queue: string) => {
  const [row] = await db.cold.query<{ n: number }>(
    `select count(*) as n from tidebase.runs where queue = $1 and status = 'running'`,
    [queue],
  )
  return row?.n
}
const enqueueMany = (queue: string, count: number) =>
  first.ok('enqueueBatch', {
    params: { queue },
    body: { jobs: Array.from({ length: count }, () => ({ workflowName: 'w' })) },
  })

test('once a pause is answered nothing is claimed any more', async () => {
  for (let round = 0; round < 5; round++) {
    const queue = `pause ${round}`
    await enqueueMany(queue, 300)
    let over = false
    const claims = race(async (server) => {
      while (!over) await server.ok('claim', { body: { queues: [queue], limit: 2 } })
    }, 12)
    while (!(await running(queue))) {}
    await (round % 2 ? first : second).ok('pauseQueue', { params: { queue }, body: {} })
    const then = await running(queue)
    over = true
    await claims
    expect(await running(queue)).toBe(then)
  }
})

test('a pause is not answered before a claim that is under way has ended', async () => {
  const queue = 'slow claim'
  const { run } = await first.ok('enqueue', { params: { queue }, body: { workflowName: 'w' } })
  const event = [run.id.slice(4)]
  const paused = await db.transaction(async (tx) => {
    // The claim comes upon this event and waits for what becomes of it.
    await tx.query(
      `insert into tidebase.events (project, run_id, seq, type, payload) values (1, $1, 2, 'run.claimed', '{}')`,
      event,
    )
    const claim = first.ok('claim', { body: { queues: [queue] } })
    while ((await db.cold.query(blocked)).length === 0) {}
    const pause = second.ok('pauseQueue', { params: { queue }, body: {} }).then(() => running(queue))
    await new Promise((resolve) => setTimeout(resolve, 200))
    await tx.query('delete from tidebase.events where run_id = $1 and seq = 2', event)
    return { claim, pause }
  })
  expect((await paused.claim).runs).toHaveLength(1)
  expect(await paused.pause).toBe(1)
})

test('two batches with the same keys, in opposite order: each key has one run', async () => {
  for (let round = 0; round < 4; round++) {
    const queue = `keys ${round}`
    const jobs = Array.from({ length: 120 }, (_, n) => ({ workflowName: 'w', dedupeKey: `k${n}` }))
    const replies = await race(
      (server, n) =>
        server.ok('enqueueBatch', { params: { queue }, body: { jobs: n % 2 ? jobs : [...jobs].reverse() } }),
      4,
    )
    const all = replies.flatMap((reply) => reply.jobs)
    expect(all.filter(({ deduplicated }) => !deduplicated)).toHaveLength(120)
    for (const { dedupeKey } of jobs) {
      expect(new Set(all.filter(({ run }) => whole(run).dedupeKey === dedupeKey).map(({ run }) => run.id)).size).toBe(1)
    }
  }
})

test('a schedule triggered by many while it is due: one run for its time, one for each trigger', async () => {
  const params = { name: 'race' }
  const body = { cron: '0 0 1 1 *', workflowName: 'w', queue: 'fires' }
  await first.ok('putSchedule', { params, body })
  for (let round = 1; round <= 5; round++) {
    await db.cold.query(`update tidebase.schedules set next_run_at = $1 where name = 'race'`, [
      `202${round}-01-01T00:00:00Z`,
    ])
    await Promise.all([
      both((engine) => fireSchedules(engine)),
      race(
        (server, n) =>
          server.ok('triggerSchedule', { params, body: { id: `run_${`${round}${n >> 1}`.padStart(32, 'e')}` } }),
        10,
      ),
      both((engine) => fireSchedules(engine)),
      first.ok('putSchedule', { params, body }),
    ])
  }
  const { runs } = await first.ok('listRuns', { query: { queue: 'fires', limit: 500 } })
  expect(runs.filter(({ metadata }) => metadata.triggered)).toHaveLength(25)
  const fires = runs.filter(({ metadata }) => !metadata.triggered).map(({ metadata }) => metadata.fireTime)
  expect(new Set(fires).size).toBe(fires.length)
  // What was missed since is one fire: the year's, whatever year it was moved back to.
  expect(fires).toHaveLength(1)
})

test('writers of a token stream at the same offset: one text, whole, and no writer is told of a gap', async () => {
  for (let round = 0; round < 10; round++) {
    const { run } = await first.ok('createRun', { params: { workflowName: 'w' }, body: {} })
    await first.ok('beginRun', { params: { runId: run.id } })
    let text = ''
    for (let n = 0; n < 4; n++) {
      const replies = await race(
        (server, writer) =>
          server.send('appendStream', {
            params: { runId: run.id },
            body: { stream: 's', offset: text.length, chunk: String(writer).repeat((writer % 3) + 1) },
          }),
        8,
      )
      expect(replies.map(({ status, body }) => [status, body.code])).toEqual(replies.map(() => [200, undefined]))
      const ends = new Set(replies.map(({ body }) => body.nextOffset))
      expect(ends.size).toBe(1)
      const chunks = await db.cold.query<{ at: number; chunk: string }>(
        'select at, chunk from tidebase.stream_chunks where run_id = $1 order by at',
        [run.id.slice(4)],
      )
      for (const { at, chunk } of chunks.slice(0, -1)) expect(text.slice(at, at + chunk.length)).toBe(chunk)
      text = chunks.map(({ chunk }) => chunk).join('')
      expect(ends).toEqual(new Set([text.length]))
    }
  }
})

test('a writer that starts over while another goes on: what is kept is one text', async () => {
  for (let round = 0; round < 10; round++) {
    const { run } = await first.ok('createRun', { params: { workflowName: 'w' }, body: {} })
    await first.ok('beginRun', { params: { runId: run.id } })
    const append = (server: Server, offset: number, chunk: string, reset = false) =>
      server.send('appendStream', { params: { runId: run.id }, body: { stream: 's', offset, chunk, reset } })
    await append(first, 0, 'old')
    const replies = await race((server, n) => (n % 4 ? append(server, 3, 'er') : append(server, 0, 'new', true)), 8)
    expect(statuses(replies)).toEqual([200])
    const chunks = await db.cold.query<{ at: number; chunk: string; length: number }>(
      `select k.at, k.chunk, s.next_offset as length from tidebase.streams s join tidebase.stream_chunks k
        on k.run_id = s.run_id and k.stream = s.name and k.epoch = s.epoch where s.run_id = $1 order by k.at`,
      [run.id.slice(4)],
    )
    const text = chunks.map(({ chunk }) => chunk).join('')
    expect(['new', 'newer']).toContain(text)
    expect(chunks.every(({ length }) => length === text.length)).toBe(true)
  }
})

test('text that is appended while its step completes is dropped with the rest', async () => {
  const { run } = await first.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  const params = { runId: run.id }
  await first.ok('beginRun', { params, headers: { 'x-tidebase-worker': 'w1' } })
  await first.ok('appendStream', { params, body: { stream: 'a', offset: 0, chunk: 'x' } })
  const key = [run.id.slice(4)]
  const recorded = await db.transaction(async (tx) => {
    // As an append does that has not committed yet.
    await tx.query('update tidebase.streams set next_offset = 2 where run_id = $1', key)
    await tx.query(
      `insert into tidebase.stream_chunks (project, run_id, stream, epoch, at, chunk)
        select project, run_id, name, epoch, 1, 'y' from tidebase.streams where run_id = $1`,
      key,
    )
    const body = { name: 'a', inputHash: 'h', leaseOwner: 'w1', output: 'xy' }
    const recording = second.ok('recordStep', { params, body })
    while ((await db.cold.query(blocked)).length === 0) {}
    return { recording }
  })
  await recorded.recording
  const left = () => db.cold.query('select from tidebase.stream_chunks where run_id = $1', key)
  await vi.waitFor(async () => expect(await left()).toEqual([]), 5_000)
})

test('a wait whose time has come is ended once, whoever notices', async () => {
  const { run } = await first.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  const params = { runId: run.id }
  await first.ok('beginRun', { params })
  const { wait } = await first.ok('createTimer', { params, body: { name: 't', delayMs: 0 } })
  const end = (engine: Engine) => endWait(engine, 1, run.id.slice(4), wait.id.slice(5))
  await Promise.all(Array.from({ length: 10 }, () => both(end)))
  const { events } = await first.ok('getRun', { params })
  expect(events.map(({ seq, type }) => `${seq} ${type}`).slice(2)).toEqual(['3 wait.started', '4 wait.ended'])
})

test('what retention deletes while it is read, put back, forked or written to is there whole, or not at all', {
  timeout: 60_000,
}, async () => {
  const ids: string[] = []
  for (let n = 0; n < 40; n++) {
    const { run } = await first.ok('enqueue', { params: { queue: 'old' }, body: { workflowName: 'w' } })
    const params = { runId: run.id }
    await first.ok('beginRun', { params, headers: { 'x-tidebase-worker': 'w1' } })
    await Promise.all(
      ['a', 'b', 'c'].map((name) =>
        first.ok('recordStep', { params, body: { name, inputHash: 'h', leaseOwner: 'w1', output: name } }),
      ),
    )
    await first.ok('setState', { params, body: { value: 1 } })
    await first.ok('failRun', { params, body: { error: 'no', leaseOwner: 'w1' } })
    ids.push(run.id)
  }
  await db.cold.query(
    `update tidebase.runs set completed_at = now() - interval '31 days', created_at = now() - interval '32 days'
      where queue = 'old' and status = 'failed'`,
  )
  const whole = (steps: { output: unknown }[]) => steps.map(({ output }) => String(output)).sort()
  const forks: string[] = []
  const deleting = (async () => {
    for (let n = 0; n < 4; n++) await both((engine) => retention(engine)())
  })()
  await Promise.all([
    deleting,
    race(async (server, n) => {
      for (const [k, runId] of ids.entries()) {
        const params = { runId }
        if ((k + n) % 4 === 0) {
          const { status, body } = await server.send('getRun', { params })
          if (status === 200) expect(whole(body.steps as { output: unknown }[])).toEqual(['a', 'b', 'c'])
          else expect(body.code).toBe('run_not_found')
        } else if ((k + n) % 4 === 1) {
          const { status, body } = await server.send('forkRun', { params, body: {} })
          if (status === 200) forks.push(String(Object(body.run).id))
          else expect(body.code).toBe('run_not_found')
        } else if ((k + n) % 4 === 2) {
          const { status } = await server.send('recordUsage', { params, body: { totalTokens: 1 } })
          expect([200, 404]).toContain(status)
        } else if (k > 25) {
          const { status } = await server.send('retryRun', { params, body: {} })
          expect([200, 404, 409]).toContain(status)
        }
      }
    }, 8),
  ])
  for (const runId of forks) {
    const { steps, state } = await first.ok('getRun', { params: { runId } })
    expect(whole(steps)).toEqual(['a', 'b', 'c'])
    expect(state?.value).toBe(1)
  }
  await retention(engines[0] as Engine)()
  const left = await first.ok('listRuns', { query: { queue: 'old', limit: 500 } })
  for (const { id, metadata } of left.runs.filter(({ metadata }) => !metadata.forkedFrom)) {
    expect(metadata).toEqual({})
    const { run, steps, events } = await first.ok('getRun', { params: { runId: id } })
    expect(run.status).toBe('queued')
    expect(whole(steps)).toEqual(['a', 'b', 'c'])
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_, n) => n + 1))
  }
  // Nothing of a run stays without it.
  const tables = await db.cold.query<{ name: string }>(
    `select table_name as name from information_schema.columns where table_schema = 'tidebase' and column_name = 'run_id'`,
  )
  for (const { name } of tables) {
    const orphans = await db.cold.query(
      `select t.run_id from tidebase.${name} t where not exists (select from tidebase.runs r where r.id = t.run_id)`,
    )
    expect({ name, orphans }).toEqual({ name, orphans: [] })
  }
})
