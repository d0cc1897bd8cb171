/**
 * Sessions of the platform's pages. Signing in with a key gives a cookie that stands for this key: it may what the key
 * may, and ends with it (revoked, rotated, expired), by signing out, or after half a day.
 *
 * The cookie is random, new at each sign-in, and stored as a hash: what somebody else puts into a browser is no session.
 */
import { type Caller, callerOfKey, nobody, operator } from './agents.ts'
import type { Queryable } from './db.ts'
import type { Verb } from './endpoint.ts'
import { hashSecret, newSecret } from './ids.ts'
import type { Platform } from './platform.ts'

/** How long a session lasts at most. */
export const sessionHours = 12

/** Of the operator's key: nobody learns it from the database, however short it was chosen. */
const operatorProof = ({ master, settings }: Platform) =>
  Buffer.from(master.mac(`web session ${settings.operatorHash.toString('hex')}`))

/** Begins a session. @param key whose; it must be known @returns the cookie, or undefined for a key that opens nothing */
export async function beginSession(platform: Platform, key: string): Promise<string | undefined> {
  const { db, settings } = platform
  const hash = hashSecret(key)
  const cookie = newSecret()
  const isOperator = hash.equals(settings.operatorHash)
  const rows = await db.query(
    `insert into platform.web_sessions (hash, key, proof, expires_at)
     select $1, k.id, $2, now() + make_interval(hours => $3)
       from (select null::text as id where $4
             union all select id from platform.keys where hash = $5 and not $4 and (expires_at is null or expires_at > now())) k
     returning 1`,
    [hashSecret(cookie), isOperator ? operatorProof(platform) : hash, sessionHours, isOperator, hash],
  )
  return rows.length > 0 ? cookie : undefined
}

/** Who a cookie stands for; nobody when it is none, or its key is not what it was. */
export async function identifySession(platform: Platform, cookie: string | undefined): Promise<Caller> {
  if (!cookie) return nobody
  const [row] = await platform.db.query<{
    proof: Buffer
    key: string | null
    agent: string | null
    verified: boolean
    pods: string[] | null
    verbs: Verb[] | null
  }>(
    `select s.proof, s.key, k.agent, k.pods, k.verbs, a.verified_at is not null as verified
       from platform.web_sessions s
       left join platform.keys k on k.id = s.key and k.hash = s.proof and (k.expires_at is null or k.expires_at > now())
       left join platform.agents a on a.id = k.agent
      where s.hash = $1 and s.expires_at > now()`,
    [hashSecret(cookie)],
  )
  if (!row) return nobody
  if (row.key === null) return row.proof.equals(operatorProof(platform)) ? operator : nobody
  return row.agent === null ? nobody : callerOfKey({ ...row, id: row.key, agent: row.agent })
}

/** Ends a session. */
export async function endSession(db: Queryable, cookie: string): Promise<void> {
  await db.query('delete from platform.web_sessions where hash = $1', [hashSecret(cookie)])
}

/** Forgets sessions that are over. */
export async function sweepSessions(db: Queryable): Promise<void> {
  await db.query('delete from platform.web_sessions where expires_at < now()')
}
