import { Buffer } from 'node:buffer'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { newRunId, signWebhook, Tidebase } from '../src/index.ts'
import { signalled, watched } from './helpers.ts'

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer()
})
afterAll(() => server.stop(500))

const webhookSecret = 'whsec_test'

function delivery(payload: unknown, signature?: string | null): Request {
  const body = typeof payload === 'string' ? payload : JSON.stringify(payload)
  const header = signature === undefined ? signWebhook(webhookSecret, body) : signature
  return new Request('https://app.example/hook', {
    method: 'POST',
    body,
    headers: { 'content-type': 'application/json', ...(header ? { 'x-tidebase-signature': header } : {}) },
  })
}

test('a delivery is answered at once and executed afterwards', async () => {
  const { tide } = watched(server, { webhookSecret })
  const release = signalled()
  tide.workflow('hooked', async (_run, input: { n: number }) => {
    await release.promise
    return input.n + 1
  })
  const { id } = await tide.runs.create('hooked', { input: { n: 1 } })
  const handle = tide.webhook()
  const payload = { type: 'run.resume', runId: id, workflowName: 'hooked', reason: 'lease_expired', attempt: 1 }
  const response = await handle(delivery(payload))
  expect(response.status).toBe(202)
  expect(await response.json()).toEqual({ accepted: true, runId: id })
  release.done()
  expect(await tide.runs.wait(id)).toMatchObject({ status: 'completed', result: 2 })
})

test('deliveries that come twice execute once; the platform is told how long the work takes', async () => {
  const failures: unknown[] = []
  const { tide } = watched(server, { webhookSecret })
  let ran = 0
  const release = signalled()
  tide.workflow('twice', async () => {
    ran++
    await release.promise
  })
  const { run } = await tide.enqueue('twice', { queue: 'push' })
  const handle = tide.webhook({ onError: (error) => failures.push(error) })
  const work: Promise<void>[] = []
  const waitUntil = (each: Promise<void>) => void work.push(each)
  const payload = { type: 'run.invoke', runId: run.id, workflowName: 'twice', reason: 'queued', attempt: 0 }
  for (let n = 0; n < 3; n++) expect((await handle(delivery(payload), { waitUntil })).status).toBe(202)
  expect(work).toHaveLength(3)
  await Promise.race(work)
  release.done()
  await Promise.all(work)
  expect(ran).toBe(1)
  expect(failures).toEqual([])
  expect((await tide.runs.get(run.id)).run.status).toBe('completed')
  await handle(delivery(payload), { waitUntil })
  await Promise.all(work)
  expect(ran).toBe(1)
})

test('a failure of the work is told, not lost', async () => {
  const told = signalled()
  const failures: unknown[] = []
  const { tide } = watched(server, { webhookSecret })
  tide.workflow('broken', () => {
    throw new Error('no')
  })
  const { id } = await tide.runs.create('broken')
  const onError = (error: unknown, runId: string) => {
    failures.push([error, runId])
    told.done()
  }
  await tide.webhook({ onError })(delivery({ type: 'run.resume', runId: id, workflowName: 'broken' }))
  await told.promise
  expect(failures).toMatchObject([[{ message: 'no' }, id]])
})

/** An address that the server can call, answered by a handler. */
async function hosted(handle: (request: Request) => Promise<Response>) {
  const http = createServer(async (incoming, outgoing) => {
    const chunks: Uint8Array[] = []
    for await (const chunk of incoming) chunks.push(chunk)
    const body = Buffer.concat(chunks)
    const headers = Object.entries(incoming.headers).flatMap(([name, value]) =>
      typeof value === 'string' ? [[name, value] satisfies [string, string]] : [],
    )
    const response = await handle(new Request('http://hook/', { method: incoming.method ?? 'GET', headers, body }))
    outgoing.writeHead(response.status).end(await response.text())
  }).listen(0, '127.0.0.1')
  await once(http, 'listening')
  const address = http.address()
  return {
    url: `http://127.0.0.1:${typeof address === 'object' && address ? address.port : 0}/`,
    close: () => new Promise((resolve) => http.close(resolve)),
  }
}

test('the server calls: a failed run is resumed, a pushed queue is executed', async () => {
  const signing = await startServer({ webhookSecret })
  const { tide } = watched(signing, { webhookSecret })
  const ran: string[] = []
  tide.workflow('recovers', async (run) => {
    await run.step('first', () => void ran.push('first'))
    if (run.attempt === 1) throw new Error('once')
    return run.attempt
  })
  const hook = await hosted(tide.webhook({ onError: () => {} }))
  const { id } = await tide.runs.create('recovers', { recoveryWebhook: hook.url })
  await expect(tide.run('recovers', { runId: id })).rejects.toThrow('once')
  await vi.waitFor(
    async () => expect((await tide.runs.get(id)).run).toMatchObject({ status: 'completed', result: 2 }),
    {
      timeout: 10_000,
    },
  )
  expect(ran).toEqual(['first'])

  tide.workflow('pushed', (_run, input: number) => input + 1)
  await tide.queues.configure('push', { invokeUrl: hook.url })
  const { run } = await tide.enqueue('pushed', { queue: 'push', input: 1 })
  expect(await tide.runs.wait(run.id, { timeoutMs: 10_000 })).toMatchObject({ status: 'completed', result: 2 })
  await hook.close()
  await signing.stop(500)
})

const payload = { type: 'run.resume', runId: newRunId(), workflowName: 'known' }

test.each([
  ['a wrong signature', delivery(payload, signWebhook('other', JSON.stringify(payload))), 401, 'invalid_signature'],
  ['no signature', delivery(payload, null), 401, 'invalid_signature'],
  ['a body changed on its way', delivery(payload, signWebhook(webhookSecret, '{}')), 401, 'invalid_signature'],
  ['another method', new Request('https://app.example/hook'), 405, 'method_not_allowed'],
  ['something that is not JSON', delivery('nonsense'), 422, 'unknown_webhook'],
  ['bytes that are not text', delivery('\ud800'), 422, 'unknown_webhook'],
  ['a channel’s event', delivery({ type: 'gate.created', runId: payload.runId }), 422, 'unknown_webhook'],
  ['a workflow not registered', delivery({ ...payload, workflowName: 'unknown' }), 404, 'workflow_not_registered'],
  ['a huge body', delivery('x'.repeat(1_100_000)), 413, 'body_too_large'],
])('%s is refused', async (_, request, status, code) => {
  const { tide, requests } = watched(server, { webhookSecret })
  tide.workflow('known', () => 1)
  const response = await tide.webhook()(request)
  expect(response.status).toBe(status)
  expect(await response.json()).toEqual({ error: expect.any(String), code, hint: expect.any(String) })
  expect(requests).toEqual([])
})

test('without a secret there is no handler', () => {
  expect(() => new Tidebase({ webhookSecret: '' }).webhook()).toThrow(
    expect.objectContaining({ code: 'webhook_secret_missing' }),
  )
})
