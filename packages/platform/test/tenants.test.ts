import { createHash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Endpoint } from '../src/endpoint.ts'
import { verbs } from '../src/endpoint.ts'
import { endpoints } from '../src/endpoints.ts'
import { askSocket, attacker, eventually, read, runInPod } from './attacker.ts'
import { type Agent, type Live, type Reply, startTestPlatform, type TestPlatform } from './harness.ts'

// Case 17: who has a key sees what is theirs, and of everything else not even that it exists. The tests are made from
// the list of endpoints, so an endpoint that is added is tested.

let platform: TestPlatform
let a: Agent
let b: Agent
let alpha: Live
let beta: Live
const fileHash = createHash('sha256').update(attacker['main.ts']).digest('hex')
const marker = 'marker-of-alpha-4711'
const withPod = Object.entries(endpoints).filter(([, { path }]) => path.includes('/:pod'))
const confined = Object.entries(endpoints).filter(([, { access }]) => verbs.some((verb) => verb === access))

beforeAll(async () => {
  platform = await startTestPlatform()
  a = await platform.agent()
  b = await platform.agent()
  alpha = await platform.deploy(a, 'alpha', attacker, { secrets: { set: { alpha_secret: marker } } })
  beta = await platform.deploy(b, 'beta', attacker)
  await a.call('PUT', `/api/pods/alpha/db`, { [marker]: marker })
  await platform.put('/api/pods/alpha/files/notes.txt', a.key, marker)
})
afterAll(() => platform.stop())

const namesOf = (reply: Reply) => read<{ pods: { name: string }[] }>(reply).pods.map(({ name }) => name)

/** A body that the endpoint takes. */
function bodyOf(name: string): unknown {
  const bodies: Record<string, unknown> = {
    createPod: { name: 'gamma' },
    deploy: { files: [['main.ts', fileHash, Buffer.byteLength(attacker['main.ts'])]] },
    changeSecrets: { set: { a_name: 'a value' } },
    putDb: { stolen: 1 },
    changePod: { replicas: 2 },
    addKey: { name: 'another' },
    register: { email: 'somebody@example.com' },
    addEnvironment: { name: 'x', memoryMb: 64, cpus: 1, processes: 32, scratchMb: 8, creditsPerDay: 0 },
  }
  return bodies[name] ?? {}
}

function pathOf({ path }: Endpoint, pod: string, deployment = alpha.deployment): string {
  return path
    .replace(':pod', pod)
    .replace(':deployment', deployment)
    .replace(':sha256', fileHash)
    .replace(':agent', a.id)
    .replace(':key', 'aaaaaaaa')
    .replace('*', 'notes.txt')
}

function call(name: string, endpoint: Endpoint, pod: string, key: string | undefined, deployment?: string) {
  const path = pathOf(endpoint, pod, deployment)
  if (endpoint.method === 'GET' || endpoint.method === 'DELETE') return platform.call(endpoint.method, path, { key })
  return platform.call(endpoint.method, path, { key, body: bodyOf(name) })
}

/** Everything of an answer that a caller could tell two ids apart by, without the id that was asked for. */
function telling({ status, headers, text }: Reply, ...echoes: string[]) {
  const { date: _, 'content-length': __, ...rest } = headers
  return { status, headers: rest, text: echoes.reduce((all, echo) => all.replaceAll(echo, '<asked>'), text) }
}

describe('another agent’s pod is as one that does not exist', () => {
  test.each(withPod)('%s', async (name, endpoint) => {
    const unknown = telling(await call(name, endpoint, 'zzzzzzz9', b.key), 'zzzzzzz9')
    expect(unknown.status).toBe(404)
    for (const which of [alpha.id, alpha.name]) {
      const answer = await call(name, endpoint, which, b.key)
      expect(telling(answer, which)).toEqual(unknown)
      expect(answer.text).not.toContain(marker)
    }
    // Nor do bodies that are wrong, or queries, find out.
    const path = `${pathOf(endpoint, alpha.id)}?limit=x&values=1&deployment=${alpha.deployment}`
    const odd = await platform.call(endpoint.method, path, { key: b.key })
    expect(telling(odd, alpha.id)).toEqual(unknown)
  })

  test('its owner is served by the same calls', async () => {
    for (const [name, endpoint] of withPod.filter(([, each]) => each.method === 'GET' && !each.path.includes('events')))
      expect([name, (await call(name, endpoint, alpha.id, a.key)).status]).toEqual([name, 200])
  })

  test('nothing was changed by all that', async () => {
    const { body } = await a.call('GET', '/api/pods/alpha')
    expect(body.pod).toMatchObject({ status: 'running', replicas: 1, deployment: alpha.deployment, secretsVersion: 1 })
    expect((await a.call('GET', '/api/pods/alpha/db')).body).toEqual({ [marker]: marker })
  })

  test('deployments, files and hashes of another pod do not exist under one’s own', async () => {
    const same = async (method: string, path: (id: string) => string, mine: string, none: string, body?: unknown) =>
      expect(telling(await b.call(method, path(mine), body), mine)).toEqual(
        telling(await b.call(method, path(none), body), none),
      )
    for (const end of ['', '/events'])
      await same('GET', (id) => `/api/pods/beta/deployments/${id}${end}`, alpha.deployment, 'zzzzzzz9')
    await same('POST', (id) => `/api/pods/beta/deployments/${id}/cancel`, alpha.deployment, 'zzzzzzz9', {})
    await same('GET', (id) => `/api/pods/beta/source?deployment=${id}`, alpha.deployment, 'zzzzzzz9')
    const back = async (deployment: string) => b.call('POST', '/api/pods/beta/rollback', { deployment })
    expect(telling(await back(alpha.deployment), alpha.deployment)).toEqual(telling(await back('zzzzzzz9'), 'zzzzzzz9'))
    const own = createHash('sha256').update('only alpha has this').digest('hex')
    expect((await platform.put(`/api/pods/alpha/source/${own}`, a.key, 'only alpha has this')).status).toBe(200)
    await same('GET', (hash) => `/api/pods/beta/source/${hash}`, own, '0'.repeat(64))
    // Naming a hash that another pod has uploaded must not bring its content here.
    const stolen = await b.call('POST', '/api/pods/beta/deployments', { files: [['main.ts', own, 19]] })
    expect(stolen).toMatchObject({ status: 409, body: { code: 'missing_files', missing: [own] } })
  })

  test('keys of another agent do not exist', async () => {
    const { id } = read<{ key: { id: string } }>(await a.call('POST', '/api/keys', { name: 'mine' })).key
    expect(telling(await b.call('DELETE', `/api/keys/${id}`), id)).toEqual(
      telling(await b.call('DELETE', '/api/keys/zzzzzzz9'), 'zzzzzzz9'),
    )
    const made = (pod: string) => b.call('POST', '/api/keys', { name: 'theirs', pods: [pod] })
    for (const which of [alpha.id, alpha.name])
      expect(telling(await made(which), which)).toEqual(telling(await made('zzzzzzz9'), 'zzzzzzz9'))
    const listed = await b.call('GET', '/api/keys')
    expect(listed.text).not.toContain(id)
    const pods = await b.call('GET', '/api/pods?deleted=1')
    expect(namesOf(pods)).toEqual(['beta'])
  })

  test('ids that no database takes are unknown ids', async () => {
    for (const id of ['%F0%9F%98%80', "'--", '..%2Falpha', 'alpha%20', 'ALPHA'])
      expect([id, (await b.call('GET', `/api/pods/${id}`)).status]).toEqual([id, 404])
    for (const path of ['%00', 'a%00b', 'beta/deployments/a%00b', 'beta/source?deployment=%00'])
      expect([path, (await b.call('GET', `/api/pods/${path}`)).status]).toEqual([path, 400])
    expect((await b.call('GET', '/api/pods/beta/files/a%00b')).status).toBeLessThan(500)
    expect((await b.call('DELETE', '/api/keys/a%00b')).status).toBe(400)
    expect((await b.call('POST', '/api/agents/verify', { token: '\u0000' })).status).toBe(410)
    expect((await b.call('POST', '/api/agents', { email: 'a\u0000b@example.com' })).status).toBe(400)
    expect((await b.call('POST', '/api/keys', { name: 'a\u0000b' })).status).toBe(400)
    expect((await b.call('GET', '/api/pods/%ff')).status).toBe(400)
  })
})

describe('keys', () => {
  async function narrow(options: object): Promise<string> {
    const made = await a.call('POST', '/api/keys', { name: 'narrow', ...options })
    if (made.status !== 200) throw new Error(made.text)
    return read<{ secret: string }>(made).secret
  }

  test.each(verbs)('one for "%s" does that only', async (verb) => {
    const key = await narrow({ verbs: [verb] })
    for (const [name, endpoint] of confined) {
      if (endpoint.access !== verb) {
        const answer = await call(name, endpoint, alpha.id, key)
        expect([name, answer.status, answer.body.code]).toEqual([name, 403, 'forbidden'])
      } else if (endpoint.method === 'GET' && !endpoint.path.endsWith('/events')) {
        expect([name, (await call(name, endpoint, alpha.id, key)).status]).toEqual([name, 200])
      }
    }
    for (const [method, path] of [
      ['GET', '/api/keys'],
      ['POST', '/api/keys'],
      ['DELETE', '/api/keys/aaaaaaaa'],
    ] as const)
      expect(
        (await platform.call(method, path, { key, ...(method === 'POST' && { body: { name: 'more' } }) })).status,
      ).toBe(403)
  })

  test('one that may deploy but not set secrets sets none with a deployment', async () => {
    const key = await narrow({ verbs: ['deploy'] })
    const files = [['main.ts', fileHash, Buffer.byteLength(attacker['main.ts'])]]
    const body = { files, secrets: { set: { a: 'b' } } }
    expect((await platform.call('POST', '/api/pods/alpha/deployments', { key, body })).status).toBe(403)
  })

  test('one for some pods sees no others, and makes none', async () => {
    await a.call('POST', '/api/pods', { name: 'alpha-two' })
    const key = await narrow({ pods: ['alpha-two'] })
    for (const [name, endpoint] of withPod) {
      const unknown = telling(await call(name, endpoint, 'zzzzzzz9', key), 'zzzzzzz9')
      expect(telling(await call(name, endpoint, alpha.id, key), alpha.id)).toEqual(unknown)
    }
    const listed = await platform.call('GET', '/api/pods', { key })
    expect(namesOf(listed)).toEqual(['alpha-two'])
    for (const name of ['alpha', 'alpha-three'])
      expect((await platform.call('POST', '/api/pods', { key, body: { name } })).status).toBe(403)
    expect((await platform.call('GET', '/api/keys', { key })).status).toBe(403)
  })

  test('one that is over, revoked or replaced opens nothing', async () => {
    const over = await narrow({ expiresInSeconds: 1 })
    const gone = await narrow({})
    const old = await narrow({})
    const { id } = read<{ key: { id: string } }>(await platform.call('GET', '/api/me', { key: gone })).key
    expect((await a.call('DELETE', `/api/keys/${id}`)).status).toBe(200)
    const rotated = await platform.call('POST', '/api/keys/rotate', { key: old })
    expect((await platform.call('GET', '/api/me', { key: rotated.body.secret })).status).toBe(200)
    for (const key of [over, gone, old, `${gone}x`, gone.slice(0, -1), '', 'tp_', '%00', 'x'.repeat(8_000)])
      await eventually(
        () => platform.call('GET', '/api/pods', { key }),
        ({ status }) => status === 401,
        3_000,
      )
  })

  test('of an agent that is not verified: nothing that makes or reads anything', async () => {
    const { body } = await platform.call('POST', '/api/agents', { body: { email: 'new@example.com' } })
    for (const [name, endpoint] of confined)
      for (const pod of [alpha.id, 'zzzzzzz9']) {
        const answer = await call(name, endpoint, pod, body.key)
        expect([name, answer.status, answer.body.code]).toEqual([name, 403, 'unverified'])
      }
    expect((await platform.call('POST', '/api/keys', { key: body.key, body: { name: 'k' } })).status).toBe(403)
  })

  test('the operator’s is for the operator’s endpoints only, and they for it only', async () => {
    for (const [name, endpoint] of Object.entries(endpoints)) {
      if (endpoint.access === 'public') continue
      const operators = endpoint.access === 'operator'
      const key = operators ? a.key : platform.operatorKey
      expect([name, (await call(name, endpoint, alpha.id, key)).status]).toEqual([name, 403])
      expect([name, (await call(name, endpoint, alpha.id, undefined)).status]).toEqual([name, 401])
    }
    expect((await platform.call('GET', '/api/operator/mails', { key: platform.operatorKey })).status).toBe(200)
  })
})

describe('the data API', () => {
  const ask = async (name: string, code: string) => runInPod(platform, name, `${askSocket}\n${code}`)
  const token = async (name: string) =>
    String((await runInPod(platform, name, 'return process.env.TIDEPOOL_TOKEN')).value)

  beforeAll(async () => {
    const code = `
      await tp.db.set('own', '${marker}')
      await tp.files.write('own.txt', '${marker}')
      await tp.email('a@example.com', '${marker}', 'text')
      return ask('/tidebase/runs/secret-flow', { body: { id: 'run_' + 'a'.repeat(32), input: '${marker}' } })`
    expect(await ask('alpha', code)).toMatchObject({ value: { status: 200 } })
  })

  test('a token opens the data of its own pod only, whatever the request says', async () => {
    const reads = {
      reads: [
        ['db', 'own'],
        ['db', marker],
      ],
    }
    const asked: [path: string, body?: object][] = [
      ['/data/read', reads],
      ['/data/read', { ...reads, pod: alpha.id }],
      [`/data/read?pod=${alpha.id}`, reads],
      ['/data/scan', { space: 'db', pod: alpha.id }],
      ['/data/keys', { space: 'db' }],
      ['/data/files', {}],
      ['/data/files', { prefix: `../${alpha.id}/` }],
      ['/data/file', { name: 'own.txt' }],
      ['/data/mails', {}],
      ['/data/mails', { pod: alpha.id, limit: 1000 }],
      ['/data/files/own.txt'],
      [`/data/files/..%2F..%2F${alpha.id}%2Ffiles%2Fown.txt`],
      [`/data/files/../../${alpha.id}/files/own.txt`],
      ['/data/welcome', { pod: alpha.id, deployment: alpha.deployment }],
      ['/tidebase/runs'],
      [`/tidebase/runs/run_${'a'.repeat(32)}`],
      [`/tidebase/../runs/run_${'a'.repeat(32)}`],
      [`/tidebase/runs/run_${'a'.repeat(32)}/events?follow=0`],
      ['/tidebase/gates'],
      ['/tidebase/metrics'],
      ['/tidebase//runs'],
    ]
    const list = JSON.stringify(asked)
    const code = `const out = []
      for (const [path, body] of ${list}) out.push([path, await ask(path, { body, headers: { 'x-tidepool-pod': '${alpha.id}', 'x-tidebase-project': 'pod ${alpha.id}' } })])
      return out`
    const { value, error } = await ask('beta', code)
    expect(error).toBeUndefined()
    const answers = value as [string, { status: number; text: string }][]
    expect(answers).toHaveLength(asked.length)
    for (const [path, { status, text }] of answers) {
      expect([path, text.includes(marker), status < 500]).toEqual([path, false, true])
      if (!path.startsWith('/tidebase')) continue
      expect(text).not.toContain('secret-flow')
      expect(text).not.toContain('"deploy"')
    }
    const own = await ask(
      'beta',
      `await tp.db.set('own', 'of beta'); return (await ask('/data/read', { body: { reads: [['db', 'own']] } })).text`,
    )
    expect(String(own.value)).toContain('of beta')
    expect((await runInPod(platform, 'alpha', "return tp.db.get('own')")).value).toBe(marker)
  })

  test('damaged, shortened, lengthened and mixed tokens open nothing', async () => {
    const [mine, theirs] = [await token('beta'), await token('alpha')]
    const [pod, deployment, mac = ''] = mine.split('.')
    const [otherPod, otherDeployment] = theirs.split('.')
    const flipped = `${mac.slice(0, 9)}${mac[9] === 'A' ? 'B' : 'A'}${mac.slice(10)}`
    const bad = [
      '',
      '..',
      `${pod}..`,
      `${pod}.${deployment}`,
      `${pod}.${deployment}.`,
      `${pod}.${deployment}.${flipped}`,
      mine.slice(0, -1),
      mine.slice(0, -20),
      `${mine}A`,
      `${mine}.`,
      `${mine}.more`,
      `${otherPod}.${deployment}.${mac}`,
      `${pod}.${otherDeployment}.${mac}`,
      `${otherPod}.${otherDeployment}.${mac}`,
      `${pod}.install-${deployment}.${mac}`,
      `${pod} ${deployment}..${mac}`,
      mine.toUpperCase(),
    ]
    const code = `const out = []
      for (const token of ${JSON.stringify(bad)}) for (const path of ['/data/keys', '/data/welcome', '/tidebase/runs'])
        out.push([token, (await ask(path, { token, body: path === '/data/keys' ? { space: 'db' } : undefined })).status])
      return out`
    const { value } = await ask('beta', code)
    expect(value).toEqual(bad.flatMap((each) => [1, 2, 3].map(() => [each, 401])))
    expect(await ask('beta', `return (await ask('/data/keys', { body: { space: 'db' } })).status`)).toMatchObject({
      value: 200,
    })
  })

  test('the token of a deleted pod dies', async () => {
    const gone = await platform.deploy(b, 'short-lived', attacker)
    const kept = await token('short-lived')
    const status = async () =>
      (await ask('beta', `return (await ask('/data/keys', { token: '${kept}', body: { space: 'db' } })).status`)).value
    expect(await status()).toBe(200)
    expect((await b.call('DELETE', `/api/pods/${gone.id}`)).status).toBe(200)
    await eventually(status, (found) => found === 401, 10_000)
  })

  test('a pod’s mail carries no file of the platform', async () => {
    const paths = { path: '/etc/passwd' }
    for (const bad of [
      { html: paths },
      { attachments: [{ filename: 'x', ...paths }] },
      { attachments: [{ filename: 'x', href: 'http://127.0.0.1/' }] },
      { attachments: [{ filename: 'x', content: { path: '/etc/passwd' }, contentType: 'a/b' }] },
      { attachments: [{ filename: 'x', raw: paths, content: '', contentType: 'a/b' }] },
      { attachments: 'x' },
    ]) {
      const mail = JSON.stringify({ to: 'x@example.com', subject: 's', text: 't', ...bad })
      const { value } = await ask('beta', `return ask('/data/mail', { body: { mail: ${mail} } })`)
      expect([mail, value]).toEqual([mail, expect.objectContaining({ status: 400 })])
    }
  })

  test('a pod’s runs call nothing inside the network', async () => {
    for (const recoveryWebhook of [platform.url, platform.tidebaseUrl, 'http://169.254.169.254/', 'http://[::1]:1/']) {
      const { value } = await ask(
        'beta',
        `return ask('/tidebase/runs/flow', { body: ${JSON.stringify({ recoveryWebhook })} })`,
      )
      expect([recoveryWebhook, value]).toEqual([recoveryWebhook, expect.objectContaining({ status: 422 })])
    }
  })

  test('both pods still answer', async () => {
    for (const { name } of [alpha, beta]) expect((await platform.fetchPod(name)).status).toBe(200)
  })
})
