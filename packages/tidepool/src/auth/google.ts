/**
 * /_auth/oauth/google: OpenID Connect with PKCE, state and nonce, by openid-client. An account is only ever linked to
 * an address that Google says is verified.
 *
 * Secrets: google_client_id, google_client_secret; google_issuer for another provider of the same kind.
 */
import {
  allowInsecureRequests,
  authorizationCodeGrant,
  buildAuthorizationUrl,
  type Configuration,
  calculatePKCECodeChallenge,
  discovery,
  randomNonce,
  randomPKCECodeVerifier,
  randomState,
} from 'openid-client'
import type { UserRecord } from '../backend.ts'
import { messageOf, TpError } from '../errors.ts'
import { html } from '../html.ts'
import type { Pod } from '../pod.ts'
import { cookieHeader, type Reply, reply } from '../reply.ts'
import { consumeToken, issueToken } from '../tokens.ts'
import { findUser, findUserByEmail, insertUser } from '../users.ts'
import { proveAddress } from './accounts.ts'
import { welcome } from './login.ts'
import { safeNext } from './next.ts'
import { authPage } from './page.ts'
import { cookieName } from './sessions.ts'

const seconds = 600
const text = (value: unknown) => (typeof value === 'string' ? value : '')

/** Mounts the two routes. */
export function mountGoogle(pod: Pod): void {
  const { backend, log } = pod.setup()
  const callback = pod.url('/_auth/oauth/google/callback')
  let configured: Promise<Configuration> | undefined

  /** Google's endpoints and keys, asked for once; a failure is not remembered. */
  function configuration(): Promise<Configuration> {
    const { google_client_id: id = '', google_client_secret: secret, google_issuer } = backend.secrets
    const issuer = new URL(google_issuer ?? 'https://accounts.google.com')
    const insecure = issuer.protocol === 'http:' ? { execute: [allowInsecureRequests] } : {}
    configured ??= discovery(issuer, id, secret, undefined, insecure).catch((error) => {
      configured = undefined
      throw error
    })
    return configured
  }

  function refused(message: string, status: number): Reply {
    return authPage(
      pod,
      'That did not work',
      html`<p role="alert">${message}</p><a class="button" href="/_auth/login">Log in another way</a>`,
      { status, cookies: { [cookieName(pod, 'tp_oauth')]: null } },
    )
  }

  pod.mount('/_auth/oauth/google', {}, async (req) => {
    const [state, nonce, verifier] = [randomState(), randomNonce(), randomPKCECodeVerifier()]
    let url: URL
    try {
      url = buildAuthorizationUrl(await configuration(), {
        redirect_uri: callback,
        scope: 'openid email profile',
        state,
        nonce,
        code_challenge: await calculatePKCECodeChallenge(verifier),
        code_challenge_method: 'S256',
      })
    } catch (error) {
      log.error(`Google sign-in: ${messageOf(error)}`)
      return refused('Google does not answer at the moment.', 502)
    }
    const data = { state, nonce, verifier, next: safeNext(req.query.next) }
    const value = await issueToken(backend, { purpose: 'oauth', data }, seconds)
    const cookie = cookieHeader(cookieName(pod, 'tp_oauth'), { value, maxAge: seconds }, pod.https)
    return reply(null, { status: 303, headers: { location: url.href, 'set-cookie': cookie } })
  })

  pod.mount('/_auth/oauth/google/callback', {}, async (req) => {
    const begun = await consumeToken(backend, req.cookies[cookieName(pod, 'tp_oauth')] ?? '', 'oauth')
    if (!begun) return refused('This login was begun in another browser, or too long ago.', 400)
    if (req.query.error === 'access_denied') return refused('You did not allow it.', 403)
    // From the configured origin: what the request says of its host is anybody's word.
    const url = new URL(callback)
    for (const [name, value] of Object.entries(req.query)) url.searchParams.set(name, value ?? '')
    let claims: { [name: string]: unknown } | undefined
    try {
      const tokens = await authorizationCodeGrant(await configuration(), url, {
        expectedState: text(begun.data.state),
        expectedNonce: text(begun.data.nonce),
        pkceCodeVerifier: text(begun.data.verifier),
        idTokenExpected: true,
      })
      claims = tokens.claims()
    } catch (error) {
      log.warn(`Google sign-in was refused: ${messageOf(error)}`)
      return refused('Google’s answer could not be verified.', 400)
    }
    const { sub = '', email, email_verified, name, picture } = claims ?? {}
    if (email_verified !== true || !text(email))
      return refused('Google has not verified that the e-mail address of this account is yours.', 403)
    const user = await account(text(sub), text(email), text(name), text(picture))
    if (!user) return refused('There is no account for this address.', 403)
    if (user === 'another') return refused('This address belongs to another Google account here.', 403)
    const { body, options } = await welcome(pod, req, user, safeNext(begun.data.next))
    return reply(body, { ...options, cookies: { [cookieName(pod, 'tp_oauth')]: null } })
  })

  /** The account that Google's user has here; by Google's id, because addresses change hands. */
  async function account(
    google: string,
    email: string,
    name: string,
    picture: string,
  ): Promise<UserRecord | 'another' | undefined> {
    const link = { op: 'set', space: 'settings', key: `google:${google}` } as const
    for (let tries = 0; tries < 5; tries++) {
      const linked = (await backend.read('settings', link.key))?.value
      const owner = typeof linked === 'string' ? await findUser(backend, linked) : undefined
      if (owner) return owner
      const known = await findUserByEmail(backend, email)
      if (known?.google && known.google !== google) return 'another'
      if (known) {
        const fields = (user: UserRecord) => ({
          google,
          name: user.name ?? (name || null),
          avatarUrl: user.avatarUrl ?? (picture || null),
        })
        const proven = await proveAddress(pod, known, fields, [{ ...link, value: known.id }])
        if (proven) return proven
        continue
      }
      if (!pod.auth?.signup) return undefined
      const fields = { email, google, confirmed: true, name: name || null, avatarUrl: picture || null }
      const made = await insertUser(backend, fields)
      if (made) {
        await backend.write([{ ...link, value: made.id }])
        return made
      }
    }
    throw new TpError('conflict', 'The account is changed by too many at once')
  }
}
