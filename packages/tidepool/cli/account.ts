/**
 * `tidepool register`, `verify`, `login`, `whoami`: who you are to a platform.
 */
import { TpError } from '../src/errors.ts'
import { connect } from './api.ts'
import { saveCredentials } from './credentials.ts'
import type { Output } from './output.ts'

interface Agent {
  id: string
  email: string
  verified: boolean
}

/** Registers an address and keeps the key. @throws ApiFailure `invalid`, `rate_limited`; TpError `usage` without --email */
export async function register(options: { email?: string; url?: string }, output: Output): Promise<void> {
  if (!options.email)
    throw new TpError('usage', 'register needs --email', { next: ['tidepool register --email you@example.com'] })
  const api = await connect(options.url)
  const made = await api.call<{ agent: Agent; key: string; verifyUrl?: string; next: string[] }>(
    'POST',
    '/api/agents',
    {
      body: { email: options.email },
      keyless: true,
      once: true,
    },
  )
  await saveCredentials(api.url, made.key, made.agent.email)
  const { key: _, ...document } = made
  output.result(
    { ...document, url: api.url },
    `Registered ${made.agent.email} at ${api.url}; the key is kept in ~/.config/tidepool/.\nConfirm the address next:\n  ${made.next[0]}`,
  )
}

/** Confirms an address. @param link the mailed link, or its token */
export async function verify(link: string, options: { url?: string }, output: Output): Promise<void> {
  const parsed = URL.canParse(link) ? new URL(link) : undefined
  const api = await connect(options.url ?? (parsed && /^https?:$/.test(parsed.protocol) ? parsed.origin : undefined))
  const token = parsed?.searchParams.get('token') ?? link
  const { agent, key } = await api.call<{ agent: Agent; key?: string }>('POST', '/api/agents/verify', {
    body: { token },
    keyless: true,
    once: true,
  })
  if (key) await saveCredentials(api.url, key, agent.email)
  output.result({ agent, newKey: key !== undefined }, `${agent.email} is confirmed. Next:\n  tidepool deploy`)
}

/** Uses a key that was made elsewhere. @throws ApiFailure `unauthorized` */
export async function login(options: { key?: string; url?: string }, output: Output): Promise<void> {
  const key = options.key ?? process.env.TIDEPOOL_KEY
  if (!key) throw new TpError('usage', 'login needs --key (or TIDEPOOL_KEY)', { next: ['tidepool login --key tp_…'] })
  process.env.TIDEPOOL_KEY = key
  const api = await connect(options.url)
  const { agent } = await api.call<{ agent: Agent }>('GET', '/api/me')
  await saveCredentials(api.url, key, agent.email)
  output.result({ agent, url: api.url }, `Logged in at ${api.url} as ${agent.email}.`)
}

/** Says who the key belongs to and what it may do. */
export async function whoami(options: { url?: string }, output: Output): Promise<void> {
  const api = await connect(options.url)
  const found = await api.call<{ agent: Agent; key: { name: string; verbs: string[] | null; pods: string[] | null } }>(
    'GET',
    '/api/me',
  )
  const limits = [
    found.key.verbs && `verbs ${found.key.verbs.join(', ')}`,
    found.key.pods && `pods ${found.key.pods.join(', ')}`,
  ].filter(Boolean)
  output.result(
    { ...found, url: api.url },
    `${found.agent.email} at ${api.url}${found.agent.verified ? '' : ' (not verified yet)'}; key "${found.key.name}"${limits.length > 0 ? `, only ${limits.join('; ')}` : ''}`,
  )
}
