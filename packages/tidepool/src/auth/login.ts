/**
 * /_auth/login and /_auth/logout: e-mail and password in, session out.
 */
import type { UserRecord } from '../backend.ts'
import { TpError } from '../errors.ts'
import { type Html, html } from '../html.ts'
import type { Pod } from '../pod.ts'
import { type Reply, reply } from '../reply.ts'
import type { Request } from '../request.ts'
import { findUserByEmail } from '../users.ts'
import { countGuess, rememberDevice } from './guesses.ts'
import { safeNext, withNext } from './next.ts'
import { alert, authPage, confirmForm } from './page.ts'
import { verifyPassword } from './passwords.ts'
import { endSession, startSession } from './sessions.ts'

/** Lets somebody in: a new session, and on to where they wanted to go. */
export async function welcome(pod: Pod, req: Request, user: UserRecord, next: string): Promise<Reply> {
  const cookies = [await startSession(pod, req, user), ...(await rememberDevice(pod, req, user.id))]
  return reply(null, { status: 303, headers: { location: next, 'set-cookie': cookies, 'cache-control': 'no-store' } })
}

/** The ways in besides a password. */
function otherWays(pod: Pod, next: string): Html {
  const { signup, reset, magicLink, oauth } = pod.auth ?? {}
  return html`
    ${oauth?.includes('google') && html`<a class="button quiet" href="${withNext('/_auth/oauth/google', next)}">Continue with Google</a>`}
    <p class="links">
      ${magicLink && html`<a href="${withNext('/_auth/magic', next)}">Log in by mail</a>`}
      ${reset && html`<a href="${withNext('/_auth/reset', next)}">Forgot your password?</a>`}
      ${signup && html`<a href="${withNext('/_auth/signup', next)}">Sign up</a>`}
    </p>`
}

function page(pod: Pod, next: string, email = '', error?: string, status = 200): Reply {
  return authPage(
    pod,
    'Log in',
    html`${alert(error)}
    <form method="post" action="/_auth/login">
      <input type="hidden" name="next" value="${next}">
      <label>E-mail <input type="email" name="email" value="${email}" autocomplete="username" required autofocus></label>
      <label>Password <input type="password" name="password" autocomplete="current-password" required></label>
      <button>Log in</button>
    </form>
    ${otherWays(pod, next)}`,
    { status },
  )
}

/** Mounts the pages. */
export function mountLogin(pod: Pod): void {
  pod.mount('/_auth/login', { methods: ['GET', 'POST'] }, async (req) => {
    if (req.method !== 'POST') {
      const next = safeNext(req.query.next)
      return req.user ? reply(null, { status: 303, headers: { location: next } }) : page(pod, next)
    }
    const { backend } = pod.setup()
    const next = safeNext(req.body.next)
    const email = String(req.body.email ?? '').slice(0, 254)
    const user = await findUserByEmail(backend, email)
    let forget: () => Promise<void>
    try {
      forget = await countGuess(pod, req, email, user?.id)
    } catch (error) {
      if (!(error instanceof TpError && error.code === 'rate_limited')) throw error
      const refused = page(pod, next, email, `${error.message}. ${error.hint}`, 429)
      return reply(refused.body, {
        ...refused.options,
        headers: { ...refused.options.headers, 'retry-after': error.details.retryAfter ?? 60 },
      })
    }
    const right = await verifyPassword(user?.passwordHash, req.body.password)
    if (!user || !right) {
      const first = pod.auth?.signupConfirm ? ' If you have just signed up, open the link in your mail first.' : ''
      return page(pod, next, email, `This address and password do not belong together.${first}`, 401)
    }
    await forget()
    return welcome(pod, req, user, next)
  })

  pod.mount('/_auth/logout', { methods: ['GET', 'POST'] }, async (req) => {
    // A picture on some page must not log people out.
    if (req.method !== 'POST') return authPage(pod, 'Log out', confirmForm('/_auth/logout', {}, 'Log out'))
    const cookie = await endSession(pod, req)
    return reply(null, { status: 303, headers: { location: safeNext(req.body.next), 'set-cookie': cookie } })
  })
}
