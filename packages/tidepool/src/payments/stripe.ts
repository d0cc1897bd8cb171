/**
 * Stripe, by its own library: checkout, customer portal, and what its webhooks say. Events come twice and out of order:
 * each is recorded by its id in the write that it causes, and a subscription is asked for as it is now.
 *
 * Secrets: stripe_secret_key, stripe_webhook_secret; stripe_api_base for another host that speaks the same.
 */
import Stripe from 'stripe'
import type { Write } from '../backend.ts'
import type { Product } from '../config.ts'
import { TpError } from '../errors.ts'
import type { Pod } from '../pod.ts'
import type { Request } from '../request.ts'
import { changePurchase, fulfil, purchaseByStripe, type Sale } from './purchases.ts'

/** Seconds that a webhook may be old. */
const tolerance = 300
/** Events are remembered for longer than Stripe repeats them. */
const rememberMs = 40 * 24 * 3600 * 1000

const clients = new WeakMap<Pod, Stripe>()

function client(pod: Pod): Stripe {
  const { stripe_secret_key: key = '', stripe_api_base: base } = pod.setup().backend.secrets
  let made = clients.get(pod)
  if (!made) {
    const url = base ? new URL(base) : undefined
    made = new Stripe(key, {
      // By `fetch`, which has a way out of a sandbox.
      httpClient: Stripe.createFetchHttpClient(),
      maxNetworkRetries: 2,
      timeout: 20_000,
      telemetry: false,
      ...(url && {
        host: url.hostname,
        port: url.port || (url.protocol === 'http:' ? '80' : '443'),
        protocol: url.protocol === 'http:' ? 'http' : 'https',
      }),
    })
    clients.set(pod, made)
  }
  return made
}

/** What Stripe refuses is for the owner's log; buyers are told that it did not work. */
async function ask<T>(pod: Pod, work: (stripe: Stripe) => Promise<T>): Promise<T> {
  try {
    return await work(client(pod))
  } catch (cause) {
    if (!(cause instanceof Stripe.errors.StripeError)) throw cause
    pod
      .setup()
      .log.error(`Stripe: ${cause.message}`, { type: cause.type, code: cause.code, requestId: cause.requestId })
    throw new TpError('payment_failed', 'The payment provider did not accept this', { cause })
  }
}

/**
 * Starts a checkout.
 * @param browser names the buyer's browser: only that one is logged in afterwards
 * @param attempt the same for a repeated click, so that it starts one checkout
 * @returns the address to send the buyer to
 * @throws TpError `payment_failed`
 */
export async function startCheckout(
  pod: Pod,
  { user }: Request,
  product: Product,
  customer: string | null,
  { browser, attempt }: { browser: string; attempt: string },
): Promise<string> {
  const metadata = { tp_product: product.id, tp_browser: browser, ...(user && { tp_user: user.id }) }
  const session = await ask(pod, (stripe) =>
    stripe.checkout.sessions.create(
      {
        mode: product.recurring ? 'subscription' : 'payment',
        line_items: [
          {
            quantity: 1,
            price_data: {
              currency: product.currency ?? 'usd',
              unit_amount: product.price,
              product_data: {
                name: product.name,
                ...(product.description !== undefined && { description: product.description }),
              },
              ...(product.recurring && { recurring: { interval: product.recurring } }),
            },
          },
        ],
        success_url: `${pod.url('/_pay/done')}?session={CHECKOUT_SESSION_ID}`,
        cancel_url: pod.url(`/_pay/${product.id}`),
        metadata,
        ...(user && { client_reference_id: user.id }),
        ...(customer ? { customer } : user ? { customer_email: user.email } : {}),
        ...(product.recurring
          ? { subscription_data: { metadata } }
          : { payment_intent_data: { metadata }, ...(!customer && { customer_creation: 'always' as const }) }),
      },
      { idempotencyKey: `tp_${attempt}` },
    ),
  )
  if (!session.url) throw new TpError('payment_failed', 'The payment provider gave no checkout page')
  return session.url
}

/** Starts a visit to the customer portal. @returns its address */
export async function startPortal(pod: Pod, customer: string): Promise<string> {
  const session = await ask(pod, (stripe) =>
    stripe.billingPortal.sessions.create({ customer, return_url: pod.url('/_pay/portal') }),
  )
  return session.url
}

const idOf = (object: string | { id: string } | null | undefined) =>
  typeof object === 'string' ? object : (object?.id ?? undefined)

function saleOf(pod: Pod, session: Stripe.Checkout.Session): Sale | undefined {
  const product = pod.payments?.products.find(({ id }) => id === session.metadata?.tp_product)
  const email = session.customer_details?.email ?? session.customer_email
  if (!product || !email || session.status !== 'complete' || session.payment_status === 'unpaid') return undefined
  const ids = {
    customer: idOf(session.customer),
    subscription: idOf(session.subscription),
    intent: idOf(session.payment_intent),
  }
  return {
    id: ids.subscription ?? session.id,
    product,
    userId: session.client_reference_id,
    email,
    simulated: false,
    stripe: {
      session: session.id,
      ...Object.fromEntries(Object.entries(ids).flatMap(([name, id]) => (id ? [[name, id]] : []))),
    },
  }
}

/**
 * A checkout that its buyer has come back from.
 * @returns the owner of what was bought, and whether this browser bought it; undefined while it is not paid
 */
export async function finishCheckout(pod: Pod, id: string, browser: string) {
  const session = await ask(pod, (stripe) => stripe.checkout.sessions.retrieve(id))
  const sale = saleOf(pod, session)
  return sale && { ...(await fulfil(pod, sale)), ours: browser !== '' && session.metadata?.tp_browser === browser }
}

/**
 * A webhook of Stripe's.
 * @throws TpError `bad_signature`, also for one that is too old or of the other mode
 */
export async function receiveEvent(pod: Pod, raw: Buffer, signature: string): Promise<{ received: true }> {
  const { backend, log } = pod.setup()
  const { stripe_webhook_secret: secret, stripe_secret_key: key = '' } = backend.secrets
  if (!secret)
    throw new TpError('bad_config', 'There is no stripe_webhook_secret to check signatures with', {
      hint: 'Set the secret stripe_webhook_secret to the signing secret of the webhook at Stripe.',
    })
  let event: Stripe.Event
  try {
    event = client(pod).webhooks.constructEvent(raw, signature, secret, tolerance)
  } catch (cause) {
    throw new TpError('bad_signature', 'The signature does not match, or is too old', { cause })
  }
  if (event.livemode !== /^[sr]k_live/.test(key))
    throw new TpError(
      'bad_signature',
      `This is a ${event.livemode ? 'live' : 'test'} event, and the key is of the other mode`,
    )
  if (await backend.read('events', event.id)) return { received: true }
  const once: Write = { op: 'set', space: 'events', key: event.id, value: Date.now(), ttl: rememberMs, if: 'absent' }
  await handle(pod, event, [once])
  log.info(`Stripe: ${event.type}`, { event: event.id })
  return { received: true }
}

async function handle(pod: Pod, event: Stripe.Event, once: readonly Write[]): Promise<void> {
  switch (event.type) {
    case 'checkout.session.completed':
    case 'checkout.session.async_payment_succeeded': {
      const sale = saleOf(pod, event.data.object)
      if (sale) await fulfil(pod, sale, once)
      return
    }
    case 'customer.subscription.updated':
    case 'customer.subscription.deleted':
      return refresh(pod, event.data.object.id, once)
    case 'invoice.payment_failed':
    case 'invoice.paid': {
      const subscription = idOf(event.data.object.parent?.subscription_details?.subscription)
      if (subscription) await refresh(pod, subscription, once)
      return
    }
    case 'charge.refunded': {
      const intent = idOf(event.data.object.payment_intent)
      const purchase = intent && event.data.object.refunded ? await purchaseByStripe(pod, 'intent', intent) : undefined
      if (purchase) await changePurchase(pod, purchase, { status: 'refunded', endsAt: null }, once)
    }
  }
}

/** Takes over the state a subscription has at Stripe now, whichever event told of it. */
async function refresh(pod: Pod, id: string, once: readonly Write[]): Promise<void> {
  const purchase = await purchaseByStripe(pod, 'subscription', id)
  // Its checkout has not been told of yet; that brings the state along.
  if (!purchase) return
  const now = await ask(pod, (stripe) => stripe.subscriptions.retrieve(id))
  const over = now.status === 'canceled' || now.status === 'unpaid' || now.status === 'incomplete_expired'
  const status = over ? 'cancelled' : now.status === 'past_due' ? 'past_due' : 'active'
  const endsAt = now.cancel_at ? now.cancel_at * 1000 : now.ended_at ? now.ended_at * 1000 : null
  await changePurchase(pod, purchase, { status, endsAt }, once)
}
