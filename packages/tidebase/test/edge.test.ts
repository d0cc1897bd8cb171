import { once } from 'node:events'
import { connect } from 'node:net'
import type { ErrorBody } from '@tidebase/wire'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startServer } from '../../../test/server.ts'

// What arrives at the door: malformed bodies, wrong methods, pages of other sites, slow and silent clients.

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer({ maxBody: 100_000, corsOrigins: ['https://app.example'] })
})
afterAll(() => server.stop())

const post = async (path: string, body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) => {
  const response = await fetch(server.url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body,
  })
  const parsed: ErrorBody = await response.json().then(Object)
  return { status: response.status, body: parsed }
}

/** Sends bytes as they are and gives what comes back. */
const raw = async (text: string) => {
  const { hostname, port } = new URL(server.url)
  const socket = connect(Number(port), hostname)
  let reply = ''
  socket.on('data', (chunk) => {
    reply += chunk
  })
  socket.write(text)
  await once(socket, 'close')
  return reply
}

test.each([
  ['no JSON', '{"input": nope}', 'invalid_json', undefined],
  ['a truncated body', '{"input": {"a": [1, 2', 'invalid_json', undefined],
  ['bytes that are not UTF-8', new Uint8Array([0x7b, 0xff, 0xfe, 0x7d]), 'invalid_json', undefined],
  ['nesting without end', `{"input":${'['.repeat(5_000)}${']'.repeat(5_000)}}`, 'invalid_json', undefined],
  ['NUL', '{"input":{"a":["x\\u0000"]}}', 'invalid_body', 'input.a[0]'],
  ['NUL in a key', '{"input":{"a\\u0000":1}}', 'invalid_body', 'input.a\0'],
  ['half a surrogate pair', '{"input":{"a":"\\ud800"}}', 'invalid_body', 'input.a'],
  ['__proto__', '{"input":{"b":{"__proto__":{"admin":true}}}}', 'invalid_body', 'input.b.__proto__'],
  ['metadata that is no object', '{"metadata":[1]}', 'invalid_body', 'metadata'],
  ['a body that is no object', '[1]', 'invalid_body', ''],
  ['a webhook that is no URL', '{"recoveryWebhook":"nope"}', 'invalid_body', 'recoveryWebhook'],
  [
    'a channel of an unknown type',
    '{"channels":[{"type":"fax","url":"https://a.example"}]}',
    'invalid_body',
    'channels[0].type',
  ],
  ['an id that is none', '{"id":"run_1"}', 'invalid_body', 'id'],
])('%s is refused with its place', async (_, body, code, path) => {
  const reply = await post('/runs/w', body)
  expect(reply.status).toBe(400)
  expect(reply.body).toMatchObject({ code, error: expect.any(String), hint: expect.any(String) })
  if (path !== undefined) expect(reply.body.issues?.map((issue) => issue.path)).toContain(path)
})

test('text that only mentions what is refused elsewhere is fine', async () => {
  const input = {
    text: '__proto__ and \\u0000 in words',
    emoji: '😀',
    deep: JSON.parse(`${'['.repeat(150)}${']'.repeat(150)}`),
  }
  const { run } = await server.ok('createRun', { params: { workflowName: 'w' }, body: { input } })
  expect(run.input).toEqual(input)
})

test('a body over the limit is 413, with and without a declared length', async () => {
  const large = JSON.stringify({ input: 'x'.repeat(200_000) })
  expect(await post('/runs/w', large)).toMatchObject({ status: 413, body: { code: 'body_too_large' } })
  const chunked = await raw(
    `POST /runs/w HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n${large.length.toString(16)}\r\n${large}\r\n0\r\n\r\n`,
  )
  expect(chunked).toContain('413')
  expect(chunked).toContain('body_too_large')
})

test('a body that is not JSON by its type is 415; none at all counts as empty', async () => {
  for (const type of ['text/plain', 'application/x-www-form-urlencoded', '']) {
    expect(await post('/runs/w', '{}', { 'content-type': type })).toMatchObject({
      status: 415,
      body: { code: 'unsupported_media_type' },
    })
  }
  const vendor = await post('/runs/w', '{}', { 'content-type': 'application/vnd.x+json; charset=utf-8' })
  expect(vendor.status).toBe(200)
  expect((await fetch(`${server.url}/runs/w`, { method: 'POST' })).status).toBe(200)
})

test('an unknown path is 404 and a wrong method 405 with the right ones', async () => {
  expect(await server.call('GET', '/nope/nope')).toMatchObject({ status: 404, body: { code: 'route_not_found' } })
  const wrong = await server.call('DELETE', '/runs')
  expect(wrong).toMatchObject({ status: 405, body: { code: 'method_not_allowed' } })
  expect(wrong.headers.get('allow')).toBe('GET, OPTIONS')
  expect(await server.call('POST', '/runs/%E0%A4%A/begin')).toMatchObject({
    status: 400,
    body: { code: 'invalid_query' },
  })
  expect(await server.call('POST', `/runs/${'x'.repeat(400)}`)).toMatchObject({ status: 400 })
})

test('names with slashes, spaces and unicode work when they are encoded', async () => {
  const workflowName = 'a/b c:ü😀'
  const { run } = await server.ok('createRun', { params: { workflowName }, body: {} })
  expect(run.workflowName).toBe(workflowName)
})

test('pages of other sites are refused, allowed origins are answered', async () => {
  const from = (origin: string, method = 'GET') => fetch(`${server.url}/runs`, { method, headers: { origin } })
  const evil = await from('https://evil.example')
  expect(evil.status).toBe(403)
  expect(await evil.json()).toMatchObject({ code: 'cross_site' })
  expect((await from('null')).status).toBe(403)
  const allowed = await from('https://app.example')
  expect(allowed.status).toBe(200)
  expect(allowed.headers.get('access-control-allow-origin')).toBe('https://app.example')
  const preflight = await from('https://app.example', 'OPTIONS')
  expect(preflight.status).toBe(204)
  expect(preflight.headers.get('access-control-allow-headers')).toContain('authorization')
  expect((await from(server.url)).status).toBe(200)
})

test('a host name that is not this machine’s is refused, so that DNS rebinding finds nothing', async () => {
  const reply = await raw('GET /runs HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n')
  expect(reply).toContain('403')
  expect(reply).toContain('cross_site')
  expect(await raw('GET /runs HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\n\r\n')).toContain('200 OK')
})

test.each([
  ['no HTTP', 'hello\r\n\r\n', 400, 'bad_request'],
  ['a header without a name', 'GET /health HTTP/1.1\r\nhost: x\r\n: y\r\n\r\n', 400, 'bad_request'],
  [
    'two lengths',
    'POST /runs/w HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}',
    400,
    'bad_request',
  ],
  [
    'headers without end',
    `GET /health HTTP/1.1\r\nhost: x\r\nx: ${'y'.repeat(20_000)}\r\n\r\n`,
    431,
    'headers_too_large',
  ],
])('%s is answered in the one shape of errors', async (_, text, status, code) => {
  const [head = '', body = ''] = (await raw(text)).split('\r\n\r\n')
  expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} .*content-type: application/json`, 's'))
  expect(JSON.parse(body)).toEqual({ code, error: expect.any(String), hint: expect.any(String) })
})

test('garbage behind a request is refused at once, and never in the middle of an answer', async () => {
  const get = (path: string) => `GET ${path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n`
  expect(await raw(`${get('/health')}garbage\r\n\r\n`)).toMatch(/^HTTP\/1.1 400 .*"code":"bad_request"[^}]*}$/s)
  const { hostname, port } = new URL(server.url)
  const socket = connect(Number(port), hostname)
  let reply = ''
  socket.on('data', (chunk) => {
    if (reply === '') socket.write('garbage\r\n\r\n')
    reply += chunk
  })
  socket.on('error', () => {})
  socket.write(get('/events'))
  await once(socket, 'close')
  expect(reply).toMatch(/^HTTP\/1.1 200 /)
  expect(reply).not.toContain('bad_request')
})

test('half-sent requests and silent streams do not stop others', async () => {
  const { hostname, port } = new URL(server.url)
  const slow = Array.from({ length: 200 }, () => {
    const socket = connect(Number(port), hostname)
    socket.on('error', () => {})
    socket.write('POST /runs/w HTTP/1.1\r\nHost: localhost\r\nContent-Ty')
    return socket
  })
  const { run } = await server.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  const stop = new AbortController()
  const streams = await Promise.all(
    Array.from({ length: 200 }, () => fetch(`${server.url}/runs/${run.id}/events`, { signal: stop.signal })),
  )
  const params = { runId: run.id }
  await server.ok('beginRun', { params, headers: { 'x-tidebase-worker': 'w' } })
  for (let n = 0; n < 20; n++) {
    await server.ok('recordStep', { params, body: { name: `s${n}`, inputHash: 'h', leaseOwner: 'w', output: n } })
  }
  // Each stream has it all, the first event to the last.
  await Promise.all(
    streams.map(async ({ body }) => {
      let text = ''
      const decoder = new TextDecoder()
      for await (const chunk of body ?? []) {
        text += decoder.decode(chunk, { stream: true })
        if (text.includes('id: 42\n')) break
      }
      expect(text).toContain('id: 1\n')
    }),
  )
  stop.abort()
  for (const socket of slow) socket.destroy()
})

test('stopping does not wait for connections that never asked anything', async () => {
  const own = await startServer()
  const { hostname, port } = new URL(own.url)
  const silent = connect(Number(port), hostname)
  await once(silent, 'connect')
  const closed = once(silent, 'close')
  silent.on('error', () => {})
  let late = false
  // Far beyond any grace: only a wait for the silent connection could take that long.
  const stopped = own.stop(3_600_000)
  await Promise.race([stopped, new Promise((resolve) => setTimeout(resolve, 20_000)).then(() => (late = true))])
  expect(late).toBe(false)
  await closed
})
