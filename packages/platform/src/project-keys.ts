// Keys of the run server: the platform and each pod have a project of their own there. They are derived from the master
// key, so that nothing that opens a project is stored.
import { PlatformError } from './errors.ts'
import type { Master } from './master.ts'

/** The run server that a platform uses. */
export interface RunServer {
  url: string
  /** Makes a key in a project; repeating it does no harm. */
  makeKey(project: string, secret: string): Promise<void>
}

/** Makes a key on a Tidebase elsewhere. @throws PlatformError `unavailable` */
export async function keyElsewhere(
  url: string,
  own: string | undefined,
  project: string,
  secret: string,
): Promise<void> {
  const answer = await fetch(`${url.replace(/\/+$/, '')}/projects/${encodeURIComponent(project)}/keys`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(own && { authorization: `Bearer ${own}` }) },
    body: JSON.stringify({ name: 'tidepool', scope: 'admin', secret }),
  }).catch((cause: unknown) => {
    throw new PlatformError('unavailable', `The Tidebase at ${url} does not answer.`, {
      cause,
      hint: 'Check TIDEBASE_URL.',
    })
  })
  if (answer.ok) return
  throw new PlatformError('unavailable', `The Tidebase at ${url} makes no keys for this platform (${answer.status}).`, {
    hint: 'TIDEBASE_API_KEY must be the server’s own key.',
  })
}

const made = new Map<string, Promise<string>>()

/** The key to a project of the run server. Derived, so that nothing that opens it is stored. */
export function projectKey({ url, makeKey }: RunServer, master: Master, project: string): Promise<string> {
  const secret = `tide_admin_${master.mac(`tidebase ${project}`)}`
  const key = `${url} ${project} ${secret}`
  let making = made.get(key)
  if (!making) {
    making = makeKey(project, secret).then(() => secret)
    making.catch(() => made.delete(key))
    made.set(key, making)
  }
  return making
}
