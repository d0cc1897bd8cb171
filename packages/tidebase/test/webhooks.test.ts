import { createHmac } from 'node:crypto'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'
import { receiver } from './receiver.ts'

/** Waits until the check passes; patient, because the machine may be busy. */
const soon = <T>(check: () => T | Promise<T>, timeout = 10_000) => vi.waitFor(check, { timeout, interval: 50 })

const secret = 'whsec_test'
let server: Awaited<ReturnType<typeof startServer>>
let hooks: Awaited<ReturnType<typeof receiver>>
beforeAll(async () => {
  server = await startServer({ webhookSecret: secret, leaseMs: 300, publicUrl: 'https://tide.example' })
  hooks = await receiver(({ path, raw }, _, response) => {
    if (path === '/echo') return void response.end(raw)
    return path === '/broken' ? 500 : path === '/moved' ? 302 : 200
  })
})
afterAll(async () => {
  await server.stop()
  hooks.close()
})

const at = (path: string) => hooks.at(path)
const create = async (body: object) => (await server.ok('createRun', { params: { workflowName: 'w' }, body })).run
const begin = (runId: string, worker = 'w1') =>
  server.ok('beginRun', { params: { runId }, headers: { 'x-tidebase-worker': worker } })

test('recover calls the run’s webhook, signed, and records the answer and events', async () => {
  const run = await create({ recoveryWebhook: hooks.url('/recover') })
  const { recoveryAttempt } = await server.ok('recoverRun', { params: { runId: run.id }, body: { reason: 'by hand' } })
  expect(recoveryAttempt).toMatchObject({ runId: run.id, reason: 'by hand', status: 'pending' })
  await soon(() => expect(at('/recover')).toHaveLength(1))
  const [call] = at('/recover')
  expect(call?.body).toEqual({ type: 'run.resume', runId: run.id, workflowName: 'w', reason: 'by hand', attempt: 0 })
  const signature = createHmac('sha256', secret)
    .update(call?.raw ?? '')
    .digest('hex')
  expect(call?.headers['x-tidebase-signature']).toBe(`sha256=${signature}`)
  expect(call?.headers['x-tidebase-delivery']).toBe(recoveryAttempt.id)
  expect(Math.abs(Number(call?.headers['x-tidebase-timestamp']) - Date.now() / 1000)).toBeLessThan(60)
  await soon(async () => {
    const detail = await server.ok('getRun', { params: { runId: run.id } })
    expect(detail.recoveryAttempts).toMatchObject([
      { id: recoveryAttempt.id, status: 'delivered', httpStatus: 200, responseBody: 'status 200', tries: 1 },
    ])
    expect(detail.events.map(({ type }) => type)).toEqual(['run.created', 'recovery.started', 'recovery.delivered'])
  })
})

test('recover without a webhook is 422, of an ended run 409, of no run 404', async () => {
  const bare = await create({})
  expect(await server.send('recoverRun', { params: { runId: bare.id }, body: {} })).toMatchObject({
    status: 422,
    body: { code: 'no_recovery_webhook' },
  })
  const ended = await create({ recoveryWebhook: hooks.url('/never') })
  await server.ok('cancelRun', { params: { runId: ended.id }, body: {} })
  expect(await server.send('recoverRun', { params: { runId: ended.id }, body: {} })).toMatchObject({ status: 409 })
  const none = `run_${'0'.repeat(32)}`
  expect(await server.send('recoverRun', { params: { runId: none }, body: {} })).toMatchObject({ status: 404 })
})

test('a failed run calls its webhook with the reason run_failed', async () => {
  const run = await create({ recoveryWebhook: hooks.url('/failed') })
  await begin(run.id)
  await server.ok('failRun', { params: { runId: run.id }, body: { error: 'boom', leaseOwner: 'w1' } })
  await soon(() => expect(at('/failed')).toHaveLength(1))
  expect(at('/failed')[0]?.body).toMatchObject({ type: 'run.resume', runId: run.id, reason: 'run_failed', attempt: 1 })
})

test('an expired lease calls the webhook once per lease window, until somebody begins', async () => {
  const run = await create({ recoveryWebhook: hooks.url('/expired') })
  await begin(run.id)
  await soon(() => expect(at('/expired').length).toBeGreaterThanOrEqual(2))
  expect(at('/expired')[0]?.body).toMatchObject({ reason: 'lease_expired', runId: run.id })
  await begin(run.id, 'w2')
  await server.ok('completeRun', { params: { runId: run.id }, body: { leaseOwner: 'w2' } })
  const calls = at('/expired').length
  const { recoveryAttempts, events } = await server.ok('getRun', { params: { runId: run.id } })
  expect(recoveryAttempts.length).toBeLessThanOrEqual(calls + 1)
  expect(events.map(({ seq }) => seq)).toEqual(events.map((_, n) => n + 1))
})

test('a target that fails is tried again later, and a redirect is not followed', async () => {
  for (const path of ['/broken', '/moved']) {
    const run = await create({ recoveryWebhook: hooks.url(path) })
    await server.ok('recoverRun', { params: { runId: run.id }, body: {} })
    await soon(async () => {
      const { recoveryAttempts } = await server.ok('getRun', { params: { runId: run.id } })
      expect(recoveryAttempts).toMatchObject([
        { status: 'pending', tries: 1, httpStatus: path === '/moved' ? 302 : 500 },
      ])
      expect(Date.parse(recoveryAttempts[0]?.nextTryAt ?? '')).toBeGreaterThan(Date.now() + 2_000)
    })
  }
  expect(at('/redirected')).toHaveLength(0)
})

test('channels get the events they asked for, signed with their own secret; gates carry the token, the record does not', async () => {
  const run = await create({
    channels: [
      { type: 'webhook', url: hooks.url('/gates'), secret: 'chan', events: ['gate.created'] },
      { type: 'webhook', url: hooks.url('/all') },
    ],
  })
  const { gate } = await server.ok('beginGate', { params: { runId: run.id }, body: { name: 'g', prompt: 'ok?' } })
  await soon(() => expect(at('/gates')).toHaveLength(1))
  const [call] = at('/gates')
  expect(call?.headers['x-tidebase-signature']).toBe(
    `sha256=${createHmac('sha256', 'chan')
      .update(call?.raw ?? '')
      .digest('hex')}`,
  )
  expect(call?.body).toMatchObject({
    type: 'gate.created',
    runId: run.id,
    gateId: gate.id,
    payload: {
      name: 'g',
      resolveUrl: `https://tide.example/runs/${run.id}/gates/${gate.id}/resolve`,
      resolveToken: gate.resolveToken,
    },
  })
  await soon(() =>
    expect(
      at('/all')
        .map(({ body }) => body.type)
        .sort(),
    ).toEqual(['gate.created', 'run.created']),
  )
  expect(at('/all')[0]?.headers['x-tidebase-signature']).toBeUndefined()
  const detail = await server.ok('getRun', { params: { runId: run.id } })
  expect(detail.channels).toHaveLength(2)
  expect(detail.channelDeliveries).toHaveLength(3)
  expect(JSON.stringify([detail.channels, detail.channelDeliveries, detail.events])).not.toMatch(
    new RegExp(`chan"|${gate.resolveToken}`),
  )
})

test('a target that answers with the token it was sent does not get it recorded', async () => {
  const run = await create({ channels: [{ type: 'webhook', url: hooks.url('/echo'), events: ['gate.created'] }] })
  const { gate } = await server.ok('beginGate', { params: { runId: run.id }, body: { name: 'g', prompt: 'ok?' } })
  await soon(async () => {
    const { channelDeliveries } = await server.ok('getRun', { params: { runId: run.id } })
    expect(channelDeliveries).toMatchObject([{ status: 'delivered', type: 'gate.created' }])
    expect(channelDeliveries[0]?.responseBody).toContain('"resolveToken":"[concealed]"')
  })
  const db = openDatabase({ connectionString: server.databaseUrl })
  const rows = await db.cold.query<{ row: string }>('select d::text as row from tidebase.deliveries d')
  await db.close()
  expect(rows.length).toBeGreaterThan(0)
  expect(rows.filter(({ row }) => row.includes(String(gate.resolveToken)))).toEqual([])
})

test('a pushed queue counts what it asked for against its rate, also for those who claim', async () => {
  await server.ok('configureQueue', {
    params: { queue: 'rated' },
    body: { invokeUrl: hooks.url('/rated'), ratePerMinute: 3 },
  })
  for (let n = 0; n < 5; n++) await server.ok('enqueue', { params: { queue: 'rated' }, body: { workflowName: 'p' } })
  await soon(() => expect(at('/rated')).toHaveLength(3))
  expect((await server.ok('claim', { body: { queues: ['rated'], limit: 10 } })).runs).toEqual([])
  expect(at('/rated')).toHaveLength(3)
})

test('a pushed queue invokes its runs once within the horizon and within its cap; they stay queued until begun', async () => {
  await server.ok('configureQueue', {
    params: { queue: 'push' },
    body: { invokeUrl: hooks.url('/invoke'), concurrency: 12 },
  })
  const ids: string[] = []
  for (let n = 0; n < 15; n++) {
    const { run } = await server.ok('enqueue', { params: { queue: 'push' }, body: { workflowName: 'p' } })
    ids.push(run.id)
  }
  await soon(() => expect(at('/invoke')).toHaveLength(12))
  const first = String(at('/invoke')[0]?.body.runId)
  expect(at('/invoke')[0]?.body).toMatchObject({ type: 'run.invoke', reason: 'queue', workflowName: 'p' })
  expect((await server.ok('getRun', { params: { runId: first } })).run.status).toBe('queued')
  await begin(first, 'pushed')
  await server.ok('completeRun', { params: { runId: first }, body: { leaseOwner: 'pushed' } })
  await soon(() => expect(at('/invoke')).toHaveLength(13))
  const asked = at('/invoke').map(({ body }) => String(body.runId))
  expect(new Set(asked).size).toBe(13)
  expect(ids).toEqual(expect.arrayContaining(asked))
})

const privateTargets = [
  'http://127.0.0.1/x',
  'http://localhost/x',
  'http://a.localhost/x',
  'http://0.0.0.0/x',
  'http://[::]/x',
  'http://[::1]/x',
  'http://[::ffff:7f00:1]/x',
  'http://[::7f00:1]/x',
  'http://[64:ff9b::7f00:1]/x',
  'http://2130706433/x',
  'http://0177.0.0.1/x',
  'http://0x7f.1/x',
  'http://10.0.0.1/x',
  'http://172.16.5.4/x',
  'http://192.168.1.1/x',
  'http://100.64.0.1/x',
  'http://169.254.169.254/latest/meta-data',
  'http://[fe80::1]/x',
  'http://[fd00::1]/x',
  'http://metadata.google.internal/x',
  'http://user:secret@example.com/x',
]

test('webhooks on private, loopback and metadata addresses are refused, however they are written', async () => {
  const apiKey = 'k'.repeat(32)
  const closed = await startServer({ databaseUrl: server.databaseUrl, apiKey, reconciler: false })
  try {
    for (const url of privateTargets) {
      const refusals = [
        await closed.send('createRun', { params: { workflowName: 'w' }, body: { recoveryWebhook: url } }),
        await closed.send('createRun', {
          params: { workflowName: 'w' },
          body: { channels: [{ type: 'webhook', url }] },
        }),
        await closed.send('configureQueue', { params: { queue: 'q' }, body: { invokeUrl: url } }),
      ]
      for (const { status, body } of refusals) {
        expect({ url, status, code: body.code }).toEqual({ url, status: 422, code: 'webhook_target_refused' })
        expect(body.issues?.[0]?.path).toMatch(/^(recoveryWebhook|channels\[0\]\.url|invokeUrl)$/)
      }
    }
    const fine = await closed.send('createRun', {
      params: { workflowName: 'w' },
      body: { recoveryWebhook: 'https://93.184.215.14/hook' },
    })
    expect(fine.status).toBe(200)
  } finally {
    await closed.stop()
  }
})

test('a delivery that a stopped server left is sent by the next one', async () => {
  const apiKey = 'k'.repeat(32)
  const idle = await startServer({ apiKey, reconciler: false, allowPrivateWebhooks: true })
  const { run } = await idle.ok('createRun', {
    params: { workflowName: 'w' },
    body: { recoveryWebhook: hooks.url('/later') },
  })
  await idle.ok('recoverRun', { params: { runId: run.id }, body: {} })
  expect(at('/later')).toHaveLength(0)
  const next = await startServer({ databaseUrl: idle.databaseUrl, apiKey, allowPrivateWebhooks: true })
  await soon(() => expect(at('/later')).toHaveLength(1))
  await next.stop()
  await idle.stop()
})
