/**
 * A stand-in for Stripe's API over real HTTP. It takes what Stripe's reference documents and refuses the rest: form
 * encoding, the bearer key, required and unknown parameters, idempotency keys.
 * https://docs.stripe.com/api/checkout/sessions/create · …/customer_portal/sessions/create · …/subscriptions/retrieve
 */
import { createHmac, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { onTestFinished } from 'vitest'

type Fields = Record<string, string>
type Json = Record<string, unknown>

const sessionFields =
  /^(mode|success_url|cancel_url|client_reference_id|customer|customer_email|customer_creation|metadata\[\w+\]|line_items\[0\]\[(quantity|price_data\]\[(currency|unit_amount|recurring\]\[interval|product_data\]\[(name|description)))\]|(subscription_data|payment_intent_data)\[metadata\]\[\w+\])$/

/** Starts the stand-in; it is stopped when the test ends. */
export async function startStripe() {
  const key = 'sk_test_stand_in'
  const webhookSecret = 'whsec_stand_in'
  const sessions = new Map<string, Json>()
  const subscriptions = new Map<string, Json>()
  const asked: { path: string; fields: Fields; idempotencyKey: string | undefined }[] = []
  const remembered = new Map<string, { fields: string; answer: Json }>()

  function refuse(status: number, message: string, param?: string) {
    return { status, body: { error: { type: 'invalid_request_error', message, ...(param && { param }) } } }
  }

  function createSession(fields: Fields) {
    for (const name of Object.keys(fields))
      if (!sessionFields.test(name)) return refuse(400, `Received unknown parameter: ${name}`, name)
    const { mode = '', success_url, customer, customer_email } = fields
    const item = (name: string) => fields[`line_items[0][price_data]${name}`]
    if (!['payment', 'subscription'].includes(mode)) return refuse(400, 'Invalid mode', 'mode')
    if (!success_url) return refuse(400, 'Missing required param: success_url.', 'success_url')
    if (customer && customer_email)
      return refuse(400, 'You may only specify one of these parameters: customer, customer_email.')
    if (!item('[currency]') || !/^[1-9]\d*$/.test(item('[unit_amount]') ?? '') || !item('[product_data][name]'))
      return refuse(400, 'Missing required param: line_items[0].', 'line_items')
    const recurring = item('[recurring][interval]')
    if ((mode === 'subscription') !== (recurring === 'month' || recurring === 'year'))
      return refuse(400, 'You must provide at least one recurring price in `subscription` mode.')
    if (mode === 'subscription' && fields.customer_creation)
      return refuse(400, 'customer_creation can only be used in `payment` mode')
    const id = `cs_test_${randomUUID().replaceAll('-', '')}`
    const metadata = Object.fromEntries(
      Object.entries(fields).flatMap(([name, value]) => {
        const field = /^metadata\[(\w+)\]$/.exec(name)?.[1]
        return field ? [[field, value]] : []
      }),
    )
    const session = {
      id,
      object: 'checkout.session',
      mode,
      metadata,
      url: `https://checkout.stripe.example/${id}`,
      status: 'open',
      payment_status: 'unpaid',
      client_reference_id: fields.client_reference_id ?? null,
      customer: customer ?? null,
      customer_email: customer_email ?? null,
      customer_details: null,
      subscription: null,
      payment_intent: null,
      livemode: false,
      success_url,
    }
    sessions.set(id, session)
    return { status: 200, body: session }
  }

  function answer(method: string, path: string, fields: Fields): { status: number; body: Json } {
    if (method === 'POST' && path === '/v1/checkout/sessions') return createSession(fields)
    if (method === 'POST' && path === '/v1/billing_portal/sessions')
      return fields.customer?.startsWith('cus_') && fields.return_url
        ? {
            status: 200,
            body: { object: 'billing_portal.session', url: `https://billing.stripe.example/${fields.customer}` },
          }
        : refuse(400, 'Missing required param: customer.', 'customer')
    const [, kind, id = ''] = /^\/v1\/(checkout\/sessions|subscriptions)\/(\w+)$/.exec(path) ?? []
    const found = method === 'GET' ? (kind === 'subscriptions' ? subscriptions : sessions).get(id) : undefined
    return found ? { status: 200, body: found } : refuse(404, `No such resource: ${path}`)
  }

  const http = createServer(async (request, response) => {
    const { method = 'GET', url = '', headers } = request
    const body = await text(request)
    const fields: Fields = Object.fromEntries(new URLSearchParams(body))
    const path = url.split('?')[0] ?? ''
    const idempotencyKey = typeof headers['idempotency-key'] === 'string' ? headers['idempotency-key'] : undefined
    asked.push({ path, fields, idempotencyKey })
    let reply: { status: number; body: Json }
    const known = method === 'POST' && idempotencyKey ? remembered.get(idempotencyKey) : undefined
    if (headers.authorization !== `Bearer ${key}`) reply = refuse(401, 'Invalid API Key provided')
    else if (method === 'POST' && !headers['content-type']?.startsWith('application/x-www-form-urlencoded'))
      reply = refuse(400, 'Send form-encoded parameters')
    else if (known && known.fields !== body)
      reply = refuse(400, 'Keys for idempotent requests can only be used with the same parameters')
    else reply = known ? { status: 200, body: known.answer } : answer(method, path, fields)
    if (idempotencyKey && reply.status === 200) remembered.set(idempotencyKey, { fields: body, answer: reply.body })
    response.writeHead(reply.status, { 'content-type': 'application/json' }).end(JSON.stringify(reply.body))
  }).listen(0, '127.0.0.1')
  await once(http, 'listening')
  onTestFinished(() => void http.close())
  const { port } = http.address() as AddressInfo
  let numbers = 0

  return {
    asked,
    sessions,
    subscriptions,
    webhookSecret,
    secrets: {
      stripe_secret_key: key,
      stripe_webhook_secret: webhookSecret,
      stripe_api_base: `http://127.0.0.1:${port}`,
    },
    /** The buyer fills in the checkout page. @returns the session, and the path Stripe sends the browser to */
    pay(url: string, email: string) {
      const session = sessions.get(url.split('/').at(-1) ?? '')
      if (!session) throw new Error(`there is no checkout ${url}`)
      const customer = session.customer ?? `cus_${++numbers}`
      Object.assign(session, { status: 'complete', payment_status: 'paid', customer, customer_details: { email } })
      if (session.mode === 'subscription') {
        const id = `sub_${++numbers}`
        subscriptions.set(id, {
          id,
          object: 'subscription',
          status: 'active',
          customer,
          cancel_at: null,
          ended_at: null,
        })
        session.subscription = id
      } else session.payment_intent = `pi_${++numbers}`
      const back = new URL(String(session.success_url).replace('{CHECKOUT_SESSION_ID}', String(session.id)))
      return { session, back: back.pathname + back.search, subscription: String(session.subscription) }
    },
    /** A webhook as Stripe sends it. */
    event(type: string, object: Json, more: Json = {}) {
      return JSON.stringify({
        id: `evt_${++numbers}`,
        object: 'event',
        type,
        livemode: false,
        data: { object },
        ...more,
      })
    },
    /** The signature of a body, as of `seconds` ago. */
    sign(body: string, secret = webhookSecret, seconds = 0) {
      const at = Math.floor(Date.now() / 1000) - seconds
      return `t=${at},v1=${createHmac('sha256', secret).update(`${at}.${body}`).digest('hex')}`
    },
  }
}
