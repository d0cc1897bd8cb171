import { once } from 'node:events'
import { connect } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { attacker, eventually, read } from './attacker.ts'
import { type Agent, startTestPlatform, type TestPlatform } from './harness.ts'

// The edge: links of mails, host names, and requests that are written so that two programs read them differently.

let platform: TestPlatform
let agent: Agent

const echo = {
  'main.ts': `${attacker['main.ts']}
tp.route('/echo/*', { methods: ['GET', 'POST'] }, (req) => ({ path: req.path, headers: req.headers, ip: req.ip, text: req.text ?? '' }))
`,
}

beforeAll(async () => {
  platform = await startTestPlatform()
  agent = await platform.agent()
  await platform.deploy(agent, 'echo', echo)
  await platform.deploy(agent, 'neighbour', attacker)
})
afterAll(() => platform.stop())

/** Sends bytes as they are. @returns everything that comes back until the server closes, or nothing more comes */
async function raw(bytes: string): Promise<string> {
  const socket = connect(platform.port, '127.0.0.1')
  await once(socket, 'connect')
  let text = ''
  socket.setEncoding('latin1')
  socket.on('data', (chunk: string) => {
    text += chunk
  })
  socket.on('error', () => {})
  socket.write(bytes, 'latin1')
  socket.setTimeout(1_000, () => socket.destroy())
  await once(socket, 'close')
  return text
}

const statuses = (text: string) => [...text.matchAll(/^HTTP\/1\.1 (\d+)/gm)].map(([, status]) => Number(status))
const bodyOf = (text: string): unknown => JSON.parse(text.slice(text.indexOf('{'), text.lastIndexOf('}') + 1))

describe('the mailed link', () => {
  async function register(email: string) {
    const made = read<{ key: string; verifyUrl: string }>(
      await platform.call('POST', '/api/agents', { body: { email } }),
    )
    const { pathname, search, searchParams, origin } = new URL(made.verifyUrl)
    return { key: made.key, path: pathname + search, token: searchParams.get('token') ?? '', origin }
  }
  const form = (token: string, headers: Record<string, string> = {}) =>
    platform.fetchPod('x', '/verify', {
      method: 'POST',
      headers: { host: `localhost:${platform.port}`, 'content-type': 'application/x-www-form-urlencoded', ...headers },
      body: `token=${encodeURIComponent(token)}`,
    })
  const verified = async (key: string) =>
    read<{ agent: { verified: boolean } }>(await platform.call('GET', '/api/me', { key })).agent.verified

  test('is not used up by whoever opens it, and by the form once', async () => {
    const { key, path, token } = await register('scanned@example.com')
    for (const method of ['GET', 'GET', 'HEAD', 'OPTIONS']) await platform.call(method, path)
    expect(await verified(key)).toBe(false)
    const page = await platform.call('GET', path)
    expect(page).toMatchObject({
      status: 200,
      headers: { 'referrer-policy': 'no-referrer', 'cache-control': 'no-store' },
    })
    expect(page.headers['content-security-policy']).toContain("default-src 'none'")
    const both = await Promise.all([form(token), form(token), form(token)])
    expect(both.map(({ status }) => status).sort()).toEqual([200, 410, 410])
    expect(await verified(key)).toBe(true)
    expect((await form(token)).status).toBe(410)
    expect((await platform.call('POST', '/api/agents/verify', { body: { token } })).status).toBe(410)
  })

  test('carries the configured origin, whatever the request says', async () => {
    const configured = new URL(platform.url).origin
    const tricks: Record<string, string>[] = [
      { 'x-forwarded-host': 'evil.example' },
      { forwarded: 'host=evil.example' },
      { host: `127.0.0.1:${platform.port}`, 'x-forwarded-proto': 'https' },
      { host: 'localhost' },
      { host: 'LOCALHOST.:99' },
    ]
    for (const headers of tricks) {
      const answer = await platform.fetchPod('x', '/api/agents', {
        method: 'POST',
        headers: { host: `localhost:${platform.port}`, 'content-type': 'application/json', ...headers },
        body: JSON.stringify({ email: `o${Math.random()}@example.com` }),
      })
      expect(new URL(read<{ verifyUrl: string }>(answer).verifyUrl).origin).toBe(configured)
    }
    const mails = (await platform.call('GET', '/api/operator/mails', { key: platform.operatorKey })).text
    expect(mails).not.toContain('evil')
  })

  test('shows nothing of what is put into it as markup', async () => {
    const page = await platform.call('GET', `/verify?token=${encodeURIComponent('"><script>alert(1)</script>')}`)
    expect(page.text).not.toContain('<script')
  })

  test('of an address that has an agent tells nothing before it is confirmed', async () => {
    const known = await platform.call('POST', '/api/agents', { body: { email: agent.email } })
    const fresh = await platform.call('POST', '/api/agents', { body: { email: 'never.seen@example.com' } })
    const shape = (text: string) => Object.keys(JSON.parse(text)).sort()
    expect([known.status, shape(known.text)]).toEqual([fresh.status, shape(fresh.text)])
    const { key } = read<{ key: string }>(known)
    expect((await platform.call('GET', '/api/pods', { key })).status).toBe(403)
    expect(read<{ agent: { id: string } }>(await platform.call('GET', '/api/me', { key })).agent.id).not.toBe(agent.id)
  })
})

describe('host names', () => {
  test('that are nobody’s lead nowhere, and never to the platform', async () => {
    for (const host of [
      'evil',
      'evil.example',
      'localhost.evil.example',
      'evil-localhost',
      'a.b.localhost',
      '.localhost',
      'echo.localhost.evil.example',
      'e%63ho.localhost',
      'echo_.localhost',
    ])
      for (const path of ['/api/pods', '/']) {
        const { status } = await platform.fetchPod('x', path, { headers: { host } })
        expect([host, path, status]).toEqual([host, path, expect.toBeOneOf([400, 404])])
      }
  })

  test('said twice are refused', async () => {
    const text = await raw(
      `GET / HTTP/1.1\r\nHost: echo.localhost\r\nHost: neighbour.localhost\r\nConnection: close\r\n\r\n`,
    )
    expect(statuses(text)).toEqual([400])
    expect(statuses(await raw('GET / HTTP/1.1\r\nConnection: close\r\n\r\n'))).toEqual([400])
  })

  test('in the request line are refused, as is anything but a path', async () => {
    for (const target of ['http://neighbour.localhost/echo/x', 'http://localhost/api/pods', '*', 'echo/x', '?x']) {
      const text = await raw(`GET ${target} HTTP/1.1\r\nHost: echo.localhost\r\nConnection: close\r\n\r\n`)
      expect([target, statuses(text)]).toEqual([target, [400]])
    }
    expect(statuses(await raw('OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n'))).toEqual([400])
    expect(await raw('CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: echo.localhost\r\n\r\n')).not.toContain(' 200 ')
    // Two slashes begin a path like any other.
    const text = await raw('GET //evil.example/echo/x HTTP/1.1\r\nHost: echo.localhost\r\nConnection: close\r\n\r\n')
    expect(statuses(text)).toEqual([404])
    const upgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n'
    const two = await raw(`GET /x HTTP/1.1\r\nHost: echo.localhost\r\nHost: neighbour.localhost\r\n${upgrade}`)
    expect(statuses(two)).not.toContain(101)
  })

  test('and forwarded headers from outside do not reach the pod', async () => {
    const evil = [
      'X-Forwarded-For: 6.6.6.6',
      'X-Forwarded-Host: evil.example',
      'X-Forwarded-Proto: gopher',
      'X-Real-IP: 6.6.6.6',
      'Forwarded: for=6.6.6.6;host=evil.example',
      'X-Forwarded-Port: 666',
    ]
    const text = await raw(
      `GET /echo/x HTTP/1.1\r\nHost: echo.localhost:${platform.port}\r\n${evil.join('\r\n')}\r\nConnection: close, X-Forwarded-For\r\nX-FORWARDED-FOR: 6.6.6.6\r\n\r\n`,
    )
    expect(bodyOf(text)).toMatchObject({
      ip: '127.0.0.1',
      headers: {
        'x-forwarded-for': '127.0.0.1',
        'x-forwarded-proto': 'http',
        'x-forwarded-host': `echo.localhost:${platform.port}`,
      },
    })
    expect(text).not.toMatch(/6\.6\.6\.6|evil|gopher|666\b/)
  })
})

describe('requests that two programs could read differently', () => {
  const smuggled = 'GET /echo/smuggled HTTP/1.1\r\nHost: neighbour.localhost\r\n\r\n'
  const head = 'POST /echo/x HTTP/1.1\r\nHost: echo.localhost\r\n'

  test.each([
    ['both lengths', `${head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`],
    [
      'both lengths, the other way around',
      `${head}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n${smuggled}`,
    ],
    ['two lengths', `${head}Content-Length: 0\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`],
    ['a length that is none', `${head}Content-Length: +5\r\n\r\nhello`],
    ['a coding before a space', `${head}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n${smuggled}`],
    ['a coding that is not chunked', `${head}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n${smuggled}`],
    ['chunked not at the end', `${head}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n${smuggled}`],
    ['a chunk size that is none', `${head}Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n`],
    ['folded lines', `${head}X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n`],
    ['a line feed alone', 'GET /echo/x HTTP/1.1\nHost: echo.localhost\n\n'],
    ['a carriage return in a header', `GET /echo/x HTTP/1.1\r\nHost: echo.localhost\r\nX-A: b\rX-B: c\r\n\r\n`],
    ['NUL in a header', `GET /echo/x HTTP/1.1\r\nHost: echo.localhost\r\nX-A: b\0c\r\n\r\n`],
    ['a space in a path', `GET /echo/x y HTTP/1.1\r\nHost: echo.localhost\r\n\r\n`],
  ])('%s', async (_what, bytes) => {
    const text = await raw(bytes)
    expect(statuses(text)).toEqual([400])
    expect(text).not.toContain('smuggled')
  })

  test('line ends in a path stay part of the path', async () => {
    for (const path of [
      '/echo/%0d%0aX-Evil:%201',
      '/echo/%0d%0a%0d%0aGET%20/%20HTTP/1.1',
      '/%0d%0aset-cookie:%20a=b',
      '/api/%0d%0ax:y',
    ]) {
      for (const host of ['echo.localhost', 'localhost']) {
        const text = await raw(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`)
        expect([path, statuses(text)]).toEqual([path, [expect.toBeOneOf([200, 400, 404])]])
        const [headers = ''] = text.split('\r\n\r\n')
        expect(headers.toLowerCase()).not.toMatch(/x-evil|set-cookie/)
      }
    }
  })

  test('what is left of a body after an answer is no request', async () => {
    const text = await raw(
      `POST /nothing-here HTTP/1.1\r\nHost: no-such-app.localhost\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`,
    )
    expect(statuses(text)).toEqual([404])
    expect(text).not.toContain('smuggled')
  })

  test('both pods and the platform go on', async () => {
    await eventually(
      () => platform.fetchPod('echo'),
      ({ status }) => status === 200,
    )
    expect((await platform.fetchPod('neighbour')).text).toBe('the app answers')
    expect((await agent.call('GET', '/api/me')).status).toBe(200)
  })
})
