import { expect, test } from 'vitest'
import type { Tp } from '../src/tp.ts'
import { visitor } from './browser.ts'
import { rawRequest, startTestPod } from './pod.ts'

const models: Tp['admin']['models'] = {
  post: {
    fields: { title: 'string', body: 'text', tier: 'choice:free,pro', price: 'number', date: 'date', live: 'bool' },
    display: ['title', 'tier'],
  },
}
const start = (options: Parameters<typeof startTestPod>[1] = {}, main: (tp: Tp) => unknown = () => undefined) =>
  startTestPod((tp) => {
    tp.admin = { models }
    return main(tp)
  }, options)
const json = { accept: 'application/json' }

test('records are made, found, edited and deleted', async () => {
  const pod = await start()
  const ada = visitor(pod)
  expect(await (await ada.get('/_admin/')).text()).toContain('/_admin/m/post')
  const post = {
    _id: 'hello/w ö',
    title: 'Hello',
    body: 'a\r\nb',
    tier: 'pro',
    price: '4.5',
    date: '2026-01-31',
    live: 'true',
  }
  const made = await ada.post('/_admin/m/post/new', post)
  expect([made.status, made.headers.get('location')]).toEqual([303, '/_admin/m/post'])
  const stored = { title: 'Hello', body: 'a\nb', tier: 'pro', price: 4.5, date: '2026-01-31', live: true }
  expect(await pod.tp.db.get('post:hello/w ö')).toEqual(stored)
  expect((await ada.post('/_admin/m/post/new', post)).status).toBe(422)
  const list = await (await ada.get('/_admin/m/post')).text()
  const edit = /href="(\/_admin\/m\/post\/edit\/[^"]+)"/.exec(list)?.[1] ?? ''
  const form = await (await ada.get(edit)).text()
  expect(form).toMatch(/<textarea name="body">\na\nb<\/textarea>/)
  expect(form).toContain('<option selected>pro</option>')
  const version = /name="_version" value="(\d+)"/.exec(form)?.[1] ?? ''
  await pod.tp.db.update('post:hello/w ö', (now) => ({ ...(now as object), views: 7 }))
  const late = await ada.post(edit, { ...post, title: 'Late', _version: version, _action: 'save' })
  expect([late.status, await late.text()]).toEqual([409, expect.stringContaining('Somebody changed this')])
  expect(await pod.tp.db.get('post:hello/w ö')).toMatchObject({ title: 'Hello', views: 7 })
  const again = /name="_version" value="(\d+)"/.exec(await (await ada.get(edit)).text())?.[1] ?? ''
  const { live: _, ...unticked } = post
  await ada.post(edit, { ...unticked, title: 'Edited', _version: again, _action: 'save' })
  expect(await pod.tp.db.get('post:hello/w ö')).toEqual({ ...stored, title: 'Edited', live: false, views: 7 })
  const last = /name="_version" value="(\d+)"/.exec(await (await ada.get(edit)).text())?.[1] ?? ''
  await ada.post(edit, { _version: last, _action: 'delete' })
  expect(await pod.tp.db.get('post:hello/w ö')).toBeUndefined()
  expect((await ada.get(edit)).status).toBe(404)
})

test('bad values are told beside their fields, and nothing is stored', async () => {
  const pod = await start()
  const answer = await visitor(pod).post('/_admin/m/post/new', {
    title: 'x',
    tier: 'gold',
    price: 'a lot',
    date: '2026-02-30',
  })
  const text = await answer.text()
  expect(answer.status).toBe(422)
  for (const problem of ['tier must be one of free, pro', 'price must be a number', 'date must be a date'])
    expect(text).toContain(problem)
  expect(text).toContain('value="a lot"')
  expect(await pod.tp.db.count('post:')).toBe(0)
  const program = await pod.fetch('/_admin/m/post/new', {
    method: 'POST',
    headers: { ...json, 'content-type': 'application/json' },
    body: JSON.stringify({ _id: 'a', title: 'x', tier: 'gold' }),
  })
  expect([program.status, await program.json()]).toMatchObject([422, { code: 'invalid', issues: [{ path: ['tier'] }] }])
})

test('programs read and write it as JSON', async () => {
  const pod = await start()
  const send = (path: string, body: object) =>
    pod.fetch(path, {
      method: 'POST',
      headers: { ...json, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
  expect(
    await (await send('/_admin/m/post/new', { _id: 'a', title: 'A', tier: 'free', live: true })).json(),
  ).toMatchObject({ id: 'a', live: true })
  await send('/_admin/m/post/edit/a', { title: 'B' })
  expect(await (await pod.fetch('/_admin/m/post/edit/a', { headers: json })).json()).toMatchObject({
    title: 'B',
    tier: 'free',
    live: true,
  })
  expect(await (await pod.fetch('/_admin/m/post', { headers: json })).json()).toMatchObject({
    records: [{ id: 'a', title: 'B' }],
    next: null,
  })
  expect(await (await pod.fetch('/_admin/', { headers: json })).json()).toMatchObject({ models })
  expect(await (await pod.fetch('/_admin/nothing', { headers: json })).json()).toMatchObject({ code: 'not_found' })
  expect(await (await pod.fetch('/_admin/m/none', { headers: json })).json()).toMatchObject({ code: 'not_found' })
})

test('lists are paged and searched without gaps', async () => {
  const pod = await start()
  const ids = Array.from({ length: 120 }, (_, n) => `p${String(n).padStart(3, '0')}`)
  await pod.tp.db.batch(
    ids.map((id, n) => ({ op: 'set', key: `post:${id}`, value: { title: n % 3 ? `Odd ${n}` : `Third ${n}` } })),
  )
  const all = async (q: string) => {
    const seen: string[] = []
    for (let after = ''; ; ) {
      const answer = await pod.fetch(`/_admin/m/post?q=${q}${after && `&after=${after}`}`, { headers: json })
      const { records, next }: { records: { id: string }[]; next: string | null } = JSON.parse(await answer.text())
      seen.push(...records.map(({ id }) => id))
      if (next === null) return seen
      after = next
    }
  }
  expect(await all('')).toEqual(ids)
  expect(await all('third')).toEqual(ids.filter((_, n) => n % 3 === 0))
  expect(await all('nothing-like-that')).toEqual([])
  expect(await (await pod.page('/_admin/m/post')).text()).toContain('120 in all')
})

test('without models they are told from what is stored', async () => {
  const pod = await startTestPod(async (tp) => {
    tp.admin = {}
    await tp.db.batch([
      { op: 'set', key: 'plain', value: 1 },
      {
        op: 'set',
        key: 'post:1',
        value: { title: 'x', body: 'a\nb', count: 2, live: true, at: '2026-01-01', list: [1] },
      },
      { op: 'set', key: 'post:2', value: { title: null, extra: 'y' } },
      { op: 'set', key: 'counter:a', value: 3 },
      { op: 'set', key: 'zoo:1', value: { animal: 'ape' } },
    ])
  })
  expect(await (await pod.fetch('/_admin/', { headers: json })).json()).toMatchObject({
    models: {
      post: { fields: { title: 'string', body: 'text', count: 'number', live: 'bool', at: 'date', extra: 'string' } },
      zoo: { fields: { animal: 'string' } },
    },
  })
  const form = await (await pod.page('/_admin/m/post/edit/1')).text()
  const version = /name="_version" value="(\d+)"/.exec(form)?.[1] ?? ''
  await visitor(pod).post('/_admin/m/post/edit/1', { title: 'new', count: '3', at: '2026-01-02', _version: version })
  expect(await pod.tp.db.get('post:1')).toMatchObject({ title: 'new', count: 3, list: [1] })
})

test('users, payments, mails and files are shown, without anything secret', async () => {
  const pod = await start({}, (tp) => {
    tp.auth = 'paywall'
    tp.admin.users = ['Admin@Example.com']
    tp.payments = { products: [{ id: 'pro', name: 'Pro', price: 500 }] }
  })
  await pod.tp.createUser('admin@example.com', 'a long password')
  await pod.tp.files.write('a b.txt', 'x')
  const buyer = visitor(pod)
  await buyer.post('/_pay/pro', { email: 'buyer@example.com' })
  const admin = visitor(pod)
  await admin.post('/_auth/login', { email: 'admin@example.com', password: 'a long password' })
  for (const [path, text] of [
    ['users', 'buyer@example.com'],
    ['payments', '5.00 usd'],
    ['emails', 'Your login link'],
    ['files', '/_files/a%20b.txt'],
  ] as const) {
    const page = await (await admin.get(`/_admin/${path}`)).text()
    expect(page).toContain(text)
    expect(page).not.toMatch(/argon2|token=/)
  }
})

test('with login only the named users enter, and only under an address that is theirs', async () => {
  const pod = await start({}, (tp) => {
    tp.auth = 'standard'
    tp.auth.signupConfirm = false
    tp.admin.users = ['admin@example.com']
  })
  const turned = await pod.page('/_admin/m/post')
  expect(turned.headers.get('location')).toBe('/_auth/login?next=%2F_admin%2Fm%2Fpost')
  expect((await pod.fetch('/_admin/')).status).toBe(401)
  const other = visitor(pod)
  await other.post('/_auth/signup', { email: 'other@example.com', password: 'a long password' })
  expect((await other.get('/_admin/')).status).toBe(403)
  const impostor = visitor(pod)
  await impostor.post('/_auth/signup', { email: 'admin@example.com', password: 'a long password' })
  const refused = await impostor.get('/_admin/')
  expect([refused.status, await refused.text()]).toEqual([403, expect.stringContaining('confirmed')])
  expect((await impostor.post('/_admin/m/post/new', { title: 'x', tier: 'free' })).status).toBe(403)
  expect(await pod.tp.db.count('post:')).toBe(0)
})

test('in production without login the key of the log is exchanged once for a cookie', async () => {
  const pod = await start({ mode: 'production', origin: 'https://app.example.com' })
  expect((await pod.page('/_admin/')).status).toBe(403)
  const lines = () => pod.logged.map(({ message }) => message).filter((message) => message.includes('?key='))
  const path = lines()[0]?.replace(/^.*https:\/\/app\.example\.com/, '') ?? ''
  const key = new URL(path, 'http://x').searchParams.get('key') ?? ''
  const opened = await pod.page(path)
  expect([opened.status, opened.headers.get('location')]).toEqual([303, '/_admin/'])
  expect(opened.headers.get('referrer-policy')).toBe('no-referrer')
  const [cookie = ''] = opened.headers.getSetCookie()
  expect(cookie).toMatch(/^__Host-tp_admin=[\w-]+;.*HttpOnly; Secure; SameSite=Strict$/)
  expect((await pod.page('/_admin/', { headers: { cookie: cookie.split(';')[0] ?? '' } })).status).toBe(200)
  expect((await pod.page(path)).status).toBe(403)
  // The next key is another, and nothing that is kept would open the panel.
  expect(lines()).toHaveLength(2)
  expect(lines()[1]).not.toContain(key)
  expect(JSON.stringify(await pod.backend.scan('tokens', {}))).not.toContain(key)
  expect((await pod.page('/_admin/?key=guess')).status).toBe(403)
})

test('the open panel of the dev server answers to localhost only, and to no other site', async () => {
  const pod = await start()
  const { status, text } = await rawRequest(pod.port, { path: '/_admin/', headers: { host: 'rebound.evil.example' } })
  expect([status, text]).toEqual([403, expect.stringContaining('localhost')])
  const foreign = await pod.post(
    '/_admin/m/post/new',
    { title: 'x', tier: 'free' },
    { headers: { origin: 'https://evil.example' } },
  )
  expect(foreign.status).toBe(403)
  expect(await pod.tp.db.count('post:')).toBe(0)
})

test('stored data cannot run as script', async () => {
  const evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
  const pod = await start()
  await pod.tp.db.set(`post:${evil}`, { title: evil, body: `</textarea>${evil}`, tier: evil })
  for (const path of [
    '/_admin/',
    '/_admin/m/post',
    `/_admin/m/post?q=${encodeURIComponent('<script>')}`,
    `/_admin/m/post/edit/${encodeURIComponent(evil)}`,
    '/_admin/m/%3Cscript%3E',
  ]) {
    const page = await pod.page(path)
    const text = await page.text()
    expect(text).not.toMatch(/<script>alert|<img src=x/)
    if (page.status === 200)
      expect(page.headers.get('content-security-policy')).toMatch(/^default-src 'none'; style-src 'sha256-[^']+'; img/)
  }
})

test('a setting that cannot work stops the start and says which field', async () => {
  for (const [admin, path] of [
    [{ models: { post: { fields: { title: 'strng' } } } }, ['models', 'post', 'fields', 'title']],
    [{ models: { post: { fields: { title: 'string' }, display: ['titel'] } } }, ['models', 'post', 'display']],
    [{ models: { post: {} } }, ['models', 'post', 'fields']],
    [{ users: 'admin@example.com' }, ['users']],
    [{ user: [] }, ['user']],
  ] as const) {
    const failed = await startTestPod((tp) => Object.assign(tp, { admin })).catch((error: unknown) => error)
    expect(failed).toMatchObject({ code: 'bad_config', details: { issues: [{ path }] } })
  }
})
