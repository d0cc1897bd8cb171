/**
 * `tp.auth`: the pages under /_auth/, who a request comes from, and the paths that need a login.
 *
 * Nothing here runs for a pod that does not set `tp.auth`.
 */
import { type AuthConfig, authIssues } from '../config.ts'
import { TpError } from '../errors.ts'
import type { Pod } from '../pod.ts'
import { reply } from '../reply.ts'
import { PodRequest } from '../request.ts'
import { mountLogin } from './login.ts'
import { mountMagic } from './magic.ts'
import { withNext } from './next.ts'
import { mountReset } from './reset.ts'
import { identify } from './sessions.ts'
import { mountSignup } from './signup.ts'

/** The feature, see pod.ts. @throws TpError `bad_config` */
export async function authFeature(pod: Pod): Promise<void> {
  const { auth } = pod
  if (!auth) return
  check(auth, pod)
  pod.identify(identify(pod))
  mountLogin(pod)
  mountSignup(pod)
  mountMagic(pod)
  if (auth.reset) mountReset(pod)
  if (auth.oauth.includes('google')) (await import('./google.ts')).mountGoogle(pod)
  const guarded = auth.required.map(matcher)
  if (guarded.length === 0) return
  pod.before((req) => {
    if (req.user || !guarded.some((matches) => matches(req.path)) || isOpen(req.path)) return undefined
    if (!req.headers.accept?.includes('text/html') || (req.method !== 'GET' && req.method !== 'HEAD'))
      throw new TpError('unauthorized')
    const search = req instanceof PodRequest && req.search ? `?${req.search}` : ''
    const location = withNext('/_auth/login', encodeURI(req.path) + search)
    return reply(null, { status: 303, headers: { location, 'cache-control': 'no-store' } })
  })
}

/** What must be reached to log in, to pay, and by Stripe. */
const isOpen = (path: string) => /^\/_(auth|pay)\//.test(path)

/** `*` in a path of `required` stands for anything. */
function matcher(glob: string): (path: string) => boolean {
  // Who protects what lies under a path means the path too.
  const source = glob
    .replace(/\/\*$/, '')
    .split('*')
    .map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
    .join('.*')
  // A trailing slash is no way around: routers take it for the same path.
  const below = glob.endsWith('/*') ? '(/.*)?' : ''
  const expression = new RegExp(`^${source}${below}$`, 'su')
  return (path) => expression.test(path) || expression.test(path.replace(/\/+$/, ''))
}

function check(auth: AuthConfig, pod: Pod): void {
  const { google_client_id, google_client_secret } = pod.setup().backend.secrets
  const issues = authIssues(auth)
  if (auth.oauth?.includes?.('google') && !(google_client_id && google_client_secret))
    issues.push({
      path: ['oauth'],
      message: 'google needs the secrets google_client_id and google_client_secret',
    })
  if (issues.length > 0)
    throw new TpError('bad_config', `tp.auth: ${issues[0]?.path.join('.')} ${issues[0]?.message}`, {
      issues,
      hint: issues.some(({ path }) => path[0] === 'oauth')
        ? 'Put the secrets into tp_data/secrets.json, or set them with `tidepool secrets set`.'
        : 'Correct tp.auth in main.ts; `tidepool docs auth` shows every field.',
    })
}
