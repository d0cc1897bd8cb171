/**
 * Whether a pod sells by Stripe. Its library is large: it is loaded with the first sale.
 */
import type { Pod } from '../pod.ts'

/** Whether the pod is connected to Stripe. */
export const isConnected = (pod: Pod) => Boolean(pod.setup().backend.secrets.stripe_secret_key)

/** What talks to Stripe, see stripe.ts. */
export const stripe = () => import('./stripe.ts')
