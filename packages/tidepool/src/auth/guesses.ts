/**
 * Limits on guessing passwords, per address of the caller and per account, without a way to lock the owner out: a
 * browser in which the account was logged in before has a device cookie and a count of its own.
 */
import { TpError } from '../errors.ts'
import { countUse, limitUse, networkOf, resetUse } from '../limits.ts'
import type { Pod } from '../pod.ts'
import { cookieHeader } from '../reply.ts'
import type { Request } from '../request.ts'
import { hashToken, issueToken, peekToken } from '../tokens.ts'
import { normaliseEmail } from '../users.ts'
import { cookieName } from './sessions.ts'

const perIp = { max: 50, seconds: 900 }
const perAccount = { max: 10, seconds: 900 }
const deviceSeconds = 180 * 24 * 3600

/**
 * Counts a guess.
 * @throws TpError `rate_limited`
 * @returns call it when the guess was right: those before it are forgotten
 */
export async function countGuess(pod: Pod, req: Request, email: string, userId: string | undefined) {
  const { backend } = pod.setup()
  const account = normaliseEmail(email)
  const device = req.cookies[cookieName(pod, 'tp_device')]
  const known = device && userId ? await peekToken(backend, device, 'device') : undefined
  const key =
    device && known && known.userId === userId ? `login:device:${hashToken(device)}` : `login:account:${account}`
  const ip = `login:ip:${networkOf(req.ip)}`
  // Who shares an address with somebody who guesses is not kept out of their own browser.
  if (!key.startsWith('login:device:')) await limitUse(backend, ip, perIp, 'Logins from your address')
  const { allowed, retryAfter } = await countUse(backend, key, perAccount)
  if (!allowed)
    throw new TpError('rate_limited', 'Too many wrong passwords for this account', {
      retryAfter,
      hint: 'Wait a little, or log in by a mailed link.',
    })
  return async () => {
    await resetUse(backend, key)
    await backend.write([{ op: 'increment', space: 'limits', key: ip, by: -1, if: 'present' }])
  }
}

/** Remembers this browser as one of the user's. @returns a Set-Cookie header, or nothing when it is known already */
export async function rememberDevice(pod: Pod, req: Request, userId: string): Promise<string[]> {
  const { backend } = pod.setup()
  const name = cookieName(pod, 'tp_device')
  const device = req.cookies[name]
  if (device && (await peekToken(backend, device, 'device'))?.userId === userId) return []
  const value = await issueToken(backend, { purpose: 'device', userId }, deviceSeconds)
  return [cookieHeader(name, { value, maxAge: deviceSeconds }, pod.https)]
}
