// Secrets of pods: versioned, sealed with the master key, pinned by deployments. A change takes effect with the next
// deployment or restart, and a rollback brings the old ones back.
import { z } from 'zod'
import type { Queryable } from './db.ts'
import { endpoint } from './endpoint.ts'
import { PlatformError } from './errors.ts'
import type { Master } from './master.ts'
import type { PodRow } from './pods.ts'

export type Secrets = Record<string, string>

const Name = z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,99}$/, 'must be letters, digits and _')
export const SecretsPatch = z.object({
  set: z.record(Name, z.string().max(65_536)).default({}),
  unset: z.array(Name).default([]),
})

const place = (pod: string, version: number) => `secrets ${pod} ${version}`

/** Secrets of one version; of version 0, none. */
export async function readSecrets(db: Queryable, master: Master, pod: string, version: number): Promise<Secrets> {
  if (version === 0) return {}
  const [row] = await db.query<{ sealed: Buffer }>(
    'select sealed from platform.secrets where pod = $1 and version = $2',
    [pod, version],
  )
  if (!row) throw new PlatformError('internal', 'A version of the secrets is missing.')
  const secrets: Secrets = JSON.parse(master.open(place(pod, version), row.sealed))
  return secrets
}

/**
 * Makes the next version. Run in a transaction.
 * @returns its number; the current one when nothing changes
 */
export async function changeSecrets(
  tx: Queryable,
  master: Master,
  pod: string,
  { set, unset }: { set: Secrets; unset: readonly string[] },
): Promise<number> {
  const [row] = await tx.query<{ secrets_version: number; last: number }>(
    `select p.secrets_version, coalesce((select max(version) from platform.secrets where pod = p.id), 0) as last
       from platform.pods p where id = $1 for update`,
    [pod],
  )
  if (!row) throw new PlatformError('not_found')
  const before = await readSecrets(tx, master, pod, row.secrets_version)
  const after = { ...before, ...set }
  for (const name of unset) delete after[name]
  const same =
    Object.keys(after).length === Object.keys(before).length &&
    Object.entries(after).every(([name, value]) => before[name] === value)
  if (same) return row.secrets_version
  const version = row.last + 1
  await tx.query('insert into platform.secrets (pod, version, sealed, names) values ($1, $2, $3, $4)', [
    pod,
    version,
    master.seal(place(pod, version), JSON.stringify(after)),
    Object.keys(after).sort(),
  ])
  await tx.query('update platform.pods set secrets_version = $2 where id = $1', [pod, version])
  return version
}

async function names(db: Queryable, pod: PodRow): Promise<{ version: number; names: string[] }> {
  const [row] = await db.query<{ names: string[] }>(
    'select names from platform.secrets where pod = $1 and version = $2',
    [pod.id, pod.secrets_version],
  )
  return { version: pod.secrets_version, names: row?.names ?? [] }
}

const list = endpoint({
  method: 'GET',
  path: '/api/pods/:pod/secrets',
  summary: 'Names of the secrets; with ?values=1 (verb secrets) their values too, for `pull`.',
  access: 'secrets',
  query: z.object({ values: z.enum(['0', '1']).default('0') }),
  reply: z.object({
    version: z.int(),
    names: z.array(z.string()),
    values: z.record(z.string(), z.string()).optional(),
  }),
  errors: [],
  async handler({ platform: { db, master }, pod, query }) {
    const known = await names(db, pod)
    if (query.values === '0') return known
    return { ...known, values: await readSecrets(db, master, pod.id, pod.secrets_version) }
  },
})

const patch = endpoint({
  method: 'PATCH',
  path: '/api/pods/:pod/secrets',
  summary: 'Set and unset secrets. They take effect with the next deployment, or at once with {restart: true}.',
  access: 'secrets',
  body: SecretsPatch.extend({ restart: z.boolean().default(false) }),
  reply: z.object({ version: z.int(), names: z.array(z.string()), deployment: z.string().nullable() }),
  errors: ['deploy_running'],
  async handler({ platform, pod, body }) {
    const { db, master } = platform
    const version = await db.transaction((tx) => changeSecrets(tx, master, pod.id, body))
    // What runs is pinned to its version: new values come by a deployment of the same files.
    const again = body.restart && pod.deployment && version !== pod.secrets_version
    const deployment = again
      ? await platform.deploys.again(pod, pod.deployment ?? '', { message: 'secrets changed' })
      : null
    return { ...(await names(db, { ...pod, secrets_version: version })), deployment: deployment?.id ?? null }
  },
})

export const secretEndpoints = { listSecrets: list, changeSecrets: patch }
