/**
 * /_pay/portal: what a customer has bought, and the way to change it: at Stripe, or here while purchases are simulated.
 */
import { withNext } from '../auth/next.ts'
import { authPage, confirmForm } from '../auth/page.ts'
import type { PurchaseRecord } from '../backend.ts'
import { TpError } from '../errors.ts'
import { html } from '../html.ts'
import type { Pod } from '../pod.ts'
import { reply } from '../reply.ts'
import type { Request } from '../request.ts'
import { findUser } from '../users.ts'
import { isConnected, stripe } from './connection.ts'
import { priceOf } from './price.ts'
import { changePurchase, purchasesOf } from './purchases.ts'

const states: Record<PurchaseRecord['status'], string> = {
  active: 'active',
  past_due: 'payment overdue',
  cancelled: 'cancelled',
  refunded: 'refunded',
}

/** Mounts the page. */
export function mountPortal(pod: Pod): void {
  async function page(req: Request) {
    if (!req.user) return reply(null, { status: 303, headers: { location: withNext('/_auth/login', '/_pay/portal') } })
    const { stripeCustomer } = (await findUser(pod.setup().backend, req.user.id)) ?? {}
    const purchases = (await purchasesOf(pod, req.user.id)).sort((a, b) => b.createdAt - a.createdAt)
    const rows = purchases.map((purchase) => {
      const { id, status, endsAt, simulated, kind, createdAt } = purchase
      const product = pod.payments?.products.find((each) => each.id === purchase.product)
      const cancel = simulated && status === 'active' && kind === 'subscription'
      return html`<li><strong>${product?.name ?? purchase.product}</strong> ${product && priceOf(product)}<br>
        <span class="soft">${states[status]}${endsAt && ` until ${new Date(endsAt).toISOString().slice(0, 10)}`}, since ${new Date(createdAt).toISOString().slice(0, 10)}</span>
        ${cancel && confirmForm('/_pay/portal', { cancel: id }, 'Cancel')}</li>`
    })
    return authPage(
      pod,
      'Your purchases',
      html`${rows.length > 0 ? html`<ul>${rows}</ul>` : html`<p>You have not bought anything yet.</p>`}
      ${isConnected(pod) && stripeCustomer && confirmForm('/_pay/portal', {}, 'Change or cancel at Stripe')}
      <p class="links"><a href="/">Back</a></p>`,
    )
  }

  pod.mount('/_pay/portal', { methods: ['GET', 'POST'] }, async (req) => {
    if (req.method !== 'POST') return page(req)
    if (!req.user) throw new TpError('unauthorized')
    const id = String(req.body.cancel ?? '')
    if (id) {
      const purchase = (await purchasesOf(pod, req.user.id)).find((each) => each.id === id && each.simulated)
      if (!purchase) throw new TpError('not_found', 'There is no such purchase')
      await changePurchase(pod, purchase, { status: 'cancelled', endsAt: Date.now() })
      return null
    }
    const { stripeCustomer } = (await findUser(pod.setup().backend, req.user.id)) ?? {}
    if (!stripeCustomer || !isConnected(pod)) throw new TpError('not_found', 'There is nothing to change at Stripe')
    const { startPortal } = await stripe()
    return reply(null, { status: 303, headers: { location: await startPortal(pod, stripeCustomer) } })
  })
}
