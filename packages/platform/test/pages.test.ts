import { once } from 'node:events'
import { createServer } from 'node:net'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createDatabase } from '../../../test/server.ts'
import { endpoints } from '../src/endpoints.ts'
import { hashSecret } from '../src/ids.ts'
import { attacker, read, runInPod } from './attacker.ts'
import { type Agent, logTo, startTestPlatform, type TestPlatform } from './harness.ts'
import { cookieOf, createVisitor, setCookie } from './visitor.ts'

// The platform's pages by HTTP: sessions, who may do what, forms that other origins send, what pages let run.

let platform: TestPlatform
let database: Awaited<ReturnType<typeof createDatabase>>
let db: pg.Client
let a: Agent
let b: Agent
let visit: ReturnType<typeof createVisitor>['visit']
let signIn: ReturnType<typeof createVisitor>['signIn']
const told: string[] = []

beforeAll(async () => {
  database = await createDatabase()
  platform = await startTestPlatform({
    databaseUrl: database.url,
    log: logTo(told),
  })
  ;({ visit, signIn } = createVisitor(platform))
  db = new pg.Client({ connectionString: database.url })
  await db.connect()
  a = await platform.agent()
  b = await platform.agent()
  await platform.deploy(a, 'alpha', attacker)
  await b.call('POST', '/api/pods', { name: 'beta' })
})
afterAll(async () => {
  await db.end()
  await platform.stop()
  await database.drop()
})

const isIn = async (cookie: string) => (await visit('/pods', { cookie })).status === 200
const replicasOf = async () => read<{ pod: { replicas: number } }>(await a.call('GET', '/api/pods/alpha')).pod.replicas

describe('a session', () => {
  test('begins with a key, in a cookie that scripts and other hosts do not get', async () => {
    const reply = await visit('/sign-in', { form: { key: a.key } })
    expect([reply.status, reply.headers.location]).toEqual([303, '/pods'])
    expect(setCookie(reply)).toMatch(/^tidepool_session=[\w-]{43}; Path=\/; HttpOnly; SameSite=Strict; Max-Age=43200$/)
    expect((await visit('/pods', { cookie: cookieOf(reply) })).text).toContain('/pods/alpha')
  })

  test('of a wrong key does not begin', async () => {
    for (const key of ['', 'tp_wrong', `${a.key}x`, ' ']) {
      const reply = await visit('/sign-in', { form: { key } })
      expect([key, reply.status, setCookie(reply)]).toEqual([key, 401, ''])
      expect(reply.text).toContain('role="alert"')
      if (key.trim()) expect(reply.text).not.toContain(key)
    }
  })

  test('is stored as a hash, and the key nowhere', async () => {
    const cookie = await signIn(a.key)
    const secret = cookie.split('=')[1] ?? ''
    const { rows } = await db.query('select * from platform.web_sessions where hash = $1', [hashSecret(secret)])
    expect(rows).toHaveLength(1)
    const all = JSON.stringify((await db.query('select * from platform.web_sessions')).rows)
    for (const each of [secret, a.key, platform.operatorKey]) {
      expect(all).not.toContain(each)
      expect(told.join('\n')).not.toContain(each)
    }
    await signIn(platform.operatorKey)
    const hashes = (await db.query<{ proof: Buffer }>('select proof from platform.web_sessions')).rows
    expect(hashes.some(({ proof }) => proof.equals(hashSecret(platform.operatorKey)))).toBe(false)
  })

  test('is new at each sign-in, and what a browser brought along is none', async () => {
    const planted = `tidepool_session=${'x'.repeat(43)}`
    const first = await signIn(a.key, { cookie: planted })
    expect(first).not.toBe(planted)
    const second = await signIn(a.key, { cookie: first })
    expect(second).not.toBe(first)
    expect([await isIn(planted), await isIn(first), await isIn(second)]).toEqual([false, false, true])
    // A second cookie of that name, set for the whole domain by an app: neither is believed.
    const attackers = await signIn(b.key)
    for (const both of [`${attackers}; ${second}`, `${second}; ${attackers}`]) expect(await isIn(both)).toBe(false)
  })

  test('ends by signing out', async () => {
    const cookie = await signIn(a.key)
    const out = await visit('/sign-out', { cookie, form: {} })
    expect([out.status, setCookie(out)]).toEqual([303, expect.stringContaining('Max-Age=0')])
    expect(await isIn(cookie)).toBe(false)
  })

  test('ends when its time is over', async () => {
    const cookie = await signIn(a.key)
    await db.query("update platform.web_sessions set expires_at = now() - interval '1 second'")
    expect(await isIn(cookie)).toBe(false)
  })

  test('ends with its key: revoked, rotated, expired', async () => {
    const make = async () =>
      read<{ key: { id: string }; secret: string }>(await a.call('POST', '/api/keys', { name: 'for a browser' }))
    const revoked = await make()
    const rotated = await make()
    const expired = await make()
    const cookies = await Promise.all([revoked, rotated, expired].map(({ secret }) => signIn(secret)))
    for (const cookie of cookies) expect(await isIn(cookie)).toBe(true)
    await a.call('DELETE', `/api/keys/${revoked.key.id}`)
    expect((await platform.call('POST', '/api/keys/rotate', { key: rotated.secret })).status).toBe(200)
    await db.query('update platform.keys set expires_at = now() where id = $1', [expired.key.id])
    for (const cookie of cookies) expect(await isIn(cookie)).toBe(false)
    expect((await visit('/sign-in', { form: { key: expired.secret } })).status).toBe(401)
  })

  test('of who has none leads to signing in and back, to pages of ours only', async () => {
    const away = await visit('/pods/alpha')
    expect([away.status, away.headers.location]).toEqual([303, '/sign-in?next=%2Fpods%2Falpha'])
    const back = await visit('/sign-in', { form: { key: a.key, next: '/pods/alpha' } })
    expect(back.headers.location).toBe('/pods/alpha')
    for (const next of [
      '//evil.example',
      '/\\evil.example',
      'https:evil',
      '/pods//evil.example',
      '/pods\r\nx: y',
      'javascript:1',
    ])
      expect((await visit('/sign-in', { form: { key: a.key, next } })).headers.location).toBe('/pods')
  })

  test('is of the pages only: the API takes keys', async () => {
    const cookie = await signIn(a.key)
    expect((await visit('/api/pods', { cookie, headers: { accept: 'application/json' } })).status).toBe(401)
  })
})

test('over https the cookie is one that no app can set', async () => {
  const holder = createServer()
  await once(holder.listen(0, '127.0.0.1'), 'listening')
  const address = holder.address()
  holder.close()
  const secure = await startTestPlatform({
    port: typeof address === 'object' ? (address?.port ?? 0) : 0,
    publicUrl: 'https://tidepool.example',
    domain: 'tidepool.example',
    unsandboxed: true,
  })
  try {
    const agent = await secure.platform.db.query<{ id: string }>(
      "insert into platform.agents (id, email, verified_at) values ('aaaaaaaa', 'x@example.com', now()) returning id",
    )
    const key = 'tp_a-key-of-this-test'
    await secure.platform.db.query(
      "insert into platform.keys (id, agent, name, hash, hint) values ('kkkkkkkk', $1, 'k', $2, 'x')",
      [agent[0]?.id, hashSecret(key)],
    )
    const post = (headers: Record<string, string>, path = '/sign-in') =>
      secure.fetchPod('', path, {
        method: path === '/sign-in' ? 'POST' : 'GET',
        headers: { host: 'tidepool.example', accept: 'text/html', ...headers },
        ...(path === '/sign-in' && { body: new URLSearchParams({ key }).toString() }),
      })
    const reply = await post({ origin: 'https://tidepool.example' })
    expect(setCookie(reply)).toMatch(
      /^__Host-tidepool=[\w-]{43}; Path=\/; HttpOnly; SameSite=Strict; Max-Age=\d+; Secure$/,
    )
    const cookie = cookieOf(reply)
    expect((await post({ cookie }, '/pods')).status).toBe(200)
    const asAppSetsIt = cookie.replace('__Host-tidepool', 'tidepool_session')
    expect((await post({ cookie: asAppSetsIt }, '/pods')).status).toBe(303)
    for (const origin of ['https://evil.tidepool.example', 'http://tidepool.example', 'https://tidepool.example:444'])
      expect([origin, (await post({ origin })).status]).toEqual([origin, 403])
  } finally {
    await secure.stop()
  }
})

describe('a form that another origin sends', () => {
  const forms: [path: string, form: Record<string, string>][] = [
    ['/sign-in', { key: '' }],
    ['/sign-out', {}],
    ['/pods/alpha/scale', { replicas: '3' }],
    ['/pods/alpha/restart', {}],
    ['/pods/alpha/stop', {}],
    ['/admin/agents/x/activate', {}],
  ]
  test.each(forms)('%s is refused', async (path, form) => {
    const cookie = await signIn(a.key)
    const app = `http://evil.localhost:${platform.port}`
    const drop = { origin: '', 'sec-fetch-site': '' }
    const tricks: Record<string, string>[] = [
      { origin: app, 'sec-fetch-site': 'same-site' },
      { origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' },
      { 'sec-fetch-site': 'same-site' },
      { 'sec-fetch-site': 'none' },
      { origin: app },
      { ...drop, origin: app },
      { ...drop, origin: 'null' },
      drop,
    ]
    for (const headers of tricks) {
      const sent = Object.fromEntries(
        Object.entries({ origin: platform.url, 'sec-fetch-site': 'same-origin', ...headers }).filter(
          ([, value]) => value,
        ),
      )
      const reply = await platform.fetchPod('', path, {
        method: 'POST',
        headers: {
          host: `localhost:${platform.port}`,
          accept: 'text/html',
          'content-type': 'application/x-www-form-urlencoded',
          cookie,
          ...sent,
        },
        body: new URLSearchParams(form).toString(),
      })
      expect([JSON.stringify(headers), reply.status, setCookie(reply)]).toEqual([JSON.stringify(headers), 403, ''])
    }
    expect(await isIn(cookie)).toBe(true)
    expect(await replicasOf()).toBe(1)
  })

  test('changes nothing by GET either', async () => {
    const cookie = await signIn(a.key)
    for (const [path] of forms.slice(1)) await visit(path, { cookie })
    expect(await isIn(cookie)).toBe(true)
    expect(await replicasOf()).toBe(1)
  })
})

describe('the key’s rights', () => {
  const narrow = async (verbs: string[], pods?: string[]) =>
    signIn(read<{ secret: string }>(await a.call('POST', '/api/keys', { name: 'narrow', verbs, pods })).secret)

  test('a key that may only read sees no buttons, and its forms are refused', async () => {
    const cookie = await narrow(['read'])
    const page = await visit('/pods/alpha', { cookie })
    expect(page.status).toBe(200)
    expect(page.text).not.toContain('data-live')
    for (const action of ['scale', 'restart', 'stop', 'start', 'rollback', 'cancel']) {
      const reply = await visit(`/pods/alpha/${action}`, { cookie, form: { replicas: '2' } })
      expect([action, reply.status]).toEqual([action, 403])
    }
    expect(await replicasOf()).toBe(1)
  })

  test('a key that may not read sees no pod', async () => {
    const cookie = await narrow(['deploy'])
    for (const path of ['/pods', '/pods/alpha', '/pods/alpha/live']) {
      const reply = await visit(path, { cookie })
      expect([path, reply.status]).toEqual([path, 403])
      expect(reply.text).toContain('lacks the verb')
    }
  })

  test('a key of some pods sees no other', async () => {
    await a.call('POST', '/api/pods', { name: 'gamma' })
    const cookie = await narrow(['read', 'manage'], ['gamma'])
    const list = await visit('/pods', { cookie })
    expect(list.text).toContain('/pods/gamma')
    expect(list.text).not.toContain('/pods/alpha')
    expect((await visit('/pods/alpha', { cookie })).status).toBe(404)
  })

  test('another agent’s pod is as one that does not exist', async () => {
    const cookie = await signIn(b.key)
    for (const path of ['/pods/:pod', '/pods/:pod/live', '/pods/:pod/scale', '/pods/:pod/stop']) {
      const ask = async (pod: string) => {
        const form = /scale|stop/.test(path) ? { replicas: '2' } : undefined
        const { status, text } = await visit(path.replace(':pod', pod), { cookie, ...(form && { form }) })
        return { status, text: text.replaceAll(pod, '<pod>') }
      }
      expect(await ask('alpha')).toEqual(await ask('nobodys'))
      expect((await ask('alpha')).status).toBe(404)
    }
  })

  test('who is not confirmed is told what to do', async () => {
    const made = read<{ key: string }>(
      await platform.call('POST', '/api/agents', { body: { email: 'late@example.com' } }),
    )
    const reply = await visit('/pods', { cookie: await signIn(made.key) })
    expect([reply.status, reply.text.includes('tidepool verify')]).toEqual([403, true])
  })

  test('admin is the operator’s, and agents’ pods are not', async () => {
    const agent = await signIn(a.key)
    const operator = await signIn(platform.operatorKey)
    for (const path of ['/admin', '/admin/mails', '/admin/mails/x']) {
      expect([path, (await visit(path, { cookie: agent })).status]).toEqual([path, 403])
      expect([path, (await visit(path)).status]).toEqual([path, 303])
      expect([path, (await visit(path, { cookie: operator })).status]).toEqual([path, path.endsWith('x') ? 404 : 200])
    }
    const { id } = read<{ agent: { id: string } }>(
      await platform.call('POST', '/api/agents', { body: { email: 'wait@example.com' } }),
    ).agent
    const confirm = (cookie: string) => visit(`/admin/agents/${id}/activate`, { cookie, form: {} })
    expect((await confirm(agent)).status).toBe(403)
    expect((await confirm(operator)).status).toBe(303)
    expect((await visit('/admin', { cookie: operator })).text).not.toContain(`confirm-${id}`)
    expect((await visit('/pods/alpha', { cookie: operator })).status).toBe(403)
    expect((await visit('/pods', { cookie: operator })).headers.location).toBe('/admin')
  })
})

describe('pages', () => {
  test('let nothing run but the one script, and nobody frame them', async () => {
    const cookie = await signIn(a.key)
    const operator = await signIn(platform.operatorKey)
    const pages: [string, string?][] = [
      ['/'],
      ['/quickstart'],
      ['/docs/api'],
      ['/sign-in'],
      ['/verify?token=x'],
      ['/nothing/here'],
      ['/pods', cookie],
      ['/pods/alpha', cookie],
      ['/admin', operator],
      ['/admin/mails', operator],
    ]
    for (const [path, who] of pages) {
      const { headers, text } = await visit(path, { cookie: who })
      expect([path, headers['content-security-policy']]).toEqual([
        path,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
      ])
      expect(headers).toMatchObject({
        'x-content-type-options': 'nosniff',
        'cache-control': 'no-store',
        'cross-origin-resource-policy': 'same-origin',
      })
      expect(text).not.toMatch(/<style|style=|\son\w+=|<script(?! src="\/static\/)/)
    }
  })

  test('of the API name every endpoint, and their links lead somewhere', async () => {
    const { text } = await visit('/docs/api')
    for (const [name, { method, path }] of Object.entries(endpoints)) {
      expect(text).toContain(`id="${name}"`)
      expect(text).toContain(`>${method}</span> <code>${path}</code>`)
    }
    const ids = new Set([...text.matchAll(/ id="([^"]+)"/g)].map(([, id]) => id))
    for (const [, target] of text.matchAll(/href="#([^"]+)"/g)) expect(ids).toContain(target)
    const places = new Set<string>()
    for (const path of ['/', '/quickstart', '/docs/api'])
      for (const [, link = ''] of (await visit(path)).text.matchAll(/(?:href|src)="(\/[^"#]*)/g)) places.add(link)
    for (const place of places) expect([place, (await visit(place)).status]).toEqual([place, 200])
  })

  test('that are not there say so to people, and to programs as JSON', async () => {
    const page = await visit('/nothing/here')
    expect([page.status, page.headers['content-type']]).toEqual([404, 'text/html; charset=utf-8'])
    const json = await visit('/nothing/here', { headers: { accept: '*/*' } })
    expect(json.body).toMatchObject({ code: 'no_route' })
    expect((await visit('/api/nothing')).body).toMatchObject({ code: 'no_route' })
    expect((await visit('/static/../package.json')).status).toBe(404)
  })

  test('tell a deployment, its processes and lines of the log as they come, and end with the key', async () => {
    const { key, secret } = read<{ key: { id: string }; secret: string }>(
      await a.call('POST', '/api/keys', { name: 'to be revoked' }),
    )
    const cookie = await signIn(secret)
    const stream = await fetch(`${platform.url}/pods/alpha/live`, { headers: { cookie, accept: 'text/event-stream' } })
    expect(stream.headers.get('content-type')).toBe('text/event-stream')
    await runInPod(platform, 'alpha', "console.log('<b>a line that follows</b>')")
    let text = ''
    for await (const piece of stream.body?.pipeThrough(new TextDecoderStream()) ?? []) {
      // Once: what comes after it is the end.
      if (!text.includes('a line that follows') && `${text}${piece}`.includes('a line that follows')) {
        await a.call('DELETE', `/api/keys/${key.id}`)
      }
      text += piece
    }
    const events = [...text.matchAll(/^data: (.*)$/gm)].map(([, line = '']) => JSON.parse(line))
    const parts = Object.assign({}, ...events.map(({ parts }) => parts))
    expect(Object.keys(parts).sort()).toEqual(['deployments', 'metrics', 'replicas', 'state'])
    expect(events.map(({ lines, log }) => `${lines ?? ''}${log ?? ''}`).join('')).toContain(
      '&lt;b&gt;a line that follows',
    )
    expect(events.at(-1)).toEqual({ over: true })
  })
})
