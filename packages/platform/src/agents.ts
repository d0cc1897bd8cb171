/**
 * Agents: who uses the platform, and their keys. An agent is an e-mail address that was proven.
 *
 *   register ──▶ unverified, with a key ──link──▶ verified
 *                     └── the address has a verified agent already: who opens the link gets a new key of it, and the
 *                         key that registering gave is dead. So a lost key is replaced by registering again, and
 *                         whoever registers somebody else's address gains nothing
 *
 * Invariants: keys and links are stored as hashes; registering answers alike whether or not the address is known;
 * only the POST of a link uses it up, so that mail scanners do not.
 */
import { z } from 'zod'
import type { Queryable } from './db.ts'
import { endpoint, Time, type Verb } from './endpoint.ts'
import { PlatformError } from './errors.ts'
import { hashSecret, newId, newSecret } from './ids.ts'
import { createKey, Key, type KeyRow, keyOf } from './keys.ts'
import { limitUse } from './limits.ts'
import type { Platform } from './platform.ts'
import { commands, html, page, sendPage } from './web/page.ts'

/** Who calls. */
export interface Caller {
  kind: 'nobody' | 'agent' | 'operator'
  agent: string
  verified: boolean
  key: string
  /** Null: all of the agent's. */
  pods: string[] | null
  verbs: Verb[] | null
}

export const nobody: Caller = { kind: 'nobody', agent: '', verified: false, key: '', pods: [], verbs: [] }
/** Who has the operator's key. */
export const operator: Caller = {
  kind: 'operator',
  agent: '',
  verified: true,
  key: 'operator',
  pods: null,
  verbs: null,
}

const linkHours = 24
const Email = z
  .string()
  .trim()
  .max(254)
  .regex(/^[^\s@<>(),;:\\"[\]]+@[^\s@<>(),;:\\"[\]]+\.[^\s@<>(),;:\\"[\]]+$/, 'must be an e-mail address')

const Agent = z
  .object({ id: z.string(), email: z.string(), verified: z.boolean(), createdAt: Time })
  .meta({ id: 'Agent' })

interface KeyOwner {
  id: string
  agent: string
  verified: boolean
  pods: string[] | null
  verbs: Verb[] | null
}

/** Who calls with a key. */
export function callerOfKey({ id, agent, verified, pods, verbs }: KeyOwner): Caller {
  return { kind: 'agent', agent, verified, key: id, pods, verbs }
}

/** Tells who a key belongs to. @param operatorHash of the operator's key */
export async function identify(db: Queryable, presented: string | undefined, operatorHash: Buffer): Promise<Caller> {
  if (!presented) return nobody
  const hash = hashSecret(presented)
  if (hash.equals(operatorHash)) return operator
  const [row] = await db.query<KeyOwner>(
    `select k.id, k.agent, k.pods, k.verbs, a.verified_at is not null as verified
       from platform.keys k join platform.agents a on a.id = k.agent
      where k.hash = $1 and (k.expires_at is null or k.expires_at > now())`,
    [hash],
  )
  return row ? callerOfKey(row) : nobody
}

const register = endpoint({
  method: 'POST',
  path: '/api/agents',
  summary:
    'Register an address. The key is shown once; it may deploy when the mailed link was confirmed. For an address that is registered already, confirming gives a new key.',
  access: 'public',
  body: z.object({ email: Email }),
  reply: z.object({ agent: Agent, key: z.string(), verifyUrl: z.string().optional(), next: z.array(z.string()) }),
  errors: ['rate_limited'],
  example: `curl -X POST $URL/api/agents -H 'content-type: application/json' -d '{"email":"you@example.com"}'`,
  async handler({ platform, body: { email }, req }) {
    const { db } = platform
    const ip = req.socket.remoteAddress ?? ''
    await limitUse(
      db,
      `register/ip/${ip}`,
      [{ max: platform.settings.local ? 10_000 : 20, seconds: 3600 }],
      'Registrations from this address',
    )
    await limitUse(
      db,
      `register/mail/${email.toLowerCase()}`,
      [{ max: 10, seconds: 3600 }],
      'Registrations of this e-mail address',
    )
    // A word that no command line takes for an option.
    const token = `link_${newSecret()}`
    const made = await db.transaction(async (tx) => {
      const [agent] = await tx.query<{ id: string; created_at: Date }>(
        'insert into platform.agents (id, email) values ($1, $2) returning id, created_at',
        [newId(), email],
      )
      if (!agent) throw new PlatformError('internal')
      const { secret } = await createKey(tx, { agent: agent.id, name: 'first key' })
      await tx.query(
        'insert into platform.links (hash, agent, expires_at) values ($1, $2, now() + make_interval(hours => $3))',
        [hashSecret(token), agent.id, linkHours],
      )
      return { agent, secret }
    })
    const verifyUrl = `${platform.settings.publicUrl}/verify?token=${token}`
    await platform.mailer.send(null, {
      to: email,
      subject: 'Confirm your address for Tidepool',
      text: `Somebody, probably you, registered this address with Tidepool at ${platform.settings.publicUrl}.\n\nTo confirm it, open ${verifyUrl}\nor run: tidepool verify ${token}\n\nThe link is good for ${linkHours} hours. If it was not you, do nothing.`,
    })
    // On one machine without a mail server nobody could read the mail.
    const shown = platform.settings.local && !platform.mailer.delivers
    return {
      agent: { id: made.agent.id, email, verified: false, createdAt: made.agent.created_at.toISOString() },
      key: made.secret,
      ...(shown && { verifyUrl }),
      next: [shown ? `tidepool verify ${token}` : 'open the link in the mail', 'tidepool deploy'],
    }
  },
})

/** Uses a link up. @throws PlatformError `link_used` */
async function confirm(platform: Platform, token: string) {
  return platform.db.transaction(async (tx) => {
    const [link] = await tx.query<{ agent: string }>(
      'delete from platform.links where hash = $1 and expires_at > now() returning agent',
      [hashSecret(token)],
    )
    if (!link) throw new PlatformError('link_used')
    const [fresh] = await tx.query<{ email: string }>('select email from platform.agents where id = $1', [link.agent])
    if (!fresh) throw new PlatformError('link_used')
    // Two links of one address, opened at once.
    await tx.query("select pg_advisory_xact_lock(hashtextextended('agent ' || lower($1), 0))", [fresh.email])
    const [known] = await tx.query<{ id: string }>(
      'select id from platform.agents where lower(email) = lower($1) and verified_at is not null and id <> $2',
      [fresh.email, link.agent],
    )
    if (known) {
      await tx.query('delete from platform.agents where id = $1', [link.agent])
    } else {
      await tx.query('update platform.agents set verified_at = coalesce(verified_at, now()) where id = $1', [
        link.agent,
      ])
    }
    const [agent] = await tx.query<{ id: string; email: string; created_at: Date }>(
      'select id, email, created_at from platform.agents where id = $1',
      [known?.id ?? link.agent],
    )
    if (!agent) throw new PlatformError('internal')
    const key = known && (await createKey(tx, { agent: known.id, name: 'by a confirmed link' })).secret
    return {
      agent: { id: agent.id, email: agent.email, verified: true, createdAt: agent.created_at.toISOString() },
      ...(key && { key }),
    }
  })
}

const verify = endpoint({
  method: 'POST',
  path: '/api/agents/verify',
  summary: 'Confirm an address by the token of the mailed link.',
  access: 'public',
  body: z.object({ token: z.string().min(1).max(200) }),
  reply: z.object({
    agent: Agent,
    key: z.string().optional().describe('For an address that had an agent: its new key'),
  }),
  errors: ['link_used'],
  handler: ({ platform, body }) => confirm(platform, body.token),
})

const verifyPage = endpoint({
  method: 'GET',
  path: '/verify',
  summary: 'The page of the mailed link; its button confirms.',
  access: 'public',
  query: z.object({ token: z.string().max(200).default('') }),
  reply: null,
  errors: [],
  async handler({ res, query: { token } }) {
    const content = html`<div class="narrow"><h1>Confirm your address</h1>
<p>Somebody registered this address with Tidepool. If it was you, confirm it.</p>
<form class="stack" method="post" action="/verify"><input type="hidden" name="token" value="${token}"><button class="primary">Confirm</button></form></div>`
    sendPage(res, 200, page({ title: 'Confirm your address', still: true }, content), {
      'referrer-policy': 'no-referrer',
    })
  },
})

const verifyForm = endpoint({
  method: 'POST',
  path: '/verify',
  summary: 'The form of that page.',
  access: 'public',
  bytes: true,
  reply: null,
  errors: ['link_used'],
  async handler({ platform, req, res }) {
    let text = ''
    for await (const chunk of req) if (text.length < 2_000) text += chunk
    try {
      const { agent, key } = await confirm(platform, new URLSearchParams(text).get('token') ?? '')
      const next = key ? `npx tidepool login --key ${key}` : 'npx tidepool deploy'
      const said = key
        ? `${agent.email} had an agent already. Here is a new key of it, shown once:`
        : `${agent.email} is confirmed. Its key may deploy now:`
      const content = html`<div class="narrow"><h1>Confirmed</h1><p>${said}</p>${commands(next)}</div>`
      sendPage(res, 200, page({ title: 'Confirmed' }, content))
    } catch (error) {
      if (!(error instanceof PlatformError)) throw error
      const content = html`<div class="narrow"><h1>This link does not work</h1>
<p>It was used, has expired, or never was. Register again for a new one:</p>${commands('npx tidepool register --email you@example.com')}</div>`
      sendPage(res, error.status, page({ title: 'This link does not work' }, content))
    }
  },
})

const me = endpoint({
  method: 'GET',
  path: '/api/me',
  summary: 'Who this key belongs to and what it may do.',
  access: 'agent',
  reply: z.object({ agent: Agent, key: Key }),
  errors: [],
  async handler({ platform: { db }, caller }) {
    const [row] = await db.query<KeyRow & { email: string; verified: boolean; since: Date }>(
      `select k.*, a.email, a.verified_at is not null as verified, a.created_at as since
         from platform.keys k join platform.agents a on a.id = k.agent where k.id = $1`,
      [caller.key],
    )
    if (!row) throw new PlatformError('unauthorized')
    const agent = { id: caller.agent, email: row.email, verified: row.verified, createdAt: row.since.toISOString() }
    return { agent, key: keyOf(row) }
  },
})

const activateAgent = endpoint({
  method: 'POST',
  path: '/api/operator/agents/:agent/activate',
  summary: 'Operator: verify an agent without its mail.',
  access: 'operator',
  reply: z.object({ activated: z.string() }),
  errors: ['not_found', 'conflict'],
  async handler({ platform: { db }, params }) {
    const rows = await db.query(
      'update platform.agents set verified_at = coalesce(verified_at, now()) where id = $1 returning id',
      [params.agent],
    )
    if (rows.length === 0) throw new PlatformError('not_found', 'There is no such agent.')
    return { activated: params.agent }
  },
})

const mails = endpoint({
  method: 'GET',
  path: '/api/operator/mails',
  summary: 'Operator: mails of the platform and of all pods, newest first.',
  access: 'operator',
  query: z.object({ limit: z.coerce.number().int().min(1).max(1000).default(100), before: z.string().optional() }),
  reply: z.object({ mails: z.array(z.unknown()) }),
  errors: [],
  handler: async ({ platform, query }) => ({ mails: await platform.mailer.list(undefined, query) }),
})

export const agentEndpoints = {
  register,
  verify,
  verifyPage,
  verifyForm,
  me,
  activateAgent,
  mails,
}
