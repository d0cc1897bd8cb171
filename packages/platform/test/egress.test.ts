import { once } from 'node:events'
import { createServer, type IncomingMessage, request, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createEgress } from '../src/egress.ts'
import { attacker, runInPod } from './attacker.ts'
import { startTestPlatform, type TestPlatform } from './harness.ts'

// Case 15: the way out of a pod leads to the public internet only, however an address is written, by whichever client.

const inner = [
  '127.0.0.1',
  '127.1',
  '127.0.0.2',
  '0.0.0.0',
  '0',
  '2130706433',
  '0x7f000001',
  '0x7f.1',
  '017700000001',
  '0177.0.0.1',
]
const innerSix = [
  '[::1]',
  '[::]',
  '[::ffff:127.0.0.1]',
  '[::ffff:7f00:1]',
  '[::127.0.0.1]',
  '[64:ff9b::7f00:1]',
  '[fe80::1]',
  '[fd00::1]',
  '[2002:7f00:1::]',
]
const networks = [
  '10.0.0.1',
  '172.16.0.1',
  '192.168.1.1',
  '100.64.0.1',
  '169.254.169.254',
  '192.0.0.1',
  '198.18.0.1',
  '224.0.0.1',
  '240.0.0.1',
  '255.255.255.255',
]
const names = ['localhost', 'localhost.', 'LOCALHOST', 'any.localhost']
const everything = [...inner, ...innerSix, ...networks, ...names]

let service: Server
let port: number
let reached: string[] = []

beforeAll(async () => {
  service = createServer(async (req, res) => {
    reached.push(`${req.method} ${req.url}`)
    const { searchParams, pathname } = new URL(req.url ?? '', 'http://x')
    if (pathname === '/to') res.writeHead(302, { location: searchParams.get('url') ?? '' }).end()
    else res.end(`${req.method} ${pathname} ${await text(req)}`)
  })
  service.listen(0, '127.0.0.1')
  await once(service, 'listening')
  port = (service.address() as AddressInfo).port
})
afterAll(() => service.close())

describe('the handler of CONNECT', () => {
  /** What it answers to a CONNECT with this target. */
  async function ask(
    target: string,
    allow: string[] = [],
    deployment = 'deploy01',
  ): Promise<{ status: number; code: string }> {
    const egress = createEgress(allow, async () => [`127.0.0.1:${port}`])
    const proxy = createServer()
    proxy.on('connect', (req: IncomingMessage, socket: Duplex, head: Buffer) => {
      void egress.connect({ pod: 'pod00001', deployment }, req, socket, head)
    })
    proxy.listen(0, '127.0.0.1')
    await once(proxy, 'listening')
    try {
      return await new Promise((resolve, reject) => {
        const asked = request({
          port: (proxy.address() as AddressInfo).port,
          method: 'CONNECT',
          path: target,
          agent: false,
        })
        asked.on('connect', (answer, socket) => {
          socket.destroy()
          resolve({ status: answer.statusCode ?? 0, code: String(answer.headers['x-tidepool-code'] ?? '') })
        })
        asked.on('error', reject)
        asked.end()
      })
    } finally {
      egress.close()
      proxy.close()
    }
  }

  test('refuses every spelling of an address that is not public', async () => {
    for (const host of everything) {
      const { status, code } = await ask(`${host}:${port}`)
      // A name that this machine's resolver does not know at all is no way in either.
      const safe = names.includes(host)
        ? [403, 502]
        : host.startsWith('[') || !/^0|^\d+$/.test(host)
          ? [403]
          : [403, 502]
      expect([host, safe.includes(status), status === 403 ? code : 'blocked_address']).toEqual([
        host,
        true,
        'blocked_address',
      ])
    }
    expect(reached).toEqual([])
  })

  test('refuses what is no host and port', async () => {
    for (const target of [
      '127.0.0.1',
      ':80',
      '127.0.0.1:0',
      '127.0.0.1:65536',
      '127.0.0.1:99999',
      'a@127.0.0.1:80',
      '127.0.0.1:80:80',
      '[::1:80',
      'http://127.0.0.1:80',
      '/tmp/x.sock:1',
      '127.0.0.1:80?x',
    ])
      expect([target, (await ask(target)).status]).toEqual([target, 400])
  })

  test('makes exceptions to the letter only', async () => {
    const allow = [`127.0.0.1:${port}`]
    expect((await ask(`127.0.0.1:${port}`, allow)).status).toBe(200)
    for (const other of [
      `127.0.0.1:${port + 1}`,
      `localhost:${port}`,
      `127.1:${port}`,
      `127.0.0.2:${port}`,
      `[::ffff:127.0.0.1]:${port}`,
    ])
      expect([other, (await ask(other, allow)).status]).toEqual([other, expect.toBeOneOf([403, 502])])
  })

  test('opens the registry while packages are installed, and to nobody else', async () => {
    expect((await ask(`127.0.0.1:${port}`, [], 'install-deploy01')).status).toBe(200)
    expect((await ask(`127.0.0.1:${port + 1}`, [], 'install-deploy01')).status).toBe(403)
    for (const deployment of ['deploy01', 'installer', ' install-x'])
      expect((await ask(`127.0.0.1:${port}`, [], deployment)).status).toBe(403)
  })
})

describe('from a pod', () => {
  let platform: TestPlatform
  const run = (code: string) => runInPod(platform, 'caller', code)

  beforeAll(async () => {
    reached = []
    platform = await startTestPlatform({ allowHosts: [`127.0.0.1:${port}`] })
    await platform.deploy(await platform.agent(), 'caller', attacker)
  })
  afterAll(() => platform.stop())

  const clients = {
    fetch: 'const get = async (url) => (await fetch(url)).text()',
    'tp.http': 'const get = async (url) => (await tp.http.get(url)).text()',
    'node:http': `const get = (url) => new Promise((resolve, reject) => {
      require(url.startsWith('https') ? 'node:https' : 'node:http').get(url, (answer) => {
        let text = ''
        answer.on('data', (chunk) => { text += chunk })
        answer.on('end', () => resolve(text))
      }).on('error', reject)
    })`,
  }

  test.each(Object.entries(clients))('%s reaches no address that is not public', async (_name, get) => {
    const targets = everything.flatMap((host) => [`http://${host}:${platform.port}/`])
    const more = [
      'https://127.0.0.1/',
      'https://169.254.169.254/',
      'https://[::1]/',
      'http://169.254.169.254/latest/meta-data/',
    ]
    const { value, error } = await run(`${get}
      return Promise.all(${JSON.stringify([...targets, ...more])}.map(async (url) => {
        try { return [url, 'reached ' + await get(url)] } catch (error) {
          const at = error.code ? error : error.cause ?? error
          return [url, at.code, at.message]
        }
      }))`)
    expect(error).toBeUndefined()
    for (const [url, code, message] of value as [string, string, string][]) {
      const host = new URL(url).hostname
      expect([url, code]).toEqual([
        url,
        expect.stringMatching(/localhost/.test(host) ? /^(blocked_address|http_failed)$/ : /^blocked_address$/),
      ])
      if (code === 'blocked_address') expect(message).toMatch(/is not a public address/)
    }
  })

  test.each(Object.entries(clients))('%s reaches a host that the operator allows', async (_name, get) => {
    expect(await run(`${get}\nreturn get('http://127.0.0.1:${port}/hello')`)).toMatchObject({ value: 'GET /hello ' })
  })

  test('a redirect to an address that is not public ends there', async () => {
    for (const url of [
      'http://169.254.169.254/',
      `http://127.0.0.1:${platform.port}/`,
      `http://[::ffff:7f00:1]:${port}/`,
      `http://2130706433:${platform.port}/`,
    ])
      for (const call of ['fetch', 'tp.http.get']) {
        const { value, error, code, cause } = await run(
          `return (await ${call}('http://127.0.0.1:${port}/to?url=${encodeURIComponent(url)}')).text()`,
        )
        expect([url, call, value]).toEqual([url, call, undefined])
        expect(`${error} ${cause} ${code}`).toMatch(/not a public address|blocked_address/)
      }
  })

  test('bodies are sent whole by every client', async () => {
    const body = 'x'.repeat(200_000)
    const { value, error } = await run(`
      const body = 'x'.repeat(200000)
      const url = 'http://127.0.0.1:${port}/post'
      const raw = new Promise((resolve, reject) => {
        const sent = require('node:http').request(url, { method: 'POST' }, (answer) => {
          let text = ''
          answer.on('data', (chunk) => { text += chunk })
          answer.on('end', () => resolve(text))
        })
        sent.on('error', reject)
        sent.end(body)
      })
      const texts = [await (await fetch(url, { method: 'POST', body })).text(), await (await tp.http.post(url, { body })).text(), await raw]
      return texts`)
    expect(error).toBeUndefined()
    expect(value).toEqual([1, 2, 3].map(() => `POST /post ${body}`))
  })

  test('the global fetch says what was wrong, so that it can be read', async () => {
    const { error, cause } = await run("return fetch('http://127.0.0.1:8081/')")
    expect(`${error} ${cause}`).toContain('127.0.0.1 is not a public address')
  })

  test('an agent of one’s own, or a plain connection, leads nowhere', async () => {
    const { value } = await run(`
      const tried = (work) => work.then(() => 'reached', (error) => error.code ?? error.cause?.code ?? String(error))
      const http = require('node:http')
      const get = (options) => new Promise((resolve, reject) => http.get(options, resolve).on('error', reject))
      return Promise.all([
        tried(get({ host: '127.0.0.1', port: ${platform.port}, agent: new http.Agent() })),
        tried(get({ host: '127.0.0.1', port: ${platform.port}, agent: false })),
        tried(new Promise((resolve, reject) => require('node:net').connect(${platform.port}, '127.0.0.1', resolve).on('error', reject))),
      ])`)
    if (platform.isolation.startsWith('bubblewrap'))
      for (const each of value as string[]) expect(each).toMatch(/ECONNREFUSED|ENETUNREACH|blocked_address/)
  })

  test('a connection to the proxy itself needs a token', async () => {
    const { value } = await run(`
      const ask = (headers) => new Promise((resolve, reject) => {
        const sent = require('node:http').request({ socketPath: process.env.TIDEPOOL_PLATFORM, method: 'CONNECT', path: '127.0.0.1:${port}', headers, agent: false })
        sent.on('connect', (answer, socket) => { socket.destroy(); resolve(answer.statusCode) })
        sent.on('error', reject)
        sent.end()
      })
      const bearer = 'Bearer ' + process.env.TIDEPOOL_TOKEN
      return [await ask({}), await ask({ 'proxy-authorization': 'Bearer x.y.z' }), await ask({ authorization: bearer }), await ask({ 'proxy-authorization': bearer })]`)
    expect(value).toEqual([407, 407, 407, 200])
  })

  test('the service that was allowed is the only one that was reached', async () => {
    expect(new Set(reached.map((each) => each.split(/[?]/)[0]))).toEqual(
      new Set(['GET /hello', 'GET /to', 'POST /post']),
    )
  })
})
