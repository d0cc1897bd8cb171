import { expect, test } from 'vitest'
import type { Tp } from '../src/tp.ts'
import { mailTo, visitor } from './browser.ts'
import { startTestPod, type TestPod } from './pod.ts'
import { startStripe } from './stripe.ts'

const products: Tp['payments']['products'] = [
  { id: 'pro', name: 'Pro', price: 500, recurring: 'month', description: 'Everything <b>' },
  { id: 'book', name: 'The book', price: 1900, currency: 'eur' },
]

const start = (auth: 'paywall' | 'standard', options: Parameters<typeof startTestPod>[1] = {}) =>
  startTestPod((tp) => {
    tp.auth = auth
    tp.payments = { products }
    tp.route('/who', (req) => ({ user: req.user }))
  }, options)

const password = 'correct horse'
async function loggedIn(pod: TestPod, email = 'ada@example.com') {
  await pod.tp.createUser(email, password)
  const ada = visitor(pod)
  await ada.post('/_auth/login', { email, password })
  return ada
}

test('while developing a purchase is simulated: the account is made, logged in, and can cancel', async () => {
  const pod = await start('paywall')
  const ada = visitor(pod)
  const page = await (await ada.get('/_pay/pro')).text()
  expect(page).toContain('$5.00 a month')
  expect(page).toContain('Everything &lt;b&gt;')
  expect((await ada.post('/_pay/pro', { email: 'nonsense' })).status).toBe(422)
  const attempt = 'a1'
  expect((await ada.post('/_pay/pro', { email: 'ada@example.com', attempt })).headers.get('location')).toBe('/')
  expect(await ada.who()).toMatchObject({ email: 'ada@example.com', subscriptions: ['pro'], purchased: [] })
  expect(await (await ada.get('/_pay/pro')).text()).toContain('You have this already')
  await ada.post('/_pay/book', {})
  expect(await ada.who()).toMatchObject({ subscriptions: ['pro'], purchased: ['book'] })
  const portal = await (await ada.get('/_pay/portal')).text()
  expect(portal).toMatch(/Pro[\s\S]*€19\.00|€19\.00[\s\S]*Pro/)
  const [, id = ''] = /name="cancel" value="([^"]+)"/.exec(portal) ?? []
  const other = await loggedIn(pod, 'eve@example.com')
  expect((await other.post('/_pay/portal', { cancel: id })).status).toBe(404)
  await ada.post('/_pay/portal', { cancel: id })
  expect(await ada.who()).toMatchObject({ subscriptions: [], purchased: ['book'] })
  expect(await (await ada.get('/_pay/portal')).text()).toContain('cancelled')
})

test('paying for somebody else’s address gives no session for it; its owner gets a link', async () => {
  const pod = await start('paywall')
  await pod.tp.createUser('victim@example.com', { purchased: ['archive'] })
  const attacker = visitor(pod)
  const answer = await attacker.post('/_pay/pro', { email: 'Victim@example.com' })
  expect(answer.status).toBe(200)
  expect(await attacker.who()).toBeNull()
  const { token } = await mailTo(pod, 'victim@example.com')
  const victim = visitor(pod)
  await victim.post('/_auth/magic', { token })
  expect(await victim.who()).toMatchObject({ subscriptions: ['pro'], purchased: ['archive'] })
  // An account that a stranger's purchase made is its owner's from the first link on.
  const stranger = visitor(pod)
  await stranger.post('/_pay/pro', { email: 'new@example.com' })
  expect(await stranger.who()).toMatchObject({ email: 'new@example.com' })
  const link = await mailTo(pod, 'new@example.com')
  const owner = visitor(pod)
  await owner.post('/_auth/magic', { token: link.token })
  expect(await owner.who()).toMatchObject({ subscriptions: ['pro'] })
  expect(await stranger.who()).toBeNull()
})

test('with sign-up, buying needs a login first; without Stripe nothing is sold in production', async () => {
  const pod = await start('standard')
  expect((await pod.page('/_pay/pro')).headers.get('location')).toBe('/_auth/login?next=%2F_pay%2Fpro')
  expect((await pod.post('/_pay/pro', { email: 'x@example.com' })).status).toBe(401)
  const live = await start('paywall', { mode: 'production' })
  expect((await live.page('/_pay/pro')).status).toBe(503)
  expect((await live.post('/_pay/pro', { email: 'x@example.com' })).status).toBe(503)
  expect(await live.tp.users()).toEqual([])
})

test('Stripe: checkout, the way back, and the webhook end in one purchase, whichever comes first', async () => {
  const stripe = await startStripe()
  const pod = await start('paywall', { mode: 'production', secrets: stripe.secrets })
  const ada = visitor(pod)
  const begun = await ada.post('/_pay/pro', { attempt: 'click' })
  const twice = await ada.post('/_pay/book', { attempt: 'other' })
  expect(twice.headers.get('location')).toMatch(/^https:\/\/checkout\.stripe\.example\//)
  expect(stripe.asked[0]).toMatchObject({
    idempotencyKey: 'tp_click',
    fields: {
      mode: 'subscription',
      'line_items[0][price_data][unit_amount]': '500',
      cancel_url: `${pod.origin}/_pay/pro`,
    },
  })
  expect((await ada.get('/_pay/done?session=cs_test_none')).status).toBe(502)
  const { session, back } = stripe.pay(begun.headers.get('location') ?? '', 'ada@example.com')
  const body = stripe.event('checkout.session.completed', session)
  const send = (text = body, signature = stripe.sign(text)) =>
    pod.fetch('/_pay/webhook', { method: 'POST', body: text, headers: { 'stripe-signature': signature } })
  const [hook, done] = await Promise.all([send(), ada.get(back)])
  expect([hook.status, done.status]).toEqual([200, 303])
  expect((await send()).status).toBe(200)
  expect(await ada.who()).toMatchObject({ email: 'ada@example.com', subscriptions: ['pro'] })
  expect(await pod.backend.scan('purchases', {})).toHaveLength(1)
  expect(await pod.tp.users()).toHaveLength(1)
  // The link of the way back opens nothing for another browser.
  const thief = visitor(pod)
  expect((await thief.get(back)).status).toBe(200)
  expect(await thief.who()).toBeNull()
  const portal = await ada.post('/_pay/portal', {})
  expect(portal.headers.get('location')).toBe(`https://billing.stripe.example/${session.customer}`)
})

test('Stripe: who is logged in buys for their account, as the same customer again', async () => {
  const stripe = await startStripe()
  const pod = await start('standard', { mode: 'production', secrets: stripe.secrets })
  const ada = await loggedIn(pod)
  const begun = await ada.post('/_pay/pro', {})
  expect(stripe.asked[0]?.fields).toMatchObject({ customer_email: 'ada@example.com' })
  const { back, session } = stripe.pay(begun.headers.get('location') ?? '', 'card@elsewhere.example')
  await ada.get(back)
  expect(await ada.who()).toMatchObject({ email: 'ada@example.com', subscriptions: ['pro'] })
  await ada.post('/_pay/book', {})
  expect(stripe.asked.at(-1)?.fields).toMatchObject({ customer: session.customer, mode: 'payment' })
  expect(stripe.asked.at(-1)?.fields.customer_creation).toBeUndefined()
})

test('Stripe: subscriptions follow what Stripe says now, in whatever order it is told', async () => {
  const stripe = await startStripe()
  const pod = await start('standard', { mode: 'production', secrets: stripe.secrets })
  const ada = await loggedIn(pod)
  const tell = async (type: string, object: Record<string, unknown>) => {
    const body = stripe.event(type, object)
    const headers = { 'stripe-signature': stripe.sign(body) }
    expect((await pod.fetch('/_pay/webhook', { method: 'POST', body, headers })).status).toBe(200)
  }
  const { session, back, subscription } = stripe.pay(
    (await ada.post('/_pay/pro', {})).headers.get('location') ?? '',
    'a@b.example',
  )
  // Told of before anybody knows it.
  await tell('customer.subscription.updated', { id: subscription, status: 'active' })
  await ada.get(back)
  const access = async () => (await ada.who()) as { subscriptions: string[]; purchased: string[] }
  const state = stripe.subscriptions.get(subscription) ?? {}
  Object.assign(state, { status: 'past_due' })
  await tell('invoice.payment_failed', { parent: { subscription_details: { subscription } } })
  expect((await access()).subscriptions).toEqual(['pro'])
  Object.assign(state, { status: 'canceled', ended_at: 1_800_000_000 })
  // An old event that says active, after it was cancelled.
  await tell('customer.subscription.updated', { id: subscription, status: 'active' })
  expect((await access()).subscriptions).toEqual([])
  await tell('customer.subscription.deleted', { id: subscription })
  await tell('checkout.session.completed', session)
  expect((await access()).subscriptions).toEqual([])
  const book = stripe.pay((await ada.post('/_pay/book', {})).headers.get('location') ?? '', 'a@b.example')
  await tell('checkout.session.completed', book.session)
  expect((await access()).purchased).toEqual(['book'])
  await tell('charge.refunded', { payment_intent: book.session.payment_intent, refunded: false })
  expect((await access()).purchased).toEqual(['book'])
  await tell('charge.refunded', { payment_intent: book.session.payment_intent, refunded: true })
  expect((await access()).purchased).toEqual([])
  await tell('customer.created', { id: 'cus_9' })
})

test('webhooks must be signed, recent and of the mode of the key', async () => {
  const stripe = await startStripe()
  const pod = await start('paywall', { mode: 'production', secrets: stripe.secrets })
  const { session } = stripe.pay(
    (await visitor(pod).post('/_pay/pro', {})).headers.get('location') ?? '',
    'a@b.example',
  )
  const body = stripe.event('checkout.session.completed', session)
  const send = async (text: string, signature: string) =>
    (await pod.fetch('/_pay/webhook', { method: 'POST', body: text, headers: { 'stripe-signature': signature } }))
      .status
  expect(await send(body, '')).toBe(400)
  expect(await send(body, stripe.sign(body, 'whsec_other'))).toBe(400)
  expect(await send(`${body} `, stripe.sign(body))).toBe(400)
  expect(await send(body, stripe.sign(body, stripe.webhookSecret, 400))).toBe(400)
  const live = stripe.event('checkout.session.completed', session, { livemode: true })
  expect(await send(live, stripe.sign(live))).toBe(400)
  expect(await pod.tp.users()).toEqual([])
  expect(JSON.stringify(pod.logged)).not.toMatch(/sk_test|whsec/)
  expect(await send(body, stripe.sign(body))).toBe(200)
  expect(await pod.tp.users()).toHaveLength(1)
})

test('Stripe refusing a checkout is an error page for the buyer and a line in the log', async () => {
  const stripe = await startStripe()
  const pod = await start('paywall', {
    mode: 'production',
    secrets: { ...stripe.secrets, stripe_secret_key: 'sk_test_wrong' },
  })
  const answer = await pod.fetch('/_pay/pro', { method: 'POST', headers: { origin: pod.origin } })
  expect([answer.status, await answer.json()]).toMatchObject([502, { code: 'payment_failed' }])
  expect(pod.logged.map(({ message }) => message).join()).toContain('Invalid API Key')
  expect(JSON.stringify(pod.logged)).not.toContain('sk_test_wrong')
})

test('what cannot be sold stops the start and says which field', async () => {
  const wrong: [object[], (string | number)[]][] = [
    [[{ id: 'Pro!', name: 'x', price: 1 }], ['products', 0, 'id']],
    [[{ id: 'webhook', name: 'x', price: 1 }], ['products', 0, 'id']],
    [[{ id: 'a', name: 'x', price: 4.99 }], ['products', 0, 'price']],
    [
      [
        { id: 'a', name: 'x', price: 1 },
        { id: 'a', name: 'x', price: 1 },
      ],
      ['products', 1, 'id'],
    ],
    [[{ id: 'a', name: 'x', price: 1, recurring: 'week' }], ['products', 0, 'recurring']],
    [[{ id: 'a', name: '', price: 1 }], ['products', 0, 'name']],
  ]
  for (const [list, path] of wrong) {
    const failed = await startTestPod((tp) => {
      tp.auth = 'paywall'
      Object.assign(tp, { payments: { products: list } })
    }).catch((error: unknown) => error)
    expect(failed).toMatchObject({ code: 'bad_config', details: { issues: [{ path }] } })
  }
  const alone = await startTestPod((tp) => {
    tp.payments = { products }
  }).catch((error: unknown) => error)
  expect(alone).toMatchObject({ message: expect.stringContaining('needs accounts') })
})
