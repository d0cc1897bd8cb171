/**
 * /_auth/reset: a new password by a mailed link. Everything that was logged in with the old one ends.
 */
import { checkAddress } from '../email.ts'
import { TpError } from '../errors.ts'
import { html } from '../html.ts'
import { limitUse, networkOf } from '../limits.ts'
import type { Pod } from '../pod.ts'
import { consumption, issueToken, peekToken } from '../tokens.ts'
import { findUser, findUserByEmail, updateUser } from '../users.ts'
import { welcome } from './login.ts'
import { afterwards, mailLink } from './mails.ts'
import { safeNext, withNext } from './next.ts'
import { alert, authPage } from './page.ts'
import { checkPassword, hashPassword } from './passwords.ts'
import { staleLink } from './signup.ts'

const minutes = 60
const perIp = { max: 20, seconds: 3600 }

/** Mounts the page. */
export function mountReset(pod: Pod): void {
  const { backend } = pod.setup()

  function ask(next: string, email = '', error?: string) {
    return authPage(
      pod,
      'Forgot your password?',
      html`${alert(error)}
      <form method="post" action="/_auth/reset">
        <input type="hidden" name="next" value="${next}">
        <label>E-mail <input type="email" name="email" value="${email}" autocomplete="username" required autofocus></label>
        <button>Send me a link</button>
      </form>
      <p class="links"><a href="${withNext('/_auth/login', next)}">Log in</a></p>`,
      { status: error ? 422 : 200 },
    )
  }

  function choose(token: string, error?: string) {
    return authPage(
      pod,
      'Choose a new password',
      html`${alert(error)}
      <form method="post" action="/_auth/reset">
        <input type="hidden" name="token" value="${token}">
        <label>New password <input type="password" name="password" autocomplete="new-password" minlength="8" required autofocus></label>
        <button>Save it and log in</button>
      </form>`,
      { status: error ? 422 : 200 },
    )
  }

  async function request(ip: string, given: string, next: string) {
    await limitUse(backend, `reset:ip:${networkOf(ip)}`, perIp, 'Password mails from your address')
    let email: string
    try {
      email = checkAddress(given)
    } catch (error) {
      if (!(error instanceof TpError)) throw error
      return ask(next, given, `${error.message}.`)
    }
    afterwards(pod, async () => {
      const user = await findUserByEmail(backend, email)
      if (!user) return
      const record = { purpose: 'reset', userId: user.id, epoch: user.epoch, data: { next } }
      const token = await issueToken(backend, record, minutes * 60)
      await mailLink(pod, user.email, {
        subject: 'Choose a new password',
        text: 'Here is the link to choose a new password.',
        path: `/_auth/reset?token=${token}`,
        button: 'Choose a password',
        minutes,
      })
    })
    return authPage(
      pod,
      'Look into your mail',
      html`<p>If <strong>${given}</strong> has an account here, a link is on its way to it.</p>`,
    )
  }

  pod.mount('/_auth/reset', { methods: ['GET', 'POST'] }, async (req) => {
    const post = req.method === 'POST'
    const token = String((post ? req.body.token : req.query.token) ?? '')
    const next = safeNext(post ? req.body.next : req.query.next)
    if (!token) return post ? request(req.ip, String(req.body.email ?? '').slice(0, 254), next) : ask(next)
    const found = await peekToken(backend, token, 'reset')
    const user = found?.userId ? await findUser(backend, found.userId) : undefined
    if (!found || !user || user.epoch !== found.epoch) return staleLink(pod, '/_auth/reset', 'Get a new link')
    if (!post) return choose(token)
    let passwordHash: string
    try {
      passwordHash = await hashPassword(checkPassword(req.body.password))
    } catch (error) {
      if (!(error instanceof TpError)) throw error
      return choose(token, `${error.message}.`)
    }
    const changed = await updateUser(
      backend,
      user.id,
      (now) => (now.epoch === user.epoch ? { ...now, passwordHash, confirmed: true, epoch: now.epoch + 1 } : undefined),
      [consumption(token)],
    )
    return changed
      ? welcome(pod, req, changed, safeNext(found.data.next))
      : staleLink(pod, '/_auth/reset', 'Get a new link')
  })
}
