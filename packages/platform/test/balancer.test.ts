import { mkdtemp, rm } from 'node:fs/promises'
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  request,
  type Server,
  type ServerResponse,
} from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Route } from '../src/fleet.ts'
import { createProxy, type Proxy as Gateway } from '../src/gateway/proxy.ts'
import { createRouter } from '../src/gateway/router.ts'
import { createTraffic } from '../src/gateway/traffic.ts'
import type { Replica } from '../src/replicas.ts'

// The gateway in front of servers on unix sockets: what pods could answer, and how they could die.

interface Upstream {
  replica: Replica
  server: Server
  stop(): Promise<void>
}

let dir: string
let upstreams: Upstream[]
let gateway: Server
let port: number
let proxy: Gateway
let route: Route
let drained = 0

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'tpg-'))
  upstreams = []
  route = { pod: 'pod00001', name: 'app', status: 'running', deployment: 'dep00001' }
  proxy = createProxy({
    traffic: createTraffic(),
    fleet: { route: (name) => (name === 'app' ? route : undefined) },
    replicas: {
      healthy: () => upstreams.map(({ replica }) => replica).filter(({ state }) => state === 'healthy'),
      of: () => upstreams.map(({ replica }) => ({ ...replica, deployment: 'dep00001', memory: undefined })),
      groups: () => [{ pod: 'pod00001', deployment: 'dep00001', desired: 1 }],
      released: () => {
        drained += 1
      },
    },
    protocol: 'http',
    trustProxy: false,
  })
  const find = createRouter('localhost')
  gateway = createServer((req, res) => {
    const destination = find(req.headers.host)
    proxy.web(req, res, destination.to === 'pod' ? destination.name : '?')
  })
  gateway.on('upgrade', (req, socket, head) => proxy.upgrade(req, socket, head, 'app'))
  await new Promise<void>((done) => gateway.listen(0, '127.0.0.1', done))
  port = (gateway.address() as AddressInfo).port
})
afterEach(async () => {
  gateway.closeAllConnections()
  await new Promise((done) => gateway.close(done))
  await proxy.close()
  await Promise.all(upstreams.map(({ stop }) => stop()))
  await rm(dir, { recursive: true, force: true })
})

async function upstream(listener: RequestListener): Promise<Upstream> {
  const socket = join(dir, `${upstreams.length}.sock`)
  const server = createServer(listener)
  await new Promise<void>((done) => server.listen(socket, done))
  const replica: Replica = {
    id: `r${upstreams.length}`,
    state: 'healthy',
    socket,
    restarts: 0,
    startedAt: 0,
    inFlight: 0,
  }
  const made = {
    replica,
    server,
    async stop() {
      server.closeAllConnections()
      await new Promise((done) => server.close(done))
    },
  }
  upstreams.push(made)
  return made
}

function ask(
  path: string,
  init: { method?: string; headers?: Record<string, string>; body?: string } = {},
): Promise<{ res: IncomingMessage; body: string }> {
  return new Promise((resolve, reject) => {
    const sent = request(
      {
        host: '127.0.0.1',
        port,
        path,
        method: init.method ?? 'GET',
        agent: false,
        headers: { host: 'app.localhost', ...init.headers },
      },
      (res) => text(res).then((body) => resolve({ res, body }), reject),
    )
    sent.on('error', reject)
    sent.end(init.body)
  })
}

describe('the gateway', () => {
  test('gives a request to the replica with the fewest under way', async () => {
    const open: ServerResponse[] = []
    const counts = [0, 0]
    for (const at of [0, 1])
      await upstream((_req, res) => {
        counts[at] = (counts[at] ?? 0) + 1
        open.push(res)
      })
    const asked = Array.from({ length: 10 }, () => ask('/'))
    await expect.poll(() => open.length).toBe(10)
    expect(counts).toEqual([5, 5])
    for (const res of open) res.end('done')
    await Promise.all(asked)
    expect(upstreams.map(({ replica }) => replica.inFlight)).toEqual([0, 0])
  })

  test('without a healthy replica a request waits for one', async () => {
    const made = await upstream((_req, res) => res.end('awake'))
    made.replica.state = 'starting'
    const asked = ask('/')
    const posted = ask('/', { method: 'POST', body: 'x' })
    await new Promise((done) => setTimeout(done, 50))
    made.replica.state = 'healthy'
    proxy.changed('pod00001')
    expect((await asked).body).toBe('awake')
    expect((await posted).body).toBe('awake')
  })

  test.each([
    ['stopped', 503, 'stopped'],
    ['new', 503, 'not_deployed'],
  ] as const)('an app that is %s says so, to programs and to people', async (status, code, name) => {
    route = { ...route, status }
    const json = await ask('/')
    expect([json.res.statusCode, JSON.parse(json.body).code]).toEqual([code, name])
    expect(json.res.headers['retry-after']).toBeDefined()
    const page = await ask('/', { headers: { accept: 'text/html' } })
    expect(page.body).toContain('<h1>')
    expect(page.res.headers['content-security-policy']).toContain("default-src 'none'")
    expect((await ask('/', { headers: { host: 'nobody.localhost' } })).res.statusCode).toBe(404)
  })

  test('events pass as they come, and the pod learns when the client has gone', async () => {
    let closed = false
    let send: (data: string) => void = () => {}
    await upstream((req, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' })
      send = (data) => void res.write(`data: ${data}\n\n`)
      send('first')
      req.socket.once('close', () => {
        closed = true
      })
    })
    const chunks: string[] = []
    const sent = request({ host: '127.0.0.1', port, agent: false, headers: { host: 'app.localhost' } }, (res) => {
      res
        .setEncoding('utf8')
        .on('data', (chunk: string) => chunks.push(chunk))
        .on('error', () => {})
    })
    sent.on('error', () => {})
    sent.end()
    await expect.poll(() => chunks.join('')).toBe('data: first\n\n')
    send('second')
    await expect.poll(() => chunks.join('')).toContain('second')
    expect(upstreams[0]?.replica.inFlight).toBe(1)
    sent.destroy()
    await expect.poll(() => closed).toBe(true)
    await expect.poll(() => upstreams[0]?.replica.inFlight).toBe(0)
  })

  test('WebSockets pass through, both ways', async () => {
    const made = await upstream((_req, res) => res.end())
    made.server.on('upgrade', (req, socket) => {
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nupgrade: ${req.headers.upgrade}\r\nconnection: Upgrade\r\nx-for: ${req.headers['x-forwarded-for']}\r\n\r\n`,
      )
      socket.on('data', (chunk) => socket.write(`echo ${chunk}`))
      socket.on('end', () => socket.end())
    })
    const socket = connect(port, '127.0.0.1')
    let seen = ''
    socket.setEncoding('utf8').on('data', (chunk: string) => {
      seen += chunk
    })
    socket.write(
      'GET /ws HTTP/1.1\r\nhost: app.localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\nx-forwarded-for: 6.6.6.6\r\n\r\n',
    )
    await expect.poll(() => seen).toContain('101')
    expect(seen).toContain('x-for: 127.0.0.1')
    socket.write('hello')
    await expect.poll(() => seen).toContain('echo hello')
    expect(made.replica.inFlight).toBe(1)
    socket.destroy()
    await expect.poll(() => made.replica.inFlight).toBe(0)
  })

  test('a replica that drains is told of as its last request ends', async () => {
    let answer: (() => void) | undefined
    const made = await upstream((_req, res) => {
      answer = () => res.end('late')
    })
    const asked = ask('/')
    // It counts as in flight before it has arrived.
    await expect.poll(() => answer).toBeDefined()
    expect(made.replica.inFlight).toBe(1)
    const before = drained
    made.replica.state = 'draining'
    answer?.()
    expect((await asked).body).toBe('late')
    expect(drained).toBe(before + 1)
  })
})
