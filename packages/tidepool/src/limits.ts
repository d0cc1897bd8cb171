/**
 * Limits per address, per account, per whatever: counters in the backend with the backend's clock, so that they hold
 * over all replicas.
 */
import ipaddr from 'ipaddr.js'
import type { Backend } from './backend.ts'
import { TpError } from './errors.ts'

/** What limits per address count by: an IPv6 customer has a whole /64 to choose addresses from. */
export function networkOf(ip: string): string {
  if (!ipaddr.IPv6.isValid(ip)) return ip
  const address = ipaddr.IPv6.parse(ip)
  return address.isIPv4MappedAddress()
    ? address.toIPv4Address().toString()
    : address.parts
        .slice(0, 4)
        .map((part) => part.toString(16))
        .join(':')
}

export interface Limit {
  /** How many are allowed … */
  max: number
  /** … in so many seconds, counted from the first. */
  seconds: number
}

/**
 * Counts one use.
 * @param key what is counted, e.g. `login:ip:203.0.113.7`
 * @returns whether it is within the limit, and in how many seconds the count starts anew
 */
export async function countUse(backend: Backend, key: string, { max, seconds }: Limit) {
  const outcome = await backend.write([{ op: 'increment', space: 'limits', key, by: 1, ttl: seconds * 1000 }])
  const result = outcome.ok ? outcome.results[0] : undefined
  const retryAfter = Math.max(1, Math.ceil((result?.expiresIn ?? seconds * 1000) / 1000))
  return { allowed: (result?.number ?? 1) <= max, retryAfter }
}

/** Takes a count back to zero, e.g. after a login that succeeded. */
export async function resetUse(backend: Backend, key: string): Promise<void> {
  await backend.write([{ op: 'delete', space: 'limits', key }])
}

/**
 * Counts one use and refuses what is over the limit.
 * @throws TpError `rate_limited` with Retry-After
 */
export async function limitUse(backend: Backend, key: string, limit: Limit, what: string): Promise<void> {
  const { allowed, retryAfter } = await countUse(backend, key, limit)
  if (!allowed) throw new TpError('rate_limited', `${what}: at most ${limit.max} in ${limit.seconds} s`, { retryAfter })
}
