import { OAuth2Server } from 'oauth2-mock-server'
import { expect, onTestFinished, test, vi } from 'vitest'
import type { Tp } from '../src/tp.ts'
import { mailTo, userIn, type Visitor, visitor } from './browser.ts'
import { rawRequest, startTestPod, type TestPod } from './pod.ts'

const start = (main: (tp: Tp) => unknown = () => undefined, options: Parameters<typeof startTestPod>[1] = {}) =>
  startTestPod((tp) => {
    tp.auth = 'standard'
    tp.route('/who', (req) => ({ user: req.user }))
    tp.route('/dash/:page?', (req) => `dash of ${req.user?.email}`)
    tp.auth.required = ['/dash', '/dash/*']
    return main(tp)
  }, options)

const password = 'correct horse'

/** Signs up and confirms. */
async function member(pod: TestPod, email = 'ada@example.com') {
  const ada = visitor(pod)
  await ada.post('/_auth/signup', { email, password })
  const { token } = await mailTo(pod, email, 'Confirm')
  await ada.post('/_auth/confirm', { token })
  return ada
}

test('sign-up, confirmation, logout, login, and back to where one wanted to go', async () => {
  const pod = await start()
  const ada = visitor(pod)
  const turned = await ada.get('/dash/reports?year=2026')
  expect([turned.status, turned.headers.get('location')]).toEqual([
    303,
    `/_auth/login?next=${encodeURIComponent('/dash/reports?year=2026')}`,
  ])
  expect((await pod.fetch('/dash')).status).toBe(401)
  const next = '/dash/reports?year=2026'
  expect((await ada.post('/_auth/signup', { email: 'ada@example.com', password, next })).status).toBe(200)
  expect(await ada.who()).toBeNull()
  expect((await ada.post('/_auth/login', { email: 'ada@example.com', password })).status).toBe(401)
  const { path, token, text, html } = await mailTo(pod, 'ada@example.com', 'Confirm')
  expect(html).toContain(path.replaceAll('&', '&amp;'))
  expect(text).toContain('ignore this mail')
  const confirming = await ada.get(path)
  expect(await confirming.text()).toContain('Confirm ada@example.com')
  expect(await ada.who()).toBeNull()
  const confirmed = await ada.post('/_auth/confirm', { token })
  expect([confirmed.status, confirmed.headers.get('location')]).toEqual([303, next])
  expect(await ada.who()).toMatchObject({ email: 'ada@example.com', confirmed: true, subscriptions: [] })
  expect(await (await ada.get('/dash')).text()).toBe('dash of ada@example.com')
  expect((await ada.get('/_auth/logout')).status).toBe(200)
  expect(await ada.who()).not.toBeNull()
  await ada.post('/_auth/logout', {})
  expect(await ada.who()).toBeNull()
  expect((await ada.post('/_auth/login', { email: 'ada@example.com', password: 'wrong horse' })).status).toBe(401)
  const login = await ada.post('/_auth/login', { email: ' ADA@Example.com', password, next: '/dash' })
  expect([login.status, login.headers.get('location')]).toEqual([303, '/dash'])
  expect(JSON.stringify(await ada.who())).not.toMatch(/argon|hash|epoch/i)
})

test('a magic link logs in once; looking at it uses nothing up', async () => {
  const pod = await start()
  await member(pod)
  const phone = visitor(pod)
  await phone.post('/_auth/magic', { email: 'ada@example.com', next: '/dash' })
  const { path, token } = await mailTo(pod, 'ada@example.com', 'login link')
  for (let n = 0; n < 3; n++) expect((await phone.get(path)).status).toBe(200)
  expect(await phone.who()).toBeNull()
  const [first, second] = await Promise.all([
    phone.post('/_auth/magic', { token }),
    visitor(pod).post('/_auth/magic', { token }),
  ])
  expect([first.status, second.status].sort()).toEqual([303, 410])
  expect((await phone.get(path)).status).toBe(410)
  const stored = JSON.stringify(await pod.backend.scan('tokens', {}))
  expect(stored).not.toContain(token)
})

test('a new password ends every other session and every older link', async () => {
  const pod = await start()
  const ada = await member(pod)
  const thief = visitor(pod)
  await thief.post('/_auth/login', { email: 'ada@example.com', password })
  expect(await thief.who()).not.toBeNull()
  await ada.post('/_auth/magic', { email: 'ada@example.com' })
  const magic = await mailTo(pod, 'ada@example.com', 'login link')
  await ada.post('/_auth/reset', { email: 'ada@example.com' })
  const { path, token } = await mailTo(pod, 'ada@example.com', 'new password')
  expect((await ada.get(path)).status).toBe(200)
  expect((await ada.post('/_auth/reset', { token, password: 'short' })).status).toBe(422)
  expect((await ada.post('/_auth/reset', { token, password: 'a new password' })).status).toBe(303)
  expect(await ada.who()).not.toBeNull()
  expect(await thief.who()).toBeNull()
  expect((await ada.post('/_auth/magic', { token: magic.token })).status).toBe(410)
  expect((await ada.post('/_auth/reset', { token, password: 'a third one' })).status).toBe(410)
  expect((await thief.post('/_auth/login', { email: 'ada@example.com', password })).status).toBe(401)
  expect((await thief.post('/_auth/login', { email: 'ada@example.com', password: 'a new password' })).status).toBe(303)
})

test.each(['magic', 'google'])('who proves an address by %s ends what somebody else prepared under it', async (how) => {
  const google = how === 'google' ? await provider() : undefined
  const pod = await start((tp) => {
    tp.auth.signupConfirm = false
    if (google) tp.auth.oauth = ['google']
  }, google?.options)
  const attacker = visitor(pod)
  await attacker.post('/_auth/signup', { email: 'victim@example.com', password })
  expect(await attacker.who()).toMatchObject({ email: 'victim@example.com' })
  await attacker.post('/_auth/reset', { email: 'victim@example.com' })
  const reset = await mailTo(pod, 'victim@example.com', 'new password')
  const victim = visitor(pod)
  if (google) {
    google.user = { sub: '1', email: 'victim@example.com', email_verified: true }
    await google.signIn(victim)
  } else {
    await victim.post('/_auth/magic', { email: 'victim@example.com' })
    const { token } = await mailTo(pod, 'victim@example.com', 'login link')
    await victim.post('/_auth/magic', { token })
  }
  expect(await victim.who()).toMatchObject({ email: 'victim@example.com', confirmed: true })
  expect(await attacker.who()).toBeNull()
  expect((await attacker.post('/_auth/login', { email: 'victim@example.com', password })).status).toBe(401)
  expect((await attacker.post('/_auth/reset', { token: reset.token, password: 'again again' })).status).toBe(410)
})

test('only who signed up can confirm: in the same browser, or with the password of that sign-up', async () => {
  const pod = await start()
  const attacker = visitor(pod)
  await attacker.post('/_auth/signup', { email: 'victim@example.com', password: 'attackers own' })
  const planted = await mailTo(pod, 'victim@example.com', 'Confirm')
  const victim = visitor(pod)
  expect(await (await victim.get(planted.path)).text()).toContain('The password you have chosen')
  expect((await victim.post('/_auth/confirm', { token: planted.token })).status).toBe(401)
  expect(await pod.tp.users()).toEqual([])
  // The victim signs up too, and confirms on another device.
  await victim.post('/_auth/signup', { email: 'victim@example.com', password })
  const own = await vi.waitFor(async () => {
    const mail = await mailTo(pod, 'victim@example.com', 'Confirm')
    expect(mail.token).not.toBe(planted.token)
    return mail
  })
  const phone = visitor(pod)
  expect((await phone.post('/_auth/confirm', { token: own.token, password: 'attackers own' })).status).toBe(401)
  expect((await phone.post('/_auth/confirm', { token: own.token, password })).status).toBe(303)
  expect((await attacker.post('/_auth/login', { email: 'victim@example.com', password: 'attackers own' })).status).toBe(
    401,
  )
  // The attacker's own link changes nothing any more.
  await attacker.post('/_auth/confirm', { token: planted.token })
  expect((await attacker.post('/_auth/login', { email: 'victim@example.com', password: 'attackers own' })).status).toBe(
    401,
  )
})

test('a login that races a reset does not survive it', async () => {
  const pod = await start()
  await member(pod)
  await pod.post('/_auth/reset', { email: 'ada@example.com' })
  const { token } = await mailTo(pod, 'ada@example.com', 'new password')
  const thieves = Array.from({ length: 4 }, () => visitor(pod))
  await Promise.all([
    ...thieves.map((thief) => thief.post('/_auth/login', { email: 'ada@example.com', password })),
    visitor(pod).post('/_auth/reset', { token, password: 'a new password' }),
  ])
  for (const thief of thieves) expect(await thief.who()).toBeNull()
})

test('known and unknown addresses get the same answers', async () => {
  const pod = await start()
  await member(pod)
  const answers = async (email: string) => {
    const somebody = visitor(pod)
    const seen: unknown[] = []
    for (const [path, fields] of [
      ['/_auth/login', { password: 'not the one' }],
      ['/_auth/magic', {}],
      ['/_auth/reset', {}],
      ['/_auth/signup', { password: 'another password' }],
    ] as const) {
      const answer = await somebody.post(path, { email, ...fields })
      seen.push([path, answer.status, (await answer.text()).replaceAll(email, 'EMAIL'), [...answer.headers.keys()]])
    }
    return seen
  }
  expect(await answers('ada@example.com')).toEqual(await answers('nobody@example.com'))
  // The one who has the account is told what happened, nobody else is.
  expect((await mailTo(pod, 'ada@example.com', 'already')).text).toContain('/_auth/login')
})

test('guesses are limited per account and per address, and the owner stays in', async () => {
  const pod = await start(undefined, { trustProxy: true })
  const ada = await member(pod)
  await ada.post('/_auth/login', { email: 'ada@example.com', password })
  await ada.post('/_auth/logout', {})
  const guess = (ip: string, email: string) =>
    pod.post('/_auth/login', { email, password: 'guess guess' }, { headers: { 'x-forwarded-for': ip } })
  for (let n = 0; n < 10; n++) expect((await guess(`198.51.100.${n}`, 'ada@example.com')).status).toBe(401)
  const refused = await guess('198.51.100.99', 'ada@example.com')
  expect(refused.status).toBe(429)
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
  expect(await refused.text()).toContain('mailed link')
  // Her own browser is known.
  expect((await ada.post('/_auth/login', { email: 'ada@example.com', password })).status).toBe(303)
  for (let n = 0; n < 50; n++) expect((await guess('203.0.113.7', `user${n}@example.com`)).status).toBe(401)
  expect((await guess('203.0.113.7', 'someone@example.com')).status).toBe(429)
  expect((await guess('203.0.113.8', 'someone@example.com')).status).toBe(401)
}, 60_000)

test('the session changes at login, and cookies belong to this host alone', async () => {
  const pod = await start(undefined, { origin: 'https://app.example.com' })
  const headers = { origin: 'https://app.example.com' }
  await pod.tp.createUser('ada@example.com', password)
  const login = (cookie = '') =>
    pod.post('/_auth/login', { email: 'ada@example.com', password }, { headers: { ...headers, cookie } })
  const first = (await login()).headers.getSetCookie()
  expect(first[0]).toMatch(/^__Host-tp_session=[\w-]{43}; Max-Age=\d+; Path=\/; HttpOnly; Secure; SameSite=Lax$/)
  expect(first[1]).toMatch(/^__Host-tp_device=/)
  expect(first.join()).not.toMatch(/domain/i)
  const cookie = first[0]?.split(';')[0] ?? ''
  const who = async (session: string) => userIn(await pod.fetch('/who', { headers: { cookie: session } }))
  expect(await who(cookie)).toMatchObject({ email: 'ada@example.com' })
  const second = (await login(cookie)).headers.getSetCookie()[0]?.split(';')[0] ?? ''
  expect(second).not.toBe(cookie)
  expect(await who(cookie)).toBeNull()
  expect(await who(second)).not.toBeNull()
  // A cookie under the name that plain http uses is nobody's session here.
  expect(await who(second.replace('__Host-', ''))).toBeNull()
  expect(JSON.stringify(await pod.backend.scan('sessions', {}))).not.toContain(second.split('=')[1])
})

test('mailed links carry the configured origin, whatever the request says of its host', async () => {
  const pod = await start(undefined, { origin: 'https://app.example.com' })
  await pod.tp.createUser('ada@example.com', password)
  const body = 'email=ada%40example.com'
  const type = { 'content-type': 'application/x-www-form-urlencoded' }
  const send = (path: string, headers: Record<string, string | string[]>) =>
    rawRequest(pod.port, {
      method: 'POST',
      path,
      headers: { ...type, 'content-length': String(body.length), ...headers },
      body,
    })
  await send('/_auth/magic', { host: 'evil.example' })
  await send('/_auth/magic', {
    host: 'app.example.com',
    'x-forwarded-host': 'evil.example',
    forwarded: 'host=evil.example',
  })
  await send('http://evil.example/_auth/magic', { host: 'evil.example' })
  await vi.waitFor(async () => expect((await pod.backend.mail.list()).length).toBe(3))
  for (const { text, html } of await pod.backend.mail.list()) {
    expect(text).toContain('https://app.example.com/_auth/magic?token=')
    expect(text + html).not.toContain('evil')
  }
})

test('next leads to a path of this app and nowhere else', async () => {
  const pod = await start()
  await pod.tp.createUser('ada@example.com', password)
  const evil = [
    '/.//evil.example',
    '/x/..//evil.example/y',
    '/%2e//evil.example',
    '//evil.example',
    '/\\evil.example',
    'https:evil.example',
    'https://evil.example',
    '\\\\evil',
    'javascript:alert(1)',
    '/\t/evil.example',
    '/%0d%0aset-cookie:a=b',
    '/\r\nset-cookie: a=b',
    'evil',
    '',
    '/x\\..\\evil',
  ]
  for (const next of evil) {
    const answer = await visitor(pod).post('/_auth/login', { email: 'ada@example.com', password, next })
    const location = answer.headers.get('location') ?? ''
    expect({ next, location, origin: new URL(location, 'http://here').origin }).toMatchObject({
      next,
      origin: 'http://here',
    })
    expect(answer.headers.get('a')).toBeNull()
    expect(await (await pod.page(`/_auth/login?next=${encodeURIComponent(next)}`)).text()).not.toMatch(
      /value="[^"]*evil\.example/,
    )
  }
  const good = await visitor(pod).post('/_auth/login', { email: 'ada@example.com', password, next: '/a%20b?c=d#e' })
  expect(good.headers.get('location')).toBe('/a%20b?c=d#e')
})

test('forms of other sites change nothing', async () => {
  const pod = await start()
  const ada = await member(pod)
  const cookie = [...ada.cookies].map(([name, value]) => `${name}=${value}`).join('; ')
  const foreign: Record<string, string>[] = [
    { origin: 'https://evil.example' },
    { origin: 'null' },
    { 'sec-fetch-site': 'cross-site' },
    { origin: 'https://sibling.localhost', 'sec-fetch-site': 'same-site' },
  ]
  for (const headers of foreign) {
    for (const path of ['/_auth/login', '/_auth/logout', '/_auth/signup', '/_auth/reset', '/_auth/magic']) {
      const body = new URLSearchParams({ email: 'x@example.com', password })
      const answer = await pod.fetch(path, { method: 'POST', body, headers: { ...headers, cookie } })
      expect({ path, status: answer.status }).toEqual({ path, status: 403 })
    }
  }
  expect(await ada.who()).not.toBeNull()
})

test('required paths have no way around', async () => {
  const pod = await start((tp) => {
    tp.route('/dash/deep/page', () => 'secret')
    tp.auth.required = ['/dash*']
  })
  for (const path of [
    '/dash',
    '/dash/',
    '/dash//deep/page',
    '/%64ash',
    '/dash/deep/page/',
    '/./dash',
    '/x/../dash',
    '//dash',
    '/dash/%2e%2e/dash',
  ]) {
    const { status, text } = await rawRequest(pod.port, { path })
    expect({ path, open: status === 200, text }).toMatchObject({ path, open: false })
    expect(text).not.toContain('secret')
  }
})

test('paywall: no sign-up form, login by mail; the theme is the app’s', async () => {
  const pod = await startTestPod(async (tp) => {
    tp.auth = 'paywall'
    tp.auth.theme = { accent: '#7a1fa2', css: 'h1{color:red}' }
    tp.route('/who', (req) => ({ user: req.user }))
    await tp.createUser('ada@example.com', { subscriptions: ['pro'], plan: 'gold' })
    await tp.createUser('ada@example.com', { subscriptions: ['pro'], purchased: ['book'] })
  })
  expect((await pod.page('/_auth/signup')).status).toBe(404)
  const page = await pod.page('/_auth/login')
  const text = await page.text()
  expect(text).toContain('--accent:#7a1fa2')
  expect(text).toContain('h1{color:red}')
  expect(page.headers.get('content-security-policy')).toMatch(/^default-src 'none'; style-src 'sha256-/)
  const ada = visitor(pod)
  await ada.post('/_auth/magic', { email: 'ada@example.com' })
  const { token } = await mailTo(pod, 'ada@example.com')
  await ada.post('/_auth/magic', { token })
  expect(await ada.who()).toMatchObject({ subscriptions: ['pro'], purchased: ['book'], data: { plan: 'gold' } })
  expect(await pod.tp.users()).toHaveLength(1)
})

test('a theme of one’s own wraps the pages', async () => {
  const page = '<!doctype html><title>{title} · Mine</title><nav>Mine</nav>{content}'
  const pod = await start((tp) => {
    tp.auth.theme.page = page
  })
  const text = await (await pod.page('/_auth/login')).text()
  expect(text).toContain('<title>Log in · Mine</title><nav>Mine</nav>')
  expect(text).toContain('name="password"')
})

test('a setting that cannot work stops the start and says which field', async () => {
  const failing = async (set: (tp: Tp) => unknown) => startTestPod(set).catch((error: unknown) => error)
  const wrong = Object.assign({}, { requires: ['/x'] })
  expect(await failing((tp) => Object.assign(tp, { auth: wrong }))).toMatchObject({
    code: 'bad_config',
    details: { issues: [{ path: ['requires'] }] },
  })
  expect(await failing((tp) => Object.assign(tp, { auth: { required: '/dash' } }))).toMatchObject({
    details: { issues: [{ path: ['required'] }] },
  })
  expect(
    await failing((tp) => {
      tp.auth = { oauth: ['google'] }
    }),
  ).toMatchObject({ hint: expect.stringContaining('secrets') })
})

// ---- Google, by a real provider over HTTP ----

async function provider() {
  const server = new OAuth2Server()
  await server.issuer.keys.generate('RS256')
  await server.start(0, '127.0.0.1')
  onTestFinished(() => server.stop())
  const mock = {
    user: { sub: '1', email: 'ada@example.com', email_verified: true } as Record<string, unknown>,
    nonce: undefined as string | undefined,
    options: {
      secrets: { google_client_id: 'id', google_client_secret: 'secret', google_issuer: server.issuer.url ?? '' },
    },
    /** Goes to the provider and comes back; `change` may tamper with the way back. */
    async signIn(who: Visitor, change: (back: URL) => void = () => undefined, next = '/dash') {
      const begun = await who.get(`/_auth/oauth/google?next=${encodeURIComponent(next)}`)
      const to = new URL(begun.headers.get('location') ?? '')
      expect(to.searchParams.get('code_challenge_method')).toBe('S256')
      mock.nonce ??= to.searchParams.get('nonce') ?? undefined
      const allowed = await fetch(to, { redirect: 'manual' })
      const back = new URL(allowed.headers.get('location') ?? '')
      change(back)
      return who.get(back.pathname + back.search)
    },
  }
  server.service.on('beforeTokenSigning', (token: { payload: Record<string, unknown> }) => {
    Object.assign(token.payload, { aud: 'id', nonce: mock.nonce, ...mock.user })
  })
  return mock
}

test('Google signs up, links and logs in, only with a verified address', async () => {
  const google = await provider()
  const pod = await start((tp) => {
    tp.auth.oauth = ['google']
  }, google.options)
  const ada = visitor(pod)
  google.user = { sub: '7', email: 'ada@example.com', email_verified: false }
  expect((await google.signIn(ada)).status).toBe(403)
  expect(await pod.tp.users()).toEqual([])
  google.nonce = undefined
  google.user = {
    sub: '7',
    email: 'ada@example.com',
    email_verified: true,
    name: 'Ada',
    picture: 'https://x.example/a.png',
  }
  const back = await google.signIn(ada)
  expect([back.status, back.headers.get('location')]).toEqual([303, '/dash'])
  expect(await ada.who()).toMatchObject({ name: 'Ada', avatarUrl: 'https://x.example/a.png', confirmed: true })
  google.nonce = undefined
  expect((await google.signIn(visitor(pod))).status).toBe(303)
  expect(await pod.tp.users()).toHaveLength(1)
  expect(await (await pod.page('/_auth/login')).text()).toContain('/_auth/oauth/google')
})

test('Google: a wrong state, a wrong nonce, another browser and a second use are refused', async () => {
  const google = await provider()
  const pod = await start((tp) => {
    tp.auth.oauth = ['google']
  }, google.options)
  expect((await google.signIn(visitor(pod), (back) => back.searchParams.set('state', 'x'))).status).toBe(400)
  google.nonce = 'not the one'
  expect((await google.signIn(visitor(pod))).status).toBe(400)
  google.nonce = undefined
  const victim = visitor(pod)
  let way = ''
  await google.signIn(visitor(pod), (back) => {
    way = back.pathname + back.search
  })
  expect((await victim.get(way)).status).toBe(400)
  expect(await victim.who()).toBeNull()
  const denied = visitor(pod)
  google.nonce = undefined
  const refused = await google.signIn(denied, (back) => {
    back.search = `?error=access_denied&state=${back.searchParams.get('state')}`
  })
  expect(refused.status).toBe(403)
})

test('Google: a provider that is away is an error page, and is asked again', async () => {
  const pod = await start(
    (tp) => {
      tp.auth.oauth = ['google']
    },
    { secrets: { google_client_id: 'id', google_client_secret: 'secret', google_issuer: 'http://127.0.0.1:9' } },
  )
  expect((await pod.page('/_auth/oauth/google')).status).toBe(502)
})
