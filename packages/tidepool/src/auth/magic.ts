/**
 * /_auth/magic: a mailed link that logs in, once.
 */
import { checkAddress } from '../email.ts'
import { TpError } from '../errors.ts'
import { html } from '../html.ts'
import { limitUse, networkOf } from '../limits.ts'
import type { Pod } from '../pod.ts'
import { consumption, issueToken, peekToken } from '../tokens.ts'
import { findUser, findUserByEmail } from '../users.ts'
import { proveAddress } from './accounts.ts'
import { welcome } from './login.ts'
import { afterwards, mailLink } from './mails.ts'
import { safeNext, withNext } from './next.ts'
import { alert, authPage, confirmForm } from './page.ts'
import { staleLink } from './signup.ts'

const minutes = 30
const perIp = { max: 20, seconds: 3600 }

/** Mails a link that logs in, after the answer, if the address has an account. */
export function sendMagicLink(pod: Pod, email: string, next: string): void {
  const { backend } = pod.setup()
  afterwards(pod, async () => {
    const user = await findUserByEmail(backend, email)
    if (!user) return
    const record = { purpose: 'magic', userId: user.id, epoch: user.epoch, data: { next } }
    const token = await issueToken(backend, record, minutes * 60)
    await mailLink(pod, user.email, {
      subject: 'Your login link',
      text: 'Here is the link that logs you in.',
      path: `/_auth/magic?token=${token}`,
      button: 'Log in',
      minutes,
    })
  })
}

/** Mounts the page; the link itself is good wherever it came from, the form only where it is configured. */
export function mountMagic(pod: Pod): void {
  pod.mount('/_auth/magic', { methods: ['GET', 'POST'] }, async (req) => {
    const { backend } = pod.setup()
    const post = req.method === 'POST'
    const token = String((post ? req.body.token : req.query.token) ?? '')
    if (token) {
      const found = await peekToken(backend, token, 'magic')
      const user = found?.userId ? await findUser(backend, found.userId) : undefined
      if (!found || !user || user.epoch !== found.epoch) return staleLink(pod, '/_auth/magic', 'Get a new link')
      if (!post) return authPage(pod, 'Log in', confirmForm('/_auth/magic', { token }, `Log in as ${user.email}`))
      const proven = await proveAddress(pod, user, undefined, [consumption(token)])
      return proven
        ? welcome(pod, req, proven, safeNext(found.data.next))
        : staleLink(pod, '/_auth/magic', 'Get a new link')
    }
    if (!pod.auth?.magicLink) throw new TpError('not_found', 'Nothing answers at /_auth/magic')
    const next = safeNext(post ? req.body.next : req.query.next)
    const given = String(req.body.email ?? '').slice(0, 254)
    let error: string | undefined
    if (post) {
      await limitUse(backend, `magic:ip:${networkOf(req.ip)}`, perIp, 'Login mails from your address')
      try {
        sendMagicLink(pod, checkAddress(given), next)
        return authPage(
          pod,
          'Look into your mail',
          html`<p>If <strong>${given}</strong> has an account here, a link is on its way to it.</p>`,
        )
      } catch (thrown) {
        if (!(thrown instanceof TpError)) throw thrown
        error = `${thrown.message}.`
      }
    }
    return authPage(
      pod,
      'Log in by mail',
      html`${alert(error)}
      <form method="post" action="/_auth/magic">
        <input type="hidden" name="next" value="${next}">
        <label>E-mail <input type="email" name="email" value="${given}" autocomplete="username" required autofocus></label>
        <button>Send me a link</button>
      </form>
      <p class="links"><a href="${withNext('/_auth/login', next)}">Log in with a password</a></p>`,
      { status: error ? 422 : 200 },
    )
  })
}
