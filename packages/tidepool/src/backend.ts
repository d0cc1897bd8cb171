/**
 * The storage interface: everything a pod keeps, behind four operations on records, a file store and a mailbox.
 *
 * Two backends implement it: `backend-local.ts` (tp_data/) and, over HTTP, the platform's. Both pass
 * `test/backend-conformance.ts`. Nouns (users.ts, sessions.ts, …) are written once on top of it, so it stays small.
 *
 * Invariants
 * - A promise of `write` resolves when the change is durable; the change is atomic over all its ops and spaces.
 * - Expiry and leases use the backend's clock only: callers pass durations (`ttl`), never points in time, so that
 *   replicas with skewed clocks agree.
 * - Values are JSON; what is read is a fresh copy.
 * - Keys sort by JavaScript's string order. Expired records do not exist for any operation.
 *
 * To add a kind of record: a line in `Spaces`, then a file named after the noun that reads and writes it.
 */
import type { Readable } from 'node:stream'

/** Any JSON value. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }

/** The kinds of records and the shape of each. `db` is what the pod stores itself through `tp.db`. */
export interface Spaces {
  /** `tp.db`: key → value. */
  db: Json
  /** user id → user. */
  users: UserRecord
  /** normalised e-mail address → user id. Written in the same `write` as the user. */
  emails: string
  /** SHA-256 of the session token, hex → session. Always with a ttl. */
  sessions: SessionRecord
  /** SHA-256 of a mailed token, hex → what it allows. Always with a ttl; consumed by `delete` with `if: 'present'`. */
  tokens: TokenRecord
  /** purchase id (Stripe's subscription or checkout session id; `dev_…` when simulated) → purchase. */
  purchases: PurchaseRecord
  /** Stripe event id → when it was handled (ms since 1970). Set with `if: 'absent'` in the write that it causes. */
  events: number
  /** `<what>:<whom>` → how often within the window that its ttl measures. See limits.ts. */
  limits: number
  /** `public` → what `tp.publish` made public. */
  state: { [key: string]: Json }
  /** background task → who runs it. The ttl is the lease. See background.ts. */
  tasks: string
  /** Settings that features keep for themselves, such as the hash of the admin key. */
  settings: Json
}
export type Space = keyof Spaces

export interface UserRecord {
  id: string
  /** As written by its owner, trimmed. `emails` holds the normalised form. */
  email: string
  name: string | null
  avatarUrl: string | null
  /** argon2id, or null for accounts without one. */
  passwordHash: string | null
  /** Whether the owner of the address has proven it. */
  confirmed: boolean
  /** Ids of products with a running subscription. */
  subscriptions: string[]
  /** Ids of products bought once. */
  purchased: string[]
  /** Raised to end every session and link made before: they carry the epoch they were made under. */
  epoch: number
  /** Google's `sub`, once linked. */
  google: string | null
  /** Stripe's customer id. */
  stripeCustomer: string | null
  /** ms since 1970 */
  createdAt: number
  /** Further fields given to `tp.createUser`. */
  data: { [key: string]: Json }
}

export interface SessionRecord {
  userId: string
  epoch: number
  createdAt: number
}

export interface TokenRecord {
  /** `confirm`, `reset`, `magic`, `oauth`, `admin`, … A token is good for its own purpose only. */
  purpose: string
  userId: string | null
  email: string | null
  epoch: number
  /** What the purpose needs besides, e.g. where to go next or a PKCE verifier. */
  data: { [key: string]: Json }
}

export interface PurchaseRecord {
  id: string
  userId: string
  email: string
  product: string
  kind: 'subscription' | 'once'
  /** In cents. */
  amount: number
  currency: string
  status: 'active' | 'past_due' | 'cancelled' | 'refunded'
  /** True when simulated by the dev server. */
  simulated: boolean
  createdAt: number
  /** When a cancelled subscription ends (ms since 1970), or null. */
  endsAt: number | null
  /** Stripe's ids: customer, subscription, session, payment intent. */
  stripe: { [key: string]: string }
}

/** A record as read. */
export interface Entry<S extends Space = Space> {
  key: string
  value: Spaces[S]
  /** Changes with every write of the record. Compare for equality only. */
  version: number
  /** Milliseconds until it expires; absent for records that stay. */
  expiresIn?: number
}

/** What must hold of the record for the whole `write` to happen: a version, or that it is there or not. */
export type Condition = number | 'absent' | 'present'

/** One change. `ttl` in ms; for `increment` it starts when the record is made and is not renewed. */
export type Write = {
  [S in Space]:
    | { op: 'set'; space: S; key: string; value: Spaces[S]; ttl?: number; if?: Condition }
    | { op: 'delete'; space: S; key: string; if?: Condition }
    | { op: 'increment'; space: S; key: string; by: number; ttl?: number; if?: Condition }
    | { op: 'check'; space: S; key: string; if: Condition }
}[Space]

/** What one op did: `increment` → the new value; `delete` → whether there was one. */
export interface Written {
  version: number
  /** After `increment`: the number. */
  number?: number
  /** After `delete`: whether the record existed. */
  existed?: boolean
  expiresIn?: number
}

/** All of it happened, or nothing did because the condition of `ops[at]` did not hold. */
export type Outcome = { ok: true; results: Written[] } | { ok: false; at: number }

export interface Scan {
  /** Only keys that start with this. */
  prefix?: string
  /** Only keys beyond this one, in the direction of the scan. */
  after?: string
  reverse?: boolean
  limit?: number
}

export interface FileInfo {
  name: string
  /** bytes */
  size: number
  contentType: string
  /** ms since 1970 */
  modifiedAt: number
  /** Quoted, as in the ETag header. */
  etag: string
}

export interface FileStore {
  /**
   * Stores `data` under `name`, all or nothing; an earlier file of that name is replaced when the new one is complete.
   * @param options.maxBytes stop with `too_large` beyond this
   * @throws TpError `bad_key` (name), `too_large`, `quota_exceeded` (50 GB), `storage`
   */
  write(
    name: string,
    data: Uint8Array | AsyncIterable<Uint8Array>,
    options?: { maxBytes?: number; signal?: AbortSignal },
  ): Promise<FileInfo>
  /** The file, or the bytes from `start` to `end` inclusive of it; undefined when there is none. */
  read(name: string, range?: { start: number; end: number }): Promise<{ info: FileInfo; body: Readable } | undefined>
  /** What is known about the file without its bytes. */
  stat(name: string): Promise<FileInfo | undefined>
  /** Files in the order of their names. */
  list(options?: { prefix?: string; after?: string; limit?: number }): Promise<FileInfo[]>
  /** Whether there was one. */
  delete(name: string): Promise<boolean>
}

export interface Attachment {
  filename: string
  /** base64 */
  content: string
  contentType: string
}

/** A mail to send. */
export interface Mail {
  to: string
  subject: string
  text: string
  html?: string
  attachments?: Attachment[]
}

/** A mail as kept: `sent` was handed to a mail server; `kept` only lies in the outbox (development). */
export interface SentMail extends Mail {
  id: string
  /** ms since 1970 */
  at: number
  status: 'kept' | 'sent' | 'failed'
}

export interface Mailbox {
  /**
   * Keeps the mail and hands it to the mail server if there is one.
   * @throws TpError `rate_limited` beyond the backend's daily limit
   */
  send(mail: Mail): Promise<SentMail>
  /** Newest first. */
  list(options?: { limit?: number; before?: string }): Promise<SentMail[]>
  get(id: string): Promise<SentMail | undefined>
}

export interface Backend {
  /** One record, or undefined. */
  read<S extends Space>(space: S, key: string): Promise<Entry<S> | undefined>
  /** Records in key order. `limit` defaults to 1,000. */
  scan<S extends Space>(space: S, options?: Scan): Promise<Entry<S>[]>
  /** Keys only, in order. `limit` defaults to all. */
  keys(space: Space, options?: Scan): Promise<string[]>
  /** How many records have keys with this prefix. */
  count(space: Space, prefix?: string): Promise<number>
  /**
   * Does all of `ops` or nothing, atomically and durably.
   * @throws TpError `quota_exceeded`, `not_a_number`, `bad_value`, `bad_key`, `storage`; nothing was changed then
   */
  write(ops: readonly Write[]): Promise<Outcome>
  readonly files: FileStore
  readonly mail: Mailbox
  /** Credentials given at deploy time. */
  readonly secrets: Readonly<Record<string, string>>
  /** Finishes what was begun and releases the storage. Further calls fail with `unavailable`. */
  close(): Promise<void>
}

/** The longest key, in UTF-16 units. */
export const maxKeyLength = 1024
/** The largest value as JSON, in UTF-16 units. */
export const maxValueLength = 32 * 1024 * 1024
/** What `tp.db` may hold: the sum of keys and values as JSON, in UTF-16 units (bytes, for ASCII). */
export const maxDbSize = 1024 ** 3
/** What `tp.files` may hold, in bytes. */
export const maxFilesSize = 50 * 1024 ** 3
