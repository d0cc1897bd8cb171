/**
 * Which requests of a browser are believed to come from who is signed in.
 *
 * Apps live on the same site (`<name>.<domain>`), and nobody trusts them. Therefore:
 * - the cookie has no Domain: browsers send it to the control plane only. Over https its name begins with `__Host-`,
 *   which no app can set for us. Over http one could; so a session is a new random id at each sign-in, an id that we do
 *   not know is nothing, and of two cookies of that name we believe neither;
 * - SameSite does not keep an app's page from sending our cookie along, so what changes something must say that it
 *   comes from this very origin (Sec-Fetch-Site, Origin).
 */
import type { IncomingMessage } from 'node:http'
import type { Platform } from '../platform.ts'
import { sessionHours } from '../sessions.ts'

/** What the browser calls the session's cookie. */
const cookieName = (secure: boolean) => (secure ? '__Host-tidepool' : 'tidepool_session')

/** The header that sets the session's cookie, or with '' removes it. */
export function sessionCookie({ settings }: Platform, value: string): Record<string, string> {
  const secure = settings.publicUrl.startsWith('https:')
  const age = value === '' ? 0 : sessionHours * 3600
  return {
    'set-cookie': `${cookieName(secure)}=${value}; Path=/; HttpOnly; SameSite=Strict; Max-Age=${age}${secure ? '; Secure' : ''}`,
  }
}

/** The session’s cookie of a request. */
export function readCookie(req: IncomingMessage, secure: boolean): string | undefined {
  const name = `${cookieName(secure)}=`
  const values = (req.headers.cookie ?? '').split(/; */).filter((each) => each.startsWith(name))
  return values.length === 1 ? values[0]?.slice(name.length) : undefined
}

/** Whether a page of this very origin sent a form, by what only the browser can say. */
export function fromHere({ headers }: IncomingMessage, publicUrl: string): boolean {
  const site = headers['sec-fetch-site']
  if (site !== undefined && site !== 'same-origin') return false
  const { origin } = headers
  if (origin === undefined || origin === 'null') return site !== undefined
  const { protocol, origin: own } = new URL(publicUrl)
  // An address of this machine other than the configured one leads here too; the router has looked at the host.
  return origin === own || origin === `${protocol}//${headers.host}`
}
