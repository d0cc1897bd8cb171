/**
 * /_auth/signup and /_auth/confirm: an account with a password, good once its address is confirmed.
 */
import type { UserRecord } from '../backend.ts'
import { checkAddress } from '../email.ts'
import { TpError } from '../errors.ts'
import { html } from '../html.ts'
import { limitUse } from '../limits.ts'
import type { Pod } from '../pod.ts'
import type { Reply } from '../reply.ts'
import { consumption, issueToken, peekToken } from '../tokens.ts'
import { findUser, findUserByEmail, insertUser, updateUser } from '../users.ts'
import { welcome } from './login.ts'
import { afterwards, mailLink } from './mails.ts'
import { safeNext, withNext } from './next.ts'
import { alert, authPage, confirmForm } from './page.ts'
import { checkPassword, hashPassword } from './passwords.ts'

const perIp = { max: 20, seconds: 3600 }
const minutes = 24 * 60

/** Mails the link that confirms an address, after the answer. */
export function mailConfirmation(pod: Pod, user: UserRecord, next: string): void {
  afterwards(pod, async () => {
    const token = await issueToken(
      pod.setup().backend,
      { purpose: 'confirm', userId: user.id, epoch: user.epoch, data: { next } },
      minutes * 60,
    )
    await mailLink(pod, user.email, {
      subject: 'Confirm your address',
      text: 'Welcome! Confirm that this address is yours to finish signing up.',
      path: `/_auth/confirm?token=${token}`,
      button: 'Confirm address',
      minutes,
    })
  })
}

function form(pod: Pod, next: string, email = '', error?: string, status = 200): Reply {
  return authPage(
    pod,
    'Sign up',
    html`${alert(error)}
    <form method="post" action="/_auth/signup">
      <input type="hidden" name="next" value="${next}">
      <label>E-mail <input type="email" name="email" value="${email}" autocomplete="username" required autofocus></label>
      <label>Password <input type="password" name="password" autocomplete="new-password" minlength="8" required></label>
      <button>Sign up</button>
    </form>
    ${pod.auth?.oauth.includes('google') && html`<a class="button quiet" href="${withNext('/_auth/oauth/google', next)}">Continue with Google</a>`}
    <p class="links"><a href="${withNext('/_auth/login', next)}">I have an account</a></p>`,
    { status },
  )
}

/** Mounts the pages that the configuration allows. */
export function mountSignup(pod: Pod): void {
  pod.mount('/_auth/confirm', { methods: ['GET', 'POST'] }, async (req) => {
    const { backend } = pod.setup()
    const token = String((req.method === 'POST' ? req.body.token : req.query.token) ?? '')
    const found = await peekToken(backend, token, 'confirm')
    const user = found?.userId ? await findUser(backend, found.userId) : undefined
    // Programs that look at links in mails do not press buttons.
    if (req.method !== 'POST' && user && found?.epoch === user.epoch)
      return authPage(pod, 'Confirm your address', confirmForm('/_auth/confirm', { token }, `Confirm ${user.email}`))
    const confirmed =
      user && found?.epoch === user.epoch
        ? await updateUser(backend, user.id, (now) => ({ ...now, confirmed: true }), [consumption(token)])
        : undefined
    if (!confirmed) return staleLink(pod, '/_auth/login', 'Log in')
    return welcome(pod, req, confirmed.id, safeNext(found?.data.next))
  })

  if (!pod.auth?.signup) return
  pod.mount('/_auth/signup', { methods: ['GET', 'POST'] }, async (req) => {
    const next = safeNext(req.method === 'POST' ? req.body.next : req.query.next)
    if (req.method !== 'POST') return form(pod, next)
    const { backend } = pod.setup()
    await limitUse(backend, `signup:ip:${req.ip}`, perIp, 'Sign-ups from your address')
    const given = String(req.body.email ?? '').slice(0, 254)
    let email: string
    let passwordHash: string
    try {
      email = checkAddress(given)
      // Hashed whether or not the address has an account: the answer takes as long.
      passwordHash = await hashPassword(checkPassword(req.body.password))
    } catch (error) {
      if (!(error instanceof TpError)) throw error
      return form(pod, next, given, `${error.message}.`, 422)
    }
    const user = await insertUser(backend, { email, passwordHash })
    if (user && !pod.auth?.signupConfirm) return welcome(pod, req, user.id, next)
    if (user) mailConfirmation(pod, user, next)
    else
      afterwards(pod, async () => {
        const known = await findUserByEmail(backend, email)
        // One who has not confirmed yet tries again; the password stays the first one's to choose.
        if (known && !known.confirmed && pod.auth?.signupConfirm) return mailConfirmation(pod, known, next)
        await mailLink(pod, email, {
          subject: 'You have an account already',
          text: 'Somebody, probably you, signed up with this address. It has an account: just log in.',
          path: '/_auth/login',
          button: 'Log in',
          minutes,
        })
      })
    return authPage(
      pod,
      'Look into your mail',
      html`<p>We have sent a mail to <strong>${email}</strong>. Open the link in it to finish.</p>
      <p class="soft">Nothing there? Look into the spam folder, or <a href="/_auth/signup">try again</a>.</p>`,
    )
  })
}

/** What an old, used or invented link leads to. */
export function staleLink(pod: Pod, path: string, what: string): Reply {
  return authPage(
    pod,
    'This link is not good any more',
    html`<p>It was used already, or it is too old.</p><a class="button" href="${path}">${what}</a>`,
    { status: 410 },
  )
}
