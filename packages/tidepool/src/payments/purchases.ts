/**
 * Purchases and what they give: a purchase is written together with the lists in its owner's account, so that the two
 * never disagree. Everything here may be repeated: by Stripe, which sends events twice and out of order, and by people.
 */
import type { PurchaseRecord, UserRecord, Write } from '../backend.ts'
import type { Product } from '../config.ts'
import { TpError } from '../errors.ts'
import type { Pod } from '../pod.ts'
import { findUser, findUserByEmail, insertUser, updateUser } from '../users.ts'

/** A sale, simulated or by Stripe. */
export interface Sale {
  /** Subscription or checkout session. */
  id: string
  product: Product
  /** Who was logged in, or null. */
  userId: string | null
  email: string
  simulated: boolean
  /** Stripe's ids. */
  stripe: { [key: string]: string }
}

/** Key of a purchase: a user's lie together. */
const keyOf = (userId: string, id: string) => `${userId}:${id}`

/** The purchases of a user. */
export async function purchasesOf(pod: Pod, userId: string): Promise<PurchaseRecord[]> {
  const found = await pod.setup().backend.scan('purchases', { prefix: `${userId}:` })
  return found.map(({ value }) => value)
}

const givesAccess = ({ status }: PurchaseRecord) => status === 'active' || status === 'past_due'

/** The account with its lists as its purchases say; what `tp.createUser` gave stays. */
function withLists(user: UserRecord, before: readonly PurchaseRecord[], after: readonly PurchaseRecord[]): UserRecord {
  const list = (kind: PurchaseRecord['kind'], now: string[]) => {
    const of = (all: readonly PurchaseRecord[]) =>
      new Set(all.filter((each) => each.kind === kind && givesAccess(each)).map(({ product }) => product))
    const [had, has] = [of(before), of(after)]
    return [...new Set([...now.filter((product) => has.has(product) || !had.has(product)), ...has])]
  }
  return { ...user, subscriptions: list('subscription', user.subscriptions), purchased: list('once', user.purchased) }
}

/**
 * Writes a purchase and its owner's account in one.
 * @param also further changes, all or nothing
 * @returns false when a condition of `also` did not hold: it was done before
 */
async function write(pod: Pod, purchase: PurchaseRecord, also: readonly Write[]): Promise<boolean> {
  const { backend } = pod.setup()
  const key = keyOf(purchase.userId, purchase.id)
  for (let tries = 0; tries < 20; tries++) {
    const current = await backend.read('purchases', key)
    const before = await purchasesOf(pod, purchase.userId)
    const after = [...before.filter(({ id }) => id !== purchase.id), purchase]
    const changed = await updateUser(
      backend,
      purchase.userId,
      (user) => ({
        ...withLists(user, before, after),
        stripeCustomer: purchase.stripe.customer ?? user.stripeCustomer,
      }),
      [{ op: 'set', space: 'purchases', key, value: purchase, if: current ? current.version : 'absent' }, ...also],
    )
    if (changed) return true
    // Either `also` did not hold, which stays so, or the purchase was written by somebody else just now.
    if ((await backend.read('purchases', key))?.version === current?.version) return false
  }
  throw new TpError('conflict', 'The purchase is changed by too many at once')
}

/**
 * Records a sale. The account is that of who was logged in, else of the address, which is made when there is none.
 * @param also written with it or not at all
 * @returns the owner, and whether this very sale made the account (also when asked again)
 */
export async function fulfil(
  pod: Pod,
  sale: Sale,
  also: readonly Write[] = [],
): Promise<{ user: UserRecord; made: boolean }> {
  const { backend } = pod.setup()
  for (let tries = 0; tries < 5; tries++) {
    const known = sale.userId ? await findUser(backend, sale.userId) : await findUserByEmail(backend, sale.email)
    // Nobody has proven the address yet: its owner's first link ends whatever this buyer set up.
    const mark = { space: 'settings', key: `account-of:${sale.id}` } as const
    const user = known ?? (await insertUser(backend, { email: sale.email }, [{ op: 'set', ...mark, value: true }]))
    if (!user) continue
    const made = (await backend.read(mark.space, mark.key)) !== undefined
    const recorded = (await backend.read('purchases', keyOf(user.id, sale.id)))?.value
    const { price, currency = 'usd', recurring } = sale.product
    const purchase: PurchaseRecord = {
      id: sale.id,
      userId: user.id,
      email: sale.email,
      product: sale.product.id,
      kind: recurring ? 'subscription' : 'once',
      amount: price,
      currency,
      status: 'active',
      simulated: sale.simulated,
      createdAt: Date.now(),
      endsAt: null,
      ...recorded,
      stripe: sale.stripe,
    }
    const names: Write[] = Object.entries(sale.stripe)
      .filter(([name]) => name === 'customer' || name === 'subscription' || name === 'intent')
      .map(([name, id]) => ({
        op: 'set',
        space: 'settings',
        key: `stripe:${name}:${id}`,
        value: name === 'customer' ? user.id : keyOf(user.id, sale.id),
      }))
    await write(pod, purchase, [...names, ...also])
    return { user: (await findUser(backend, user.id)) ?? user, made }
  }
  throw new TpError('conflict', 'The account is changed by too many at once')
}

/** The purchase that one of Stripe's ids belongs to. */
export async function purchaseByStripe(
  pod: Pod,
  name: 'subscription' | 'intent',
  id: string,
): Promise<PurchaseRecord | undefined> {
  const { backend } = pod.setup()
  const key = (await backend.read('settings', `stripe:${name}:${id}`))?.value
  return typeof key === 'string' ? (await backend.read('purchases', key))?.value : undefined
}

/** Changes the state of a purchase, and with it what its owner may see. */
export function changePurchase(
  pod: Pod,
  purchase: PurchaseRecord,
  change: Pick<PurchaseRecord, 'status' | 'endsAt'>,
  also: readonly Write[] = [],
): Promise<boolean> {
  return write(pod, { ...purchase, ...change }, also)
}
