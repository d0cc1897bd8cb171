import { mkdtemp, rm } from 'node:fs/promises'
import { Agent, createServer, type IncomingHttpHeaders, request, type Server } from 'node:http'
import { type AddressInfo, connect, createServer as createNetServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { createProxy } from '../src/gateway/proxy.ts'
import { createTraffic } from '../src/gateway/traffic.ts'
import type { Replica } from '../src/replicas.ts'

const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

/** A pod that speaks raw bytes: `serve` is called for each piece that comes. */
async function rawPod(serve: (socket: Socket, text: string, connection: number) => void, backlog = 511) {
  const dir = await mkdtemp(join(tmpdir(), 'tpg-'))
  const path = join(dir, 'pod.sock')
  const sockets = new Set<Socket>()
  const pod = { path, connections: 0, requests: 0, sockets }
  const server = createNetServer((socket) => {
    const connection = ++pod.connections
    sockets.add(socket.setNoDelay())
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
    socket.on('data', (chunk) => {
      pod.requests++
      serve(socket, chunk.toString('latin1'), connection)
    })
  })
  await new Promise<void>((resolve) => server.listen({ path, backlog }, resolve))
  closers.push(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
    await rm(dir, { recursive: true, force: true })
  })
  return pod
}

/** The gateway in front of processes that listen at these paths. */
async function gateway(...paths: string[]) {
  const replicas: Replica[] = paths.map((socket, n) => ({
    id: `r${n}`,
    state: 'healthy',
    socket,
    restarts: 0,
    startedAt: 0,
    inFlight: 0,
  }))
  const proxy = createProxy({
    traffic: createTraffic(),
    protocol: 'http',
    trustProxy: false,
    fleet: { route: (name) => ({ pod: 'p', name, status: 'running', deployment: 'd' }) },
    replicas: {
      healthy: () => replicas,
      of: () => replicas.map((each) => ({ ...each, deployment: 'd', memory: undefined })),
      groups: () => [{ pod: 'p', deployment: 'd', desired: replicas.length }],
      released() {},
    },
  })
  const http: Server = createServer((req, res) => proxy.web(req, res, 'app'))
  http.on('upgrade', (req, socket, head) => proxy.upgrade(req, socket, head, 'app'))
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve))
  const { port } = http.address() as AddressInfo
  closers.push(async () => {
    await proxy.close()
    http.closeAllConnections()
    await new Promise((resolve) => http.close(resolve))
    for (const { inFlight } of replicas) expect(inFlight).toBe(0)
  })
  return { port, replicas }
}

interface Answer {
  status: number
  message: string
  headers: IncomingHttpHeaders
  text: string
  whole: boolean
}

function ask(
  port: number,
  options: { method?: string; headers?: Record<string, string>; body?: string | Buffer } = {},
) {
  const { method = 'GET', headers = {}, body } = options
  return new Promise<Answer>((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port, method, headers, path: '/a?b=c', agent: new Agent() }, (answer) => {
      let text = ''
      answer.setEncoding('latin1').on('data', (chunk: string) => {
        text += chunk
      })
      const { statusCode: status = 0, statusMessage: message = '' } = answer
      answer.on('error', () => {})
      answer.on('close', () => resolve({ status, message, headers: answer.headers, text, whole: answer.complete }))
    })
    sent.on('error', reject)
    sent.end(body)
  })
}

const ok = (text: string, more = '') => `HTTP/1.1 200 OK\r\n${more}Content-Length: ${text.length}\r\n\r\n${text}`

describe('what is no answer', () => {
  test.each([
    ['garbage', 'SSH-2.0-x\r\n\r\n'],
    ['two lengths', 'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxy'],
    ['a length and chunks', 'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\nxy'],
    ['a length that is none', 'HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\nxy'],
    ['an unknown coding', 'HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n'],
    ['a space before the colon', 'HTTP/1.1 200 OK\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n'],
    ['a folded header', 'HTTP/1.1 200 OK\r\na: b\r\n c\r\ncontent-length: 0\r\n\r\n'],
    ['a line feed in a header', 'HTTP/1.1 200 OK\r\na: b\nc: d\r\ncontent-length: 0\r\n\r\n'],
    ['a control character in the reason', 'HTTP/1.1 200 O\u0001K\r\ncontent-length: 0\r\n\r\n'],
    ['another protocol', 'HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n'],
    ['an endless head', `HTTP/1.1 200 OK\r\na: ${'b'.repeat(70_000)}`],
  ])('%s is refused with 502 at once', async (_, bytes) => {
    const pod = await rawPod((socket) => socket.write(bytes, 'latin1'))
    const { port } = await gateway(pod.path)
    expect(await ask(port)).toMatchObject({ status: 502, message: 'Bad Gateway' })
    expect(pod.connections).toBe(1)
  })

  test('a chunk with a wrong size ends the answer in the middle', async () => {
    const pod = await rawPod((socket) =>
      socket.write('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n'),
    )
    const { port } = await gateway(pod.path)
    expect(await ask(port).catch(() => ({ whole: false }))).toMatchObject({ whole: false })
  })
})

describe('connections to a pod', () => {
  test('are kept', async () => {
    const pod = await rawPod((socket) => socket.write(ok('x')))
    const { port } = await gateway(pod.path)
    for (let n = 0; n < 5; n++) expect((await ask(port)).text).toBe('x')
    expect(pod.connections).toBe(1)
  })

  test('do not carry the next answer when something came that nobody asked for', async () => {
    const pod = await rawPod((socket, _, n) => socket.write(ok(`first of ${n}`) + ok('evil')))
    const { port } = await gateway(pod.path)
    expect((await ask(port)).text).toBe('first of 1')
    expect((await ask(port)).text).toBe('first of 2')
    const late = await rawPod((socket, _, n) => {
      socket.write(ok(`first of ${n}`))
      setTimeout(() => socket.write(ok('evil')), 20)
    })
    const second = await gateway(late.path)
    expect((await ask(second.port)).text).toBe('first of 1')
    await vi.waitFor(() => expect(late.sockets.size).toBe(0))
    expect((await ask(second.port)).text).toBe('first of 2')
  })

  test('that the pod has closed meanwhile cost a GET nothing; a POST is not repeated', async () => {
    let served = 0
    const pod = await rawPod((socket) => (++served % 2 ? socket.write(ok('x')) : socket.destroy()))
    const { port } = await gateway(pod.path)
    expect((await ask(port)).status).toBe(200)
    expect((await ask(port)).status).toBe(200)
    expect(pod.connections).toBe(2)
    expect((await ask(port, { method: 'POST', body: 'x' })).status).toBe(502)
    expect(pod.requests).toBe(4)
  })

  test('are tried again while more come than the pod’s queue holds', async () => {
    const pod = await rawPod((socket) => socket.write(ok('x')), 1)
    const { port } = await gateway(pod.path)
    const answers = await Promise.all(Array.from({ length: 100 }, () => ask(port)))
    expect(answers.every(({ status }) => status === 200)).toBe(true)
  })
})

describe('requests', () => {
  test('keep their bytes; what tells of the client and the hop is ours', async () => {
    let seen = ''
    const pod = await rawPod((socket, text) => {
      seen = text
      socket.write(ok('x', 'X-Raw: gr\u00c3\u00a0\r\nKeep-Alive: timeout=9\r\nTE: x\r\nDate: today\r\n'), 'latin1')
    })
    const { port } = await gateway(pod.path)
    const raw = connect(port, '127.0.0.1')
    raw.write(
      'POST /%C3%A0?q=%20 HTTP/1.1\r\nHost: app.localhost\r\nX-Mine: \u00c3\u00a0\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nTE: trailers\r\nX-Hop: y\r\nConnection: x-hop, content-length\r\nContent-Length: 2\r\n\r\nhi',
      'latin1',
    )
    const answer = await new Promise<string>((resolve) =>
      raw.once('data', (chunk) => resolve(chunk.toString('latin1'))),
    )
    raw.destroy()
    expect(answer).toContain('X-Raw: gr\u00c3\u00a0\r\n')
    expect(answer).toContain('Date: today\r\n')
    expect(answer).not.toMatch(/timeout=9|TE: x/)
    expect(seen).toBe(
      'POST /%C3%A0?q=%20 HTTP/1.1\r\nHost: app.localhost\r\nX-Mine: \u00c3\u00a0\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\nx-forwarded-host: app.localhost\r\ncontent-length: 2\r\n\r\nhi',
    )
  })

  test('with large bodies arrive whole, by length and in chunks', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'tpg-'))
    const path = join(dir, 'pod.sock')
    const pod = createServer((req, res) => req.pipe(res)).listen(path)
    closers.push(
      () => rm(dir, { recursive: true }),
      () => new Promise((resolve) => pod.close(resolve)),
    )
    closers.push(() => pod.closeAllConnections())
    const { port } = await gateway(path)
    const body = Buffer.alloc(3_000_000, 'abcdefg')
    const framings: Record<string, string>[] = [
      { 'content-length': String(body.length) },
      { 'transfer-encoding': 'chunked' },
    ]
    for (const headers of framings)
      expect((await ask(port, { method: 'POST', headers, body })).text === body.toString()).toBe(true)
    expect((await ask(port, { method: 'HEAD' })).status).toBe(200)
  })

  test('may be answered before their body has come', async () => {
    const answered = new Set<Socket>()
    const pod = await rawPod((socket) => {
      if (!answered.has(socket)) socket.write(ok('enough'))
      answered.add(socket)
    })
    const { port } = await gateway(pod.path)
    const body = Buffer.alloc(5_000_000)
    expect(await ask(port, { method: 'POST', body })).toMatchObject({ status: 200, text: 'enough' })
    expect((await ask(port, { method: 'POST', body: 'x' })).text).toBe('enough')
    expect(pod.connections).toBe(2)
  })

  test('that never left go to another process, with their bodies', async () => {
    const pod = await rawPod((socket) => socket.write(ok('here')))
    const { port, replicas } = await gateway(pod.path, join(tmpdir(), 'tpg-nobody.sock'))
    for (let n = 0; n < 6; n++) expect((await ask(port, { method: 'POST', body: 'x' })).text).toBe('here')
    expect(replicas.every(({ inFlight }) => inFlight === 0)).toBe(true)
  })

  test('that may be repeated go to another process when theirs dies', async () => {
    const dying = await rawPod((socket) => socket.destroy())
    const pod = await rawPod((socket) => socket.write(ok('here')))
    const { port } = await gateway(dying.path, pod.path)
    for (let n = 0; n < 6; n++) expect((await ask(port)).text).toBe('here')
  })

  test('end at the pod when the client goes away', async () => {
    const pod = await rawPod(() => {})
    const { port, replicas } = await gateway(pod.path)
    const sent = request({ host: '127.0.0.1', port, agent: false }).on('error', () => {})
    sent.end()
    await vi.waitFor(() => expect(pod.requests).toBe(1))
    expect(replicas[0]?.inFlight).toBe(1)
    sent.destroy()
    await vi.waitFor(() => expect(pod.sockets.size).toBe(0))
    expect(replicas[0]?.inFlight).toBe(0)
  })
})

describe('answers', () => {
  test('cut off by the pod are cut off for the client', async () => {
    const pod = await rawPod((socket) => socket.end('HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc'))
    const { port } = await gateway(pod.path)
    expect(await ask(port).catch(() => ({ whole: false }))).toMatchObject({ whole: false })
  })

  test('begin for the client when the pod has sent the head', async () => {
    const pod = await rawPod((socket) => socket.write('HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n'))
    const { port } = await gateway(pod.path)
    const sent = request({ host: '127.0.0.1', port, agent: false }).on('error', () => {})
    const answer = new Promise<number | undefined>((resolve) => sent.on('response', (each) => resolve(each.statusCode)))
    sent.end()
    expect(await answer).toBe(200)
    sent.destroy()
    await vi.waitFor(() => expect(pod.sockets.size).toBe(0))
  })

  test('wait for a slow reader and come whole', async () => {
    const size = 50_000_000
    let written = 0
    const pod = await rawPod((socket) => {
      socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${size}\r\n\r\n`)
      const chunk = Buffer.alloc(100_000, 'x')
      const more = () => {
        while (written < size) {
          written += chunk.length
          if (!socket.write(chunk)) return void socket.once('drain', more)
        }
      }
      more()
    })
    const { port } = await gateway(pod.path)
    let received = 0
    const sent = request({ host: '127.0.0.1', port, agent: false })
    sent.end()
    const answer = await new Promise<import('node:http').IncomingMessage>((resolve) => sent.on('response', resolve))
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(written).toBeLessThan(size / 2)
    for await (const chunk of answer) received += chunk.length
    expect(received).toBe(size)
    // The connection that was paused is used again.
    written = size
    expect(pod.connections).toBe(1)
  })
})

test('a connection that changes its protocol is passed through', async () => {
  const pod = await rawPod((socket, text) =>
    socket.write(
      text.startsWith('GET') ? 'HTTP/1.1 101 Switching\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\n' : text,
    ),
  )
  const { port } = await gateway(pod.path)
  const raw = connect(port, '127.0.0.1').setEncoding('latin1')
  let received = ''
  raw.on('data', (chunk: string) => {
    received += chunk
  })
  raw.write('GET / HTTP/1.1\r\nhost: app\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n')
  await vi.waitFor(() => expect(received).toContain('101 Switching'))
  raw.write('ping')
  await vi.waitFor(() => expect(received).toMatch(/ping$/))
  raw.destroy()
  await vi.waitFor(() => expect(pod.sockets.size).toBe(0))
})

test('when the pod declines to change the protocol, nothing more of the client reaches it', async () => {
  const got: string[] = []
  const pod = await rawPod((socket, text) => {
    got.push(text)
    socket.write('HTTP/1.1 400 No\r\ncontent-length: 2\r\n\r\nno')
  })
  const { port } = await gateway(pod.path)
  const raw = connect(port, '127.0.0.1').setEncoding('latin1')
  let received = ''
  raw.on('data', (chunk: string) => {
    received += chunk
  })
  const forged = 'GET /forged HTTP/1.1\r\nhost: app\r\nx-forwarded-for: 6.6.6.6\r\n\r\n'
  raw.write(`GET / HTTP/1.1\r\nhost: app\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n${forged}`)
  await vi.waitFor(() => expect(received).toMatch(/no$/))
  raw.write(forged)
  await vi.waitFor(() => expect(raw.readyState).toBe('closed'))
  expect(got.join('')).not.toContain('forged')
})

test('an offer of HTTP/2 is a plain request', async () => {
  const pod = await rawPod((socket, text) => {
    if (/^(connection: upgrade|upgrade:)/im.test(text)) socket.destroy()
    else socket.end(ok('plain'))
  })
  const { port } = await gateway(pod.path)
  const raw = connect(port, '127.0.0.1').setEncoding('latin1')
  let received = ''
  raw.on('data', (chunk: string) => {
    received += chunk
  })
  raw.write('GET / HTTP/1.1\r\nhost: app\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n\r\n')
  await vi.waitFor(() => expect(received).toMatch(/plain$/))
})
