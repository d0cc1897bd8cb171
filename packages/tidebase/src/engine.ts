// What every operation needs: the database, the coalescers, the wake-ups and the settings.
import type { Scope } from '@tidebase/wire'
import type { Answer, Coalescers, Statement } from './coalesce.ts'
import type { Database } from './db.ts'
import type { Wakeups } from './wakeups.ts'

/** One server's engine. */
export interface Engine {
  db: Database
  coalescers: Coalescers
  wakeups: Wakeups
  settings: Settings
}

/** What an operator may set; `main.ts` reads it from the environment. */
export interface Settings {
  /** How long a lease lives without a heartbeat, ms. */
  leaseMs: number
  /** How often the reconciler looks, ms. */
  reconcileMs: number
  /** For how many days ended runs are kept where a project says nothing; unset or 0 is for ever. */
  retentionDays: number | undefined
  /** Address under which people reach this server, for links in webhooks. No slash at the end. */
  publicUrl: string
  /** Signs recovery and invoke webhooks. */
  webhookSecret: string | undefined
  /** Whether webhooks may go to private and loopback addresses. */
  allowPrivateWebhooks: boolean
  /** Nobody needs a key. */
  keyless: boolean
}

/** Who is calling: what the API key stands for. */
export interface Caller {
  project: number
  scope: Scope
  /** The key, for runs that only their creator may see; null for TIDEBASE_API_KEY and the keyless mode. */
  keyId: string | null
}

/** Runs one call of a statement that answers with one row, together with others that are under way. */
export async function submit<Call extends object, Row extends Answer>(
  engine: Engine,
  of: Statement<Call, Row>,
  call: Call,
): Promise<Row> {
  const [row] = await engine.coalescers.submit(of, call)
  if (!row) throw new Error(`${of.name} answered nothing`)
  return row
}
