import { Readable } from 'node:stream'
import { expect, test } from 'vitest'
import { rawRequest, startTestPod } from './pod.ts'

async function json(response: Response): Promise<unknown> {
  return response.json()
}

test('every kind of return value becomes the answer that the table promises', async () => {
  const { tp, fetch, post } = await startTestPod((tp) => {
    tp.page('/', '<h1>Hello</h1>')
    tp.route('/string', () => 'text <b>')
    tp.route('/html', () => tp.html`<p>${'<x>'}</p>`)
    tp.route('/object', () => ({ a: 1 }))
    tp.route('/array', async () => [1, 2])
    tp.route('/number', () => 404)
    tp.route('/nothing/:x', { methods: ['GET', 'POST'] }, () => null)
    tp.route('/bytes', () => new Uint8Array([1, 2]))
    tp.route('/redirect', () => tp.redirect('/zu höher'))
    tp.route('/reply', () => tp.reply({ b: 2 }, { status: 201, headers: { 'x-a': 'b' }, cookies: { c: 'd' } }))
    tp.route('/policy', () => tp.reply('x', { headers: { 'Referrer-Policy': 'no-referrer' } }))
    tp.route('/stream', () => tp.reply(Readable.from(['a', 'b']), { headers: { 'content-type': 'text/csv' } }))
    tp.route('/response', () => new Response('r', { status: 202, headers: { 'x-r': '1' } }))
    tp.route('/post/:slug', (_req, { slug }) => ({ slug }))
    tp.route('/opt/:page?', (_req, { page }) => ({ page: page ?? 'none' }))
    tp.route('/rest/:path{.+}', (_req, { path }) => ({ path }))
  })
  const seen = async (path: string) => {
    const answer = await fetch(path)
    return [answer.status, answer.headers.get('content-type'), await answer.text()]
  }
  const html = 'text/html; charset=utf-8'
  const asJson = 'application/json; charset=utf-8'
  expect(await seen('/')).toEqual([200, html, '<h1>Hello</h1>'])
  expect(await seen('/string')).toEqual([200, html, 'text <b>'])
  expect(await seen('/html')).toEqual([200, html, '<p>&lt;x&gt;</p>'])
  expect(await seen('/object')).toEqual([200, asJson, '{"a":1}'])
  expect(await seen('/array')).toEqual([200, asJson, '[1,2]'])
  expect(await seen('/number')).toEqual([404, 'text/plain; charset=utf-8', '404'])
  expect(await seen('/bytes')).toEqual([200, 'application/octet-stream', '\u0001\u0002'])
  expect(await seen('/stream')).toEqual([200, 'text/csv', 'ab'])
  expect(await seen('/response')).toEqual([202, 'text/plain;charset=UTF-8', 'r'])
  expect(await json(await fetch('/post/a%20b%2Fc%2561'))).toEqual({ slug: 'a b/c%61' })
  expect(await json(await fetch('/opt'))).toEqual({ page: 'none' })
  expect(await json(await fetch('/opt/2'))).toEqual({ page: '2' })
  expect(await json(await fetch('/rest/a/b'))).toEqual({ path: 'a/b' })
  const redirect = await fetch('/redirect')
  expect([redirect.status, redirect.headers.get('location')]).toEqual([303, '/zu%20h%C3%B6her'])
  const reply = await fetch('/reply')
  expect([reply.status, reply.headers.get('x-a'), await json(reply)]).toEqual([201, 'b', { b: 2 }])
  expect(reply.headers.getSetCookie()).toEqual(['c=d; Path=/; HttpOnly; SameSite=Lax'])
  const back = await post('/nothing/ä%3F', {})
  expect([back.status, back.headers.get('location')]).toEqual([303, '/nothing/%C3%A4%3F'])
  expect(await json(await fetch('/nothing/x'))).toMatchObject({ code: 'empty_reply' })
  const policy = await fetch('/policy')
  expect(policy.headers.get('referrer-policy')).toBe('no-referrer')
  expect(policy.headers.get('x-content-type-options')).toBe('nosniff')
  const page = await fetch('/')
  const again = await fetch('/', { headers: { 'if-none-match': page.headers.get('etag') ?? '' } })
  expect(again.status).toBe(304)
  const head = await fetch('/object', { method: 'HEAD' })
  expect([head.status, head.headers.get('content-length'), await head.text()]).toEqual([200, '7', ''])
  expect(tp.db).toBeDefined()
})

test('the request gives everything as plain values', async () => {
  const { fetch } = await startTestPod((tp) => {
    tp.route('/echo', { methods: ['GET', 'POST'] }, (req) => ({
      method: req.method,
      path: req.path,
      query: req.query,
      agent: req.headers['user-agent'],
      cookies: req.cookies,
      ip: req.ip,
      user: req.user,
      body: req.body,
      json: req.json ?? null,
      text: req.text,
      raw: req.raw.length,
    }))
  })
  expect(
    await json(await fetch('/echo?a=1&b=x%20y&a=2', { headers: { cookie: 'k=v; l=m', 'user-agent': 'me' } })),
  ).toEqual({
    method: 'GET',
    path: '/echo',
    query: { a: '2', b: 'x y' },
    agent: 'me',
    cookies: { k: 'v', l: 'm' },
    ip: '127.0.0.1',
    user: null,
    body: {},
    json: null,
    text: '',
    raw: 0,
  })
  const sendJson = (body: string) =>
    fetch('/echo', { method: 'POST', body, headers: { 'content-type': 'application/json' } })
  expect(await json(await sendJson('{"a":[1],"__proto__":{"x":1}}'))).toMatchObject({
    body: { a: [1] },
    json: { a: [1] },
  })
  expect(await json(await sendJson('"text"'))).toMatchObject({ body: {}, json: 'text' })
  const form = await fetch('/echo', { method: 'POST', body: new URLSearchParams('a=1&b=2&b=3&__proto__=x') })
  const echoed = await form.text()
  expect(JSON.parse(echoed)).toMatchObject({ body: { a: '1', b: ['2', '3'] }, text: 'a=1&b=2&b=3&__proto__=x' })
  expect(await json(await sendJson('{"a":'))).toMatchObject({ code: 'bad_json' })
  const latin = await fetch('/echo', {
    method: 'POST',
    body: new Uint8Array([0x22, 0xff, 0x22]),
    headers: { 'content-type': 'application/json' },
  })
  expect(await json(latin)).toMatchObject({ code: 'bad_encoding' })
})

test('wrong paths, methods and bodies are told what is right', async () => {
  const { fetch, port } = await startTestPod((tp) => {
    tp.route('/only-post', { methods: ['POST'], maxBody: 10 }, () => 'ok')
  })
  expect(await json(await fetch('/nowhere'))).toMatchObject({ code: 'not_found', error: 'Nothing answers at /nowhere' })
  const wrong = await fetch('/only-post')
  expect([wrong.status, wrong.headers.get('allow')]).toEqual([405, 'POST, OPTIONS'])
  expect((await fetch('/only-post', { method: 'OPTIONS' })).status).toBe(204)
  const large = await fetch('/only-post', { method: 'POST', body: 'x'.repeat(11) })
  expect([large.status, (await large.text()).includes('too_large')]).toEqual([413, true])
  const chunked = await rawRequest(port, {
    method: 'POST',
    path: '/only-post',
    headers: { 'transfer-encoding': 'chunked' },
    body: 'x'.repeat(100_000),
  })
  expect(chunked.status).toBe(413)
  for (const path of ['/%ff', '/%zz', '/a%00b', '*']) expect((await rawRequest(port, { path })).status, path).toBe(400)
  expect((await rawRequest(port, { path: 'http://evil.example/only-post', method: 'POST' })).text).toBe('ok')
})

test('handlers that throw, hang or return nonsense get a clean answer and the server stays up', async () => {
  const loop: { self?: unknown } = {}
  loop.self = loop
  const { fetch, page, pod, logged } = await startTestPod((tp) => {
    tp.route('/throws', () => {
      throw new Error('secret reason')
    })
    tp.route('/rejects', async () => Promise.reject(new Error('later')))
    tp.route('/throws-text', () => Promise.reject('only text'))
    tp.route('/hangs', { timeout: 0.1 }, () => new Promise(() => undefined))
    tp.route('/circular', () => loop)
    tp.route('/bigint', () => ({ n: 1n }))
    tp.route('/function', () => () => 1)
    tp.route('/map', () => new Map())
    tp.route('/status', () => 1234)
    tp.route('/header', () => tp.reply('x', { headers: { 'x-a': 'a\r\nb: c' } }))
    tp.route('/json', async (req) => Reflect.apply(Object(req.json), req, []))
    tp.route('/fine', () => 'fine')
  })
  for (const [path, status, code] of [
    ['/throws', 500, 'internal'],
    ['/rejects', 500, 'internal'],
    ['/throws-text', 500, 'internal'],
    ['/hangs', 504, 'handler_timeout'],
    ['/circular', 500, 'unserialisable'],
    ['/bigint', 500, 'unserialisable'],
    ['/function', 500, 'unserialisable'],
    ['/map', 500, 'unserialisable'],
    ['/status', 500, 'unserialisable'],
    ['/header', 500, 'internal'],
  ] as const) {
    const answer = await fetch(path)
    expect([path, answer.status, await json(answer)]).toEqual([path, status, expect.objectContaining({ code })])
  }
  expect(await (await fetch('/fine')).text()).toBe('fine')
  const shown = await (await page('/throws')).text()
  expect(shown).toContain('secret reason')
  expect(pod.recentErrors[0]).toMatchObject({ path: '/throws', body: { error: 'secret reason' } })
  expect(logged.at(-1)).toMatchObject({ level: 'error', fields: { code: 'internal' } })
})

test('in production an error says nothing but an id that is in the log', async () => {
  const { fetch, page, logged } = await startTestPod(
    (tp) =>
      tp.route('/throws', () => {
        throw new Error('secret reason')
      }),
    { mode: 'production' },
  )
  const body = await (await fetch('/throws')).text()
  expect(body).not.toContain('secret')
  const { id } = JSON.parse(body)
  expect(logged).toContainEqual(expect.objectContaining({ fields: expect.objectContaining({ id }) }))
  const shown = await (await page('/throws')).text()
  expect(shown).not.toMatch(/secret|serve\.test/)
})

test('changes sent by pages of other sites are refused, also for unknown paths', async () => {
  const { fetch, origin } = await startTestPod((tp) => {
    tp.route('/change', { methods: ['POST'] }, () => 'changed')
    tp.route('/hook', { methods: ['POST'], crossSite: true }, () => 'hooked')
  })
  const send = async (path: string, headers: Record<string, string>) =>
    (await fetch(path, { method: 'POST', headers })).status
  expect(await send('/change', {})).toBe(200)
  expect(await send('/change', { origin })).toBe(200)
  expect(await send('/change', { origin: 'http://evil.example' })).toBe(403)
  expect(await send('/change', { origin: 'null' })).toBe(403)
  expect(await send('/hook', { origin: 'http://evil.example' })).toBe(200)
  // fetch() does not let these be set; Node's client does.
  const { port } = new URL(origin)
  for (const [site, status] of [
    ['cross-site', 403],
    ['same-site', 403],
    ['same-origin', 200],
    ['none', 200],
  ] as const) {
    const answer = await rawRequest(Number(port), {
      method: 'POST',
      path: '/change',
      headers: { 'sec-fetch-site': site },
    })
    expect([site, answer.status]).toEqual([site, status])
  }
})
