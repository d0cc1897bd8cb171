import type { LookupFunction } from 'node:net'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { createDatabase, startServer } from '../../../test/server.ts'
import { Coalescers } from '../src/coalesce.ts'
import { openDatabase } from '../src/db.ts'
import type { Engine } from '../src/engine.ts'
import { startOutbox } from '../src/outbox.ts'
import { Wakeups } from '../src/wakeups.ts'
import { receiver } from './receiver.ts'

/** Waits until the check passes; patient, because the machine may be busy. */
const soon = <T>(check: () => T | Promise<T>, timeout = 10_000) => vi.waitFor(check, { timeout, interval: 50 })

let server: Awaited<ReturnType<typeof startServer>>
let hooks: Awaited<ReturnType<typeof receiver>>
let db: ReturnType<typeof openDatabase>
let release: () => void
const held = new Promise<void>((resolve) => {
  release = resolve
})

beforeAll(async () => {
  server = await startServer({ reconcileMs: 50 })
  db = openDatabase({ connectionString: server.databaseUrl })
  hooks = await receiver(async ({ path, body }, _, response) => {
    if (path === '/emoji') return void response.end(`${'x'.repeat(7_999)}😀 and more\0`)
    if (path.endsWith('hang')) return undefined
    if (path === '/endless') {
      response.writeHead(200)
      const more = () => {
        while (!response.destroyed && response.write('é'.repeat(10_000))) {}
      }
      response.on('drain', more).on('error', () => {})
      return void more()
    }
    if (path === '/drip') {
      response.writeHead(200).write('a')
      const drip = setInterval(() => response.write('b'), 500)
      return void response.once('close', () => clearInterval(drip))
    }
    if (path === '/overtaken') {
      await held
      return 500
    }
    if (path === '/works') {
      const runId = String(body.runId)
      await server.ok('beginRun', { params: { runId }, headers: { 'x-tidebase-worker': 'hook' } })
      await server.ok('completeRun', { params: { runId }, body: { leaseOwner: 'hook' } })
    }
    return path === '/broken' ? 500 : 200
  })
})
afterAll(async () => {
  await server.stop()
  await db.close()
  hooks.close()
})

const create = async (body: object) => (await server.ok('createRun', { params: { workflowName: 'w' }, body })).run
const recover = async (runId: string, reason?: string) =>
  (await server.ok('recoverRun', { params: { runId }, body: { reason } })).recoveryAttempt
const detail = (runId: string) => server.ok('getRun', { params: { runId } })
const attempts = async (runId: string) => (await detail(runId)).recoveryAttempts
const called = async (path: string) => {
  const run = await create({ recoveryWebhook: hooks.url(path) })
  return { run, attempt: await recover(run.id) }
}
/** As if the delivery's time had come. */
const due = (id: string) =>
  db.cold.query(`update tidebase.deliveries set next_try_at = now() where id = $1 and status = 'pending'`, [
    id.slice(4),
  ])

test('an answer is kept up to 8,000 characters, whole ones', async () => {
  const { run } = await called('/emoji')
  await soon(async () => {
    const [attempt] = await attempts(run.id)
    expect(attempt).toMatchObject({ status: 'delivered', httpStatus: 200 })
    expect(attempt?.responseBody).toMatch(/^x{7999}.?$/u)
  })
})

test('of a long answer only the start is read', async () => {
  const { run } = await called('/endless')
  await soon(async () => {
    const [attempt] = await attempts(run.id)
    expect(attempt).toMatchObject({ status: 'delivered', httpStatus: 200, responseBody: 'é'.repeat(8_000) })
  })
})

test('a call has 10 s altogether; the status that came in time counts, also when the body does not end', async () => {
  const hanging = await called('/hang')
  const dripping = await called('/drip')
  await soon(async () => {
    expect(await attempts(hanging.run.id)).toMatchObject([
      { status: 'pending', tries: 1, httpStatus: null, errorText: 'no answer within 10 s' },
    ])
    const [attempt] = await attempts(dripping.run.id)
    expect(attempt).toMatchObject({ status: 'delivered', httpStatus: 200 })
    expect(attempt?.responseBody).toMatch(/^ab+$/)
  }, 15_000)
})

test('a webhook is tried eight times, ever more slowly, and its end is told', async () => {
  const { run, attempt } = await called('/broken')
  const pauses: number[] = []
  for (let tries = 1; tries < 8; tries++) {
    const pause = await soon(async () => {
      const [known] = await attempts(run.id)
      expect(known).toMatchObject({ status: 'pending', tries, httpStatus: 500 })
      const seconds = (Date.parse(known?.nextTryAt ?? '') - Date.parse(known?.updatedAt ?? '')) / 1_000
      // Under way: that is how long the sender holds it.
      expect(seconds).not.toBe(30)
      return seconds
    })
    pauses.push(pause)
    await due(attempt.id)
  }
  await soon(async () => expect(await attempts(run.id)).toMatchObject([{ status: 'failed', tries: 8 }]))
  expect(pauses).toEqual([...pauses].sort((a, b) => a - b))
  const hours = pauses.reduce((sum, pause) => sum + pause, 0) / 3_600
  expect(hours).toBeGreaterThan(0.75)
  expect(hours).toBeLessThan(1.25)
  const { events } = await detail(run.id)
  expect(events.map(({ type }) => type)).toEqual(['run.created', 'recovery.started', 'recovery.failed'])
  expect(events.at(-1)?.payload).toMatchObject({ deliveryId: attempt.id, error: 'the target answered 500' })
})

test('a webhook that does the whole run before it answers is told as delivered', async () => {
  const { run, attempt } = await called('/works')
  await soon(async () => {
    const { events } = await detail(run.id)
    const types = events.map(({ type }) => type)
    expect(types).toEqual(['run.created', 'recovery.started', 'run.started', 'run.completed', 'recovery.delivered'])
    expect(events.at(-1)?.payload).toMatchObject({ deliveryId: attempt.id, httpStatus: 200 })
  })
})

test('a result that comes after another server has taken the delivery over changes nothing', async () => {
  const { run, attempt } = await called('/overtaken')
  await soon(() => expect(hooks.at('/overtaken')).toHaveLength(1))
  await db.cold.query(
    `update tidebase.deliveries set status = 'delivered', tries = 2, http_status = 204 where id = $1`,
    [attempt.id.slice(4)],
  )
  release()
  // Whatever the late result does is done when a delivery after it is.
  const after = await called('/fine')
  await soon(async () => expect(await attempts(after.run.id)).toMatchObject([{ status: 'delivered' }]))
  await new Promise((resolve) => setTimeout(resolve, 200))
  expect(await attempts(run.id)).toMatchObject([{ status: 'delivered', tries: 2, httpStatus: 204 }])
})

test('a recovery by hand is sent although a worker holds the run; one for an ended lease is dropped quietly', async () => {
  const run = await create({ recoveryWebhook: hooks.url('/held') })
  await server.ok('beginRun', { params: { runId: run.id } })
  await recover(run.id, 'lease_expired')
  await soon(async () => {
    const [attempt] = await attempts(run.id)
    expect(attempt).toMatchObject({ status: 'failed', httpStatus: null })
    expect(attempt?.errorText).toMatch(/superseded/)
  })
  expect(hooks.at('/held')).toHaveLength(0)
  await recover(run.id)
  await soon(() => expect(hooks.at('/held')).toHaveLength(1))
  await soon(async () => {
    const { events } = await detail(run.id)
    expect(events.filter(({ type }) => type === 'recovery.delivered')).toHaveLength(1)
    expect(events.filter(({ type }) => type === 'recovery.failed')).toHaveLength(0)
  })
})

test('an invoke whose sender died is not sent again within the horizon', async () => {
  await server.ok('configureQueue', { params: { queue: 'p' }, body: { invokeUrl: hooks.url('/invoke') } })
  const { run } = await server.ok('enqueue', { params: { queue: 'p' }, body: { workflowName: 'w' } })
  const delivered = () => attempts(run.id).then(([attempt]) => attempt)
  await soon(async () => expect(await delivered()).toMatchObject({ status: 'delivered' }))
  // As if the sender had died before it recorded the answer, and its time to do so was over.
  await db.cold.query(
    `update tidebase.deliveries set status = 'pending', http_status = null, next_try_at = now() where run_id = $1`,
    [run.id.slice(4)],
  )
  await soon(async () => expect(await delivered()).toMatchObject({ status: 'failed' }))
  expect(hooks.at('/invoke')).toHaveLength(1)
})

test('targets that never answer, however spelled, do not keep others waiting', async () => {
  // More than all calls that a server makes at once.
  await db.cold.query(
    `insert into tidebase.deliveries (project, run_id, kind, reason, url)
      select 1, gen_random_uuid(), 'channel', 'x', url from unnest($1::text[]) as url, generate_series(1, 200)`,
    [[`http://localhost:${hooks.port}/hang`, `http://LOCALHOST:${hooks.port}?hang`]],
  )
  await soon(() => expect(hooks.received.filter(({ path }) => path.endsWith('hang')).length).toBeGreaterThan(10))
  const { run } = await called('/quick')
  // Before the first of them has used up its 10 s.
  await soon(async () => expect(await attempts(run.id)).toMatchObject([{ status: 'delivered' }]), 8_000)
})

test('a call cut off by a stop is sent by the next server at once and counts as no try', async () => {
  const database = await createDatabase()
  const options = { databaseUrl: database.url }
  const target = await receiver((_, nth) => (nth === 1 ? undefined : 200))
  const first = await startServer(options)
  const { run } = await first.ok('createRun', {
    params: { workflowName: 'w' },
    body: { recoveryWebhook: target.url('/x') },
  })
  await first.ok('recoverRun', { params: { runId: run.id }, body: {} })
  await soon(() => expect(target.received).toHaveLength(1))
  await first.stop()
  const second = await startServer(options)
  await soon(async () => {
    const { recoveryAttempts } = await second.ok('getRun', { params: { runId: run.id } })
    expect(recoveryAttempts).toMatchObject([{ status: 'delivered', tries: 1 }])
  })
  expect(target.received).toHaveLength(2)
  await second.stop()
  target.close()
  await database.drop()
})

describe('several servers', () => {
  test('every delivery is sent once', async () => {
    const second = await startServer({ databaseUrl: server.databaseUrl })
    try {
      const made = await Promise.all(
        Array.from({ length: 150 }, () => create({ channels: [{ type: 'webhook', url: hooks.url('/once') }] })),
      )
      await soon(() => expect(hooks.at('/once')).toHaveLength(made.length))
      expect(new Set(hooks.at('/once').map(({ headers }) => headers['x-tidebase-delivery'])).size).toBe(made.length)
    } finally {
      await second.stop()
    }
  })
})

test('a name that leads inside when it is called is refused, although it looked public before', async () => {
  const idle = await startServer({ apiKey: 'k'.repeat(32), reconciler: false })
  const { run } = await idle.ok('createRun', {
    params: { workflowName: 'w' },
    body: { recoveryWebhook: `http://rebound.example:${hooks.port}/inside` },
  })
  await idle.ok('recoverRun', { params: { runId: run.id }, body: {} })
  const looked: string[] = []
  const lookup: LookupFunction = (name, _, callback) => {
    looked.push(name)
    callback(null, [{ address: '127.0.0.1', family: 4 }])
  }
  const own = openDatabase({ connectionString: idle.databaseUrl })
  const engine: Engine = {
    db: own,
    coalescers: new Coalescers(own),
    wakeups: new Wakeups(own),
    settings: {
      leaseMs: 60_000,
      reconcileMs: 1_000,
      retentionDays: undefined,
      publicUrl: 'http://t',
      webhookSecret: undefined,
      allowPrivateWebhooks: false,
      keyless: false,
    },
  }
  const outbox = startOutbox(engine, { log: () => {}, lookup })
  await soon(async () => {
    const { recoveryAttempts, events } = await idle.ok('getRun', { params: { runId: run.id } })
    expect(recoveryAttempts).toMatchObject([
      { status: 'failed', tries: 1, errorText: 'rebound.example is not a public address' },
    ])
    expect(events.at(-1)?.type).toBe('recovery.failed')
  })
  expect(looked).toEqual(['rebound.example'])
  expect(hooks.at('/inside')).toHaveLength(0)
  await outbox.close()
  await own.close()
  await idle.stop()
})
