/**
 * Who may enter /_admin/: with `tp.auth` the named users, or everybody who is logged in when none are named; without it
 * everybody on this machine while developing, and in production whoever has the key that the log shows.
 */
import { withNext } from '../auth/next.ts'
import { cookieName } from '../auth/sessions.ts'
import { TpError } from '../errors.ts'
import { html } from '../html.ts'
import { isLocalHost } from '../local-host.ts'
import type { Pod } from '../pod.ts'
import { cookieHeader, type Reply, reply } from '../reply.ts'
import type { Request } from '../request.ts'
import { strictPage } from '../strict-page.ts'
import { consumeToken, issueToken, newToken, peekToken } from '../tokens.ts'
import { normaliseEmail } from '../users.ts'

const keySeconds = 30 * 24 * 3600
const sessionSeconds = 12 * 3600

/** Makes a key and shows it in the log. It is good for one exchange. */
export async function announceKey(pod: Pod): Promise<void> {
  const key = await issueToken(pod.setup().backend, { purpose: 'admin-key' }, keySeconds)
  pod.setup().log.info(`Admin panel, once: ${pod.url('/_admin/')}?key=${key}`)
}

/**
 * Lets a request pass, or answers it.
 * @returns undefined when it may pass
 */
export async function admit(pod: Pod, req: Request): Promise<Reply | undefined> {
  const { backend, mode, origin } = pod.setup()
  if (pod.auth) {
    if (!req.user) {
      if (!req.headers.accept?.includes('text/html')) throw new TpError('unauthorized')
      return reply(null, { status: 303, headers: { location: withNext('/_auth/login', req.path) } })
    }
    const named = pod.admin?.users ?? []
    const allowed = named.length === 0 || named.map(normaliseEmail).includes(normaliseEmail(req.user.email))
    // Somebody may have signed up under the address of an admin without owning it.
    if (allowed && req.user.confirmed) return undefined
    return refuse(
      allowed
        ? `${req.user.email} has not been confirmed yet: log in by a mailed link.`
        : `${req.user.email} is not among the users of tp.admin.`,
    )
  }
  if (mode === 'dev') return isLocalHost(req.headers.host, origin) ? undefined : refuse('Open it at localhost.')
  const name = cookieName(pod, 'tp_admin')
  if (await peekToken(backend, req.cookies[name] ?? '', 'admin')) return undefined
  const key = req.query.key
  if (key && (await consumeToken(backend, key, 'admin-key'))) {
    const value = await issueToken(backend, { purpose: 'admin', data: { key: newToken() } }, sessionSeconds)
    await announceKey(pod)
    const cookie = cookieHeader(name, { value, maxAge: sessionSeconds, sameSite: 'Strict' }, pod.https)
    return reply(null, {
      status: 303,
      headers: {
        location: '/_admin/',
        'set-cookie': cookie,
        'referrer-policy': 'no-referrer',
        'cache-control': 'no-store',
      },
    })
  }
  return refuse('Open it with the address that the app’s log showed at its start. Each is good once.')
}

function refuse(message: string): Reply {
  const body = html`<main><h1>Not for you</h1><p role="alert">${message}</p><p><a href="/">Back to the app</a></p></main>`
  return strictPage('Not allowed', 'main{max-width:30rem;margin:15vh auto;padding:0 1.25rem}', body, {
    status: 403,
    headers: { 'referrer-policy': 'no-referrer' },
  })
}
