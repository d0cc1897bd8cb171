/**
 * /_auth/signup and /_auth/confirm: an account with a password. Unless `signupConfirm` is off, the account is made by
 * confirming the address, by whoever signed up: in the same browser, or with the password of that sign-up.
 */
import type { UserRecord } from '../backend.ts'
import { checkAddress } from '../email.ts'
import { TpError } from '../errors.ts'
import { html } from '../html.ts'
import { limitUse, networkOf } from '../limits.ts'
import type { Pod } from '../pod.ts'
import type { Reply } from '../reply.ts'
import { consumption, hashToken, issueToken, newToken, peekToken } from '../tokens.ts'
import { findUserByEmail, insertUser } from '../users.ts'
import { proveAddress } from './accounts.ts'
import { countGuess } from './guesses.ts'
import { welcome } from './login.ts'
import { afterwards, mailLink } from './mails.ts'
import { safeNext, withNext } from './next.ts'
import { alert, authPage } from './page.ts'
import { checkPassword, hashPassword, verifyPassword } from './passwords.ts'
import { cookieName } from './sessions.ts'

const perIp = { max: 20, seconds: 3600 }
const minutes = 24 * 60

/** Mails the link that makes the account, after the answer. */
function mailConfirmation(pod: Pod, email: string, passwordHash: string, browser: string, next: string): void {
  afterwards(pod, async () => {
    const data = { passwordHash, browser: hashToken(browser), next }
    const token = await issueToken(pod.setup().backend, { purpose: 'confirm', email, data }, minutes * 60)
    await mailLink(pod, email, {
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
    const post = req.method === 'POST'
    const token = String((post ? req.body.token : req.query.token) ?? '')
    const found = await peekToken(backend, token, 'confirm')
    const { email } = found ?? {}
    const passwordHash = found?.data.passwordHash
    if (!email || typeof passwordHash !== 'string') return staleLink(pod, '/_auth/login', 'Log in')
    // Somebody may have signed up under another's address, hoping that they confirm it: only who signed up can.
    const here = found?.data.browser === hashToken(req.cookies[cookieName(pod, 'tp_signup')] ?? '')
    const ask = (error?: string) =>
      authPage(
        pod,
        'Confirm your address',
        html`${alert(error)}<form method="post" action="/_auth/confirm">
        <input type="hidden" name="token" value="${token}">
        ${!here && html`<label>The password you have chosen <input type="password" name="password" autocomplete="current-password" required autofocus></label>`}
        <button>Confirm ${email}</button></form>`,
        { status: error ? 401 : 200 },
      )
    // Programs that look at links in mails do not press buttons.
    if (!post) return ask()
    if (!here) {
      await countGuess(pod, req, `confirm:${email}`, undefined)
      if (!(await verifyPassword(passwordHash, req.body.password))) return ask('This is not the password.')
    }
    const user = await confirm(email, passwordHash, token)
    return user ? welcome(pod, req, user, safeNext(found?.data.next)) : staleLink(pod, '/_auth/login', 'Log in')
  })

  /** The account of a confirmed address: made, or its password set if nobody had proven the address before. */
  async function confirm(email: string, passwordHash: string, token: string): Promise<UserRecord | undefined> {
    const { backend } = pod.setup()
    const used = [consumption(token)]
    const known = await findUserByEmail(backend, email)
    if (!known) return insertUser(backend, { email, passwordHash, confirmed: true }, used)
    return known.confirmed ? undefined : proveAddress(pod, known, () => ({ passwordHash }), used)
  }

  if (!pod.auth?.signup) return
  pod.mount('/_auth/signup', { methods: ['GET', 'POST'] }, async (req) => {
    const next = safeNext(req.method === 'POST' ? req.body.next : req.query.next)
    if (req.method !== 'POST') return form(pod, next)
    const { backend } = pod.setup()
    await limitUse(backend, `signup:ip:${networkOf(req.ip)}`, perIp, 'Sign-ups from your address')
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
    const user = pod.auth?.signupConfirm ? undefined : await insertUser(backend, { email, passwordHash })
    if (user) return welcome(pod, req, user, next)
    const browser = newToken()
    const known = await findUserByEmail(backend, email)
    if (pod.auth?.signupConfirm && !known?.confirmed) mailConfirmation(pod, email, passwordHash, browser, next)
    else
      afterwards(pod, () =>
        mailLink(pod, email, {
          subject: 'You have an account already',
          text: 'Somebody, probably you, signed up with this address. It has an account: just log in.',
          path: '/_auth/login',
          button: 'Log in',
          minutes,
        }),
      )
    const cookie = { value: browser, maxAge: minutes * 60 }
    return authPage(
      pod,
      'Look into your mail',
      html`<p>We have sent a mail to <strong>${email}</strong>. Open the link in it to finish.</p>
      <p class="soft">Nothing there? Look into the spam folder, or <a href="/_auth/signup">try again</a>.</p>`,
      { cookies: { [cookieName(pod, 'tp_signup')]: cookie } },
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
