// API keys: made by the `tidebase keys` command, shown once, stored as SHA-256. A key belongs to a project.
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import type { BodyOf, ReplyOf, Routes, Scope } from '@tidebase/wire'
import type { Queryable } from './db.ts'
import type { Caller, Engine } from './engine.ts'
import { ApiError } from './errors.ts'
import { newId, parseId, wireId } from './ids.ts'

/** A key as `tidebase keys list` shows it. */
export interface ApiKey {
  id: string
  project: string
  name: string
  scope: Scope
  /** The last four characters. */
  hint: string
  createdAt: string
  revokedAt: string | null
}

interface KeyRow {
  id: string
  project: string
  name: string
  scope: Scope
  hint: string
  created_at: Date
  revoked_at: Date | null
}

const sha256 = (text: string) => createHash('sha256').update(text).digest()

function toKey(row: KeyRow): ApiKey {
  return {
    id: wireId('key', row.id),
    project: row.project,
    name: row.name,
    scope: row.scope,
    hint: row.hint,
    createdAt: row.created_at.toISOString(),
    revokedAt: row.revoked_at?.toISOString() ?? null,
  }
}

/**
 * Makes a key, and its project when there is none of that name.
 *
 * @param secret chosen by a program that embeds the server and can make it again; random unless given. Repeating the
 *   call with one secret makes one key
 * @returns the key, and its secret, which is not stored and cannot be shown again
 */
export async function createKey(
  db: Queryable,
  { project, name, scope, secret: given }: { project: string; name: string; scope: Scope; secret?: string },
): Promise<{ key: ApiKey; secret: string }> {
  const secret = given ?? `tide_${scope}_${randomBytes(24).toString('base64url')}`
  const [row] = await db.query<KeyRow>(
    `with p as (
      insert into tidebase.projects (name) values ($1) on conflict (name) do update set name = excluded.name returning *
    ), k as (
      insert into tidebase.api_keys (id, project, name, scope, hash, hint)
      select $2, p.id, $3, $4, $5, $6 from p on conflict (hash) do update set name = excluded.name returning *
    ) select k.*, p.name as project from k, p`,
    [project, newId(), name, scope, sha256(secret), secret.slice(-4)],
  )
  if (!row) throw new Error('the key was not returned')
  return { key: toKey(row), secret }
}

/**
 * Makes a key in any project, for programs that give each of their tenants one.
 *
 * @throws ApiError `forbidden` for every key but the server's own
 */
export async function createKeyIn(
  db: Queryable,
  caller: Caller,
  project: string,
  { name, scope, secret }: BodyOf<Routes['createProjectKey']>,
): Promise<ReplyOf<Routes['createProjectKey']>> {
  if (caller.keyId !== null) {
    throw new ApiError('forbidden', 'Only the server’s own key (TIDEBASE_API_KEY) makes keys in other projects.', {
      hint: 'Use it, or `tidebase keys create` on the server’s machine.',
    })
  }
  const made = await createKey(db, { project, name, scope, ...(secret && { secret }) })
  return { id: made.key.id, project, secret: made.secret }
}

/** All keys, revoked ones included, by project and age. */
export async function listKeys(db: Queryable): Promise<ApiKey[]> {
  const rows = await db.query<KeyRow>(
    `select k.*, p.name as project from tidebase.api_keys k join tidebase.projects p on p.id = k.project
      order by p.name, k.created_at, k.id`,
  )
  return rows.map(toKey)
}

/**
 * Revokes a key. Servers notice within five seconds.
 *
 * @param id as `tidebase keys list` shows it
 * @returns whether there was such a key
 */
export async function revokeKey(db: Queryable, id: string): Promise<boolean> {
  const rows = await db.query(
    `update tidebase.api_keys set revoked_at = coalesce(revoked_at, now())
      where 'key_' || replace(id::text, '-', '') = $1 returning id`,
    [id],
  )
  return rows.length > 0
}

/** Tells a caller who it is. */
export async function whoAmI({ db, settings }: Engine, caller: Caller): Promise<ReplyOf<Routes['whoAmI']>> {
  const { keyId, scope } = caller
  return {
    project: await projectName(db.cold, caller),
    scope,
    keyId: keyId && wireId('key', keyId),
    keyless: settings.keyless,
  }
}

async function projectName(db: Queryable, { project }: Caller): Promise<string> {
  const [row] = await db.query<{ name: string }>('select name from tidebase.projects where id = $1', [project])
  if (!row) throw new Error('the project of a caller is gone')
  return row.name
}

/** The keys of the caller's project. */
export async function keysOfProject(db: Queryable, caller: Caller): Promise<ReplyOf<Routes['listKeys']>> {
  const rows = await db.query<KeyRow>(
    `select k.*, p.name as project from tidebase.api_keys k join tidebase.projects p on p.id = k.project
      where k.project = $1 order by k.created_at, k.id`,
    [caller.project],
  )
  return { keys: rows.map(toKey) }
}

/** Makes a key for the caller's project. */
export async function createProjectKey(
  db: Queryable,
  caller: Caller,
  { name, scope }: BodyOf<Routes['createKey']>,
): Promise<ReplyOf<Routes['createKey']>> {
  return createKey(db, { project: await projectName(db, caller), name, scope })
}

/** Revokes a key of the caller's project. @throws ApiError `key_not_found` */
export async function revokeProjectKey(
  db: Queryable,
  caller: Caller,
  id: string,
): Promise<ReplyOf<Routes['revokeKey']>> {
  const rows = await db.query(
    `update tidebase.api_keys set revoked_at = coalesce(revoked_at, now()) where project = $1 and id = $2 returning id`,
    [caller.project, parseId('key', id)],
  )
  if (rows.length === 0) throw new ApiError('key_not_found')
  return { revoked: true }
}

/** The project that runs without keys, and TIDEBASE_API_KEY, belong to. */
const defaultProject = 1
/** How long a key that was looked up is believed, ms: how long a revoked key may live on. */
const believedMs = 5_000
/** Keys remembered at once, so that guesses cannot fill the memory. */
const maxRemembered = 10_000

/**
 * Tells who a key belongs to.
 *
 * @param rootKey TIDEBASE_API_KEY; unset means that nobody needs a key
 * @returns a function from a presented key to its caller, or null when the key opens nothing
 */
export function authenticator(
  db: Queryable,
  rootKey: string | undefined,
): (presented: string | undefined) => Promise<Caller | null> {
  const root: Caller = { project: defaultProject, scope: 'admin', keyId: null }
  const rootHash = rootKey ? sha256(rootKey) : undefined
  const remembered = new Map<string, { caller: Caller | null; until: number }>()
  return async (presented) => {
    if (presented === undefined || presented === '') return rootHash ? null : root
    const hash = sha256(presented)
    if (rootHash && timingSafeEqual(hash, rootHash)) return root
    const id = hash.toString('base64')
    const known = remembered.get(id)
    if (known && known.until > Date.now()) return known.caller
    const [row] = await db.query<{ id: string; project: number; scope: Scope }>(
      {
        name: 'keys.find',
        text: 'select id, project, scope from tidebase.api_keys where hash = $1 and revoked_at is null',
      },
      [hash],
    )
    // Without a root key the server is open, and a stale key in somebody's environment must not lock them out.
    const caller = row ? { project: row.project, scope: row.scope, keyId: row.id } : rootHash ? null : root
    if (remembered.size >= maxRemembered) remembered.clear()
    remembered.set(id, { caller, until: Date.now() + believedMs })
    return caller
  }
}
