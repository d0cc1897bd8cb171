/**
 * Keys of agents: the first is made by registering, narrower ones are for other agents. Stored as hashes, shown once.
 */
import { z } from 'zod'
import type { Caller } from './agents.ts'
import type { Queryable } from './db.ts'
import { endpoint, Time, type Verb, verbs } from './endpoint.ts'
import { PlatformError } from './errors.ts'
import { hashSecret, newId, newSecret } from './ids.ts'

export const Key = z
  .object({
    id: z.string(),
    name: z.string(),
    hint: z.string().describe('The last four characters'),
    pods: z.array(z.string()).nullable(),
    verbs: z.array(z.enum(verbs)).nullable(),
    expiresAt: Time.nullable(),
    createdAt: Time,
  })
  .meta({ id: 'Key' })

export interface KeyRow {
  id: string
  name: string
  hint: string
  pods: string[] | null
  verbs: Verb[] | null
  expires_at: Date | null
  created_at: Date
}

/** A key as the API shows it. */
export const keyOf = (row: KeyRow) => ({
  id: row.id,
  name: row.name,
  hint: row.hint,
  pods: row.pods,
  verbs: row.verbs,
  expiresAt: row.expires_at?.toISOString() ?? null,
  createdAt: row.created_at.toISOString(),
})

interface NewKey {
  agent: string
  name: string
  pods?: string[] | null
  verbs?: readonly Verb[] | null
  seconds?: number | null
}

/** Makes a key. @returns it and its secret, which is not stored */
export async function createKey(db: Queryable, { agent, name, pods = null, verbs = null, seconds = null }: NewKey) {
  const secret = `tp_${newSecret()}`
  const [row] = await db.query<KeyRow>(
    `insert into platform.keys (id, agent, name, hash, hint, pods, verbs, expires_at)
     values ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8)) returning *`,
    [newId(), agent, name, hashSecret(secret), secret.slice(-4), pods, verbs, seconds],
  )
  if (!row) throw new PlatformError('internal')
  return { key: keyOf(row), secret }
}

/** Only a key that is confined to nothing may make or see others. */
function unconfined(caller: Caller): void {
  if (caller.pods !== null || caller.verbs !== null)
    throw new PlatformError('forbidden', 'A narrower key cannot see or change keys.', {
      hint: 'Use the agent’s own key.',
    })
}

const listKeys = endpoint({
  method: 'GET',
  path: '/api/keys',
  summary: 'The keys of this agent.',
  access: 'agent',
  reply: z.object({ keys: z.array(Key) }),
  errors: [],
  async handler({ platform: { db }, caller }) {
    unconfined(caller)
    const rows = await db.query<KeyRow>('select * from platform.keys where agent = $1 order by created_at, id', [
      caller.agent,
    ])
    return { keys: rows.map(keyOf) }
  },
})

const addKey = endpoint({
  method: 'POST',
  path: '/api/keys',
  summary: 'Make a narrower key for another agent: for some pods, with some verbs, until a time. It is shown once.',
  access: 'agent',
  body: z.object({
    name: z.string().min(1).max(100),
    pods: z.array(z.string()).max(100).nullish().describe('Ids or names; all pods, unless given'),
    verbs: z.array(z.enum(verbs)).min(1).nullish().describe('Everything, unless given'),
    expiresInSeconds: z.int().min(1).max(315_576_000).nullish(),
  }),
  reply: z.object({ key: Key, secret: z.string() }),
  errors: ['forbidden', 'not_found', 'unverified'],
  async handler({ platform: { db }, caller, body }) {
    unconfined(caller)
    if (!caller.verified) throw new PlatformError('unverified')
    let pods: string[] | null = null
    if (body.pods) {
      const rows = await db.query<{ id: string; name: string }>(
        "select id, name from platform.pods where agent = $1 and status <> 'deleted' and (id = any ($2) or name = any ($2))",
        [caller.agent, body.pods],
      )
      const missing = body.pods.find((each) => !rows.some(({ id, name }) => id === each || name === each))
      if (missing !== undefined) throw new PlatformError('not_found', `There is no pod ${missing}.`)
      pods = rows.map(({ id }) => id)
    }
    return createKey(db, {
      agent: caller.agent,
      name: body.name,
      pods,
      verbs: body.verbs ?? null,
      seconds: body.expiresInSeconds ?? null,
    })
  },
})

const rotateKey = endpoint({
  method: 'POST',
  path: '/api/keys/rotate',
  summary: 'Replace the key of this call by a new secret; the old one stops working at once.',
  access: 'agent',
  reply: z.object({ key: Key, secret: z.string() }),
  errors: [],
  async handler({ platform: { db }, caller }) {
    const secret = `tp_${newSecret()}`
    const [row] = await db.query<KeyRow>('update platform.keys set hash = $2, hint = $3 where id = $1 returning *', [
      caller.key,
      hashSecret(secret),
      secret.slice(-4),
    ])
    if (!row) throw new PlatformError('unauthorized')
    return { key: keyOf(row), secret }
  },
})

const deleteKey = endpoint({
  method: 'DELETE',
  path: '/api/keys/:key',
  summary: 'Revoke a key.',
  access: 'agent',
  reply: z.object({ deleted: z.string() }),
  errors: ['not_found', 'forbidden'],
  async handler({ platform: { db }, caller, params }) {
    unconfined(caller)
    const rows = await db.query('delete from platform.keys where id = $1 and agent = $2 returning id', [
      params.key,
      caller.agent,
    ])
    if (rows.length === 0) throw new PlatformError('not_found', 'There is no such key.')
    return { deleted: params.key }
  },
})

export const keyEndpoints = { listKeys, addKey, rotateKey, deleteKey }
