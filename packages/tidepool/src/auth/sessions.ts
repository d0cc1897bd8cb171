/**
 * Sessions: a random token in a host-only cookie; the backend knows its hash. Every login starts a new one and ends
 * the one before; raising a user's `epoch` ends all of them.
 */
import type { UserRecord } from '../backend.ts'
import type { Pod } from '../pod.ts'
import { cookieHeader } from '../reply.ts'
import type { Request } from '../request.ts'
import { hashToken, newToken } from '../tokens.ts'
import { findUser, publicUser } from '../users.ts'

const maxAge = 30 * 24 * 3600

/** A cookie's name: with the prefix that browsers hold to this host alone, where https allows it. */
export function cookieName(pod: Pod, name: string): string {
  return pod.https ? `__Host-${name}` : name
}

/**
 * Starts a session and ends the one that the request came with.
 * @param user as it was when it was decided to let them in: what has ended its sessions since then ends this one too
 * @returns the value of the Set-Cookie header that carries it
 */
export async function startSession(
  pod: Pod,
  req: Request,
  { id: userId, epoch }: Pick<UserRecord, 'id' | 'epoch'>,
): Promise<string> {
  const { backend } = pod.setup()
  const token = newToken()
  const old = req.cookies[cookieName(pod, 'tp_session')]
  await backend.write([
    ...(old ? [{ op: 'delete', space: 'sessions', key: hashToken(old) } as const] : []),
    {
      op: 'set',
      space: 'sessions',
      key: hashToken(token),
      value: { userId, epoch, createdAt: Date.now() },
      ttl: maxAge * 1000,
    },
  ])
  return cookieHeader(cookieName(pod, 'tp_session'), { value: token, maxAge }, pod.https)
}

/** Ends the session that the request came with. @returns the Set-Cookie header that takes its cookie away */
export async function endSession(pod: Pod, req: Request): Promise<string> {
  const token = req.cookies[cookieName(pod, 'tp_session')]
  if (token) await pod.setup().backend.write([{ op: 'delete', space: 'sessions', key: hashToken(token) }])
  return cookieHeader(cookieName(pod, 'tp_session'), null, pod.https)
}

/** The user whose session a request carries; without a cookie nobody has to wait for the answer. */
export function identify(pod: Pod) {
  const { backend } = pod.setup()
  const name = cookieName(pod, 'tp_session')
  const known = async (token: string) => {
    const session = (await backend.read('sessions', hashToken(token)))?.value
    const user = session && (await findUser(backend, session.userId))
    return user && user.epoch === session.epoch ? publicUser(user) : null
  }
  return (req: Request) => {
    const token = req.cookies[name]
    return token ? known(token) : null
  }
}
