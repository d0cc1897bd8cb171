/**
 * `tp.payments`: what is sold, the pages under /_pay/, and Stripe's webhook. While developing, and only then, a
 * purchase without Stripe is simulated at once.
 *
 * Invariant: paying for an address gives nobody that address's session. Who bought is logged in only when the sale
 * made the account, in the browser that bought; everybody else by a mailed link.
 */
import { randomUUID } from 'node:crypto'
import { sendMagicLink } from '../auth/magic.ts'
import { withNext } from '../auth/next.ts'
import { alert, authPage } from '../auth/page.ts'
import { cookieName, startSession } from '../auth/sessions.ts'
import type { UserRecord } from '../backend.ts'
import { type Product, paymentIssues } from '../config.ts'
import { checkAddress } from '../email.ts'
import { TpError } from '../errors.ts'
import { html } from '../html.ts'
import type { Pod } from '../pod.ts'
import { cookieHeader, type Reply, reply } from '../reply.ts'
import type { Request } from '../request.ts'
import { hashToken, newToken } from '../tokens.ts'
import { findUser } from '../users.ts'
import { isConnected, stripe } from './connection.ts'
import { mountPortal } from './portal.ts'
import { priceOf } from './price.ts'
import { fulfil } from './purchases.ts'

/** The feature, see pod.ts. @throws TpError `bad_config` */
export function paymentsFeature(pod: Pod): void {
  const { payments } = pod
  if (!payments) return
  const issues = paymentIssues(payments)
  if (!pod.auth) issues.push({ path: [], message: "needs accounts: set tp.auth = 'paywall' or 'standard' too" })
  if (issues.length > 0)
    throw new TpError(
      'bad_config',
      `tp.payments: ${issues[0]?.path.join('.')} ${issues[0]?.message}`.replace(/\s+/g, ' '),
      {
        issues,
        hint: 'Correct tp.payments in main.ts; `tidepool docs payments` shows every field.',
      },
    )

  pod.mount('/_pay/webhook', { methods: ['POST'], crossSite: true, maxBody: 1024 * 1024 }, async (req) =>
    (await stripe()).receiveEvent(pod, req.raw, req.headers['stripe-signature'] ?? ''),
  )
  pod.mount('/_pay/done', {}, (req) => done(pod, req))
  mountPortal(pod)
  for (const product of payments.products)
    pod.mount(`/_pay/${product.id}`, { methods: ['GET', 'POST'] }, (req) =>
      req.method === 'POST' ? buy(pod, req, product) : offer(pod, req, product),
    )
}

const owns = ({ user }: Request, { id }: Product) =>
  user !== null && (user.subscriptions.includes(id) || user.purchased.includes(id))

function offer(pod: Pod, req: Request, product: Product, error?: string): Reply {
  const { mode } = pod.setup()
  const path = `/_pay/${product.id}`
  if (!req.user && pod.auth?.signup)
    return reply(null, { status: 303, headers: { location: withNext('/_auth/login', path) } })
  if (owns(req, product))
    return authPage(pod, product.name, html`<p>You have this already.</p><a class="button" href="/">Go on</a>`)
  if (!isConnected(pod) && mode !== 'dev')
    return authPage(
      pod,
      product.name,
      html`<p role="alert">This cannot be bought yet: the shop is not connected to Stripe.</p>`,
      {
        status: 503,
      },
    )
  const simulated = !isConnected(pod)
  return authPage(
    pod,
    product.name,
    html`${alert(error)}
    ${product.description && html`<p>${product.description}</p>`}
    <p><strong>${priceOf(product)}</strong></p>
    <form method="post" action="${path}">
      <input type="hidden" name="attempt" value="${randomUUID()}">
      ${simulated && !req.user && html`<label>E-mail <input type="email" name="email" autocomplete="username" required autofocus></label>`}
      <button>${simulated ? 'Buy (simulated)' : 'Go to checkout'}</button>
    </form>
    ${simulated && html`<p class="soft">While developing, nobody is charged.</p>`}
    ${!req.user && html`<p class="links"><a href="${withNext('/_auth/login', path)}">I have an account</a></p>`}`,
    { status: error ? 422 : 200 },
  )
}

async function buy(pod: Pod, req: Request, product: Product): Promise<Reply> {
  const { backend, mode } = pod.setup()
  if (!req.user && pod.auth?.signup) throw new TpError('unauthorized')
  if (owns(req, product) && product.recurring) return offer(pod, req, product)
  const attempt = String(req.body.attempt ?? '').slice(0, 60) || randomUUID()
  if (!isConnected(pod)) {
    if (mode !== 'dev') return offer(pod, req, product)
    let email: string
    try {
      email = req.user?.email ?? checkAddress(String(req.body.email ?? ''))
    } catch (error) {
      if (!(error instanceof TpError)) throw error
      return offer(pod, req, product, `${error.message}.`)
    }
    const sale = { id: `dev_${attempt}`, product, userId: req.user?.id ?? null, email, simulated: true, stripe: {} }
    const { user, made } = await fulfil(pod, sale)
    return thank(pod, req, user, made)
  }
  const customer = req.user ? ((await findUser(backend, req.user.id))?.stripeCustomer ?? null) : null
  const name = cookieName(pod, 'tp_buyer')
  // One for all checkouts of a browser, which may have several open.
  const browser = req.cookies[name] ?? newToken()
  const { startCheckout } = await stripe()
  const location = await startCheckout(pod, req, product, customer, { browser: hashToken(browser), attempt })
  // Longer than a checkout may take.
  const cookie = cookieHeader(name, { value: browser, maxAge: 2 * 24 * 3600 }, pod.https)
  return reply(null, { status: 303, headers: { location, 'set-cookie': cookie, 'cache-control': 'no-store' } })
}

/** Where Stripe sends the buyer afterwards. Its webhook may have been here before, or comes later. */
async function done(pod: Pod, req: Request): Promise<Reply> {
  const id = req.query.session ?? ''
  if (!/^cs_[\w-]{1,200}$/.test(id) || !isConnected(pod)) throw new TpError('not_found', 'There is no such checkout')
  const browser = req.cookies[cookieName(pod, 'tp_buyer')]
  const { finishCheckout } = await stripe()
  const finished = await finishCheckout(pod, id, browser ? hashToken(browser) : '')
  if (!finished)
    return authPage(
      pod,
      'Thank you',
      html`<p>Your payment is still on its way. We will send you a mail as soon as it has arrived.</p><a class="button" href="/">Go on</a>`,
    )
  return thank(pod, req, finished.user, finished.made && finished.ours)
}

/** @param login whether the buyer is who the account was made for */
async function thank(pod: Pod, req: Request, user: UserRecord, login: boolean): Promise<Reply> {
  if (req.user?.id === user.id) return reply(null, { status: 303, headers: { location: '/' } })
  if (login && !user.confirmed && !user.passwordHash) {
    const cookie = await startSession(pod, req, user)
    sendMagicLink(pod, user.email, '/')
    return reply(null, { status: 303, headers: { location: '/', 'set-cookie': cookie, 'cache-control': 'no-store' } })
  }
  sendMagicLink(pod, user.email, '/')
  return authPage(
    pod,
    'Thank you',
    html`<p>We have sent a login link to the address you paid with. It opens what you have bought.</p>`,
  )
}
