/**
 * Pods: apps of agents.
 *
 *   new ──first deployment──▶ running ⇄ stopped (kill / activate)      any ──delete──▶ deleted ──restore (7 days)──▶ stopped, running
 *
 * Invariant: a pod is found by its agent only. For everybody else its id and its name are as if they were not there.
 */
import { z } from 'zod'
import type { Caller } from './agents.ts'
import { type Queryable, Taken } from './db.ts'
import { endpoint, Time } from './endpoint.ts'
import { findEnvironment } from './environments.ts'
import { PlatformError } from './errors.ts'
import { newId } from './ids.ts'
import { limitUse } from './limits.ts'
import type { Platform } from './platform.ts'
import { takeSnapshot } from './snapshots.ts'

export interface PodRow {
  id: string
  agent: string
  name: string
  environment: string
  replicas: number
  status: 'new' | 'running' | 'stopped' | 'deleted'
  deployment: string | null
  secrets_version: number
  deleted_at: Date | null
  created_at: Date
}

const reserved = new Set([
  'www',
  'api',
  'admin',
  'mail',
  'platform',
  'studio',
  'static',
  'status',
  'tidepool',
  'tidebase',
  'localhost',
])
const restorableDays = 7

export const PodName = z
  .string()
  .regex(/^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$/, 'must be 1 to 40 small letters, digits and inner hyphens')
  .refine((name) => !reserved.has(name), 'is reserved: choose another, tidepool deploy --name my-app')

const ReplicaState = z.object({
  id: z.string(),
  state: z.enum(['starting', 'healthy', 'backoff', 'draining']),
  deployment: z.string(),
  restarts: z.int(),
  startedAt: Time,
  inFlight: z.int(),
  memoryBytes: z.int().nullable(),
  cpu: z.number().nullable().describe('Processor cores in use, over the last seconds'),
})
export const Pod = z
  .object({
    id: z.string(),
    name: z.string(),
    url: z.string(),
    status: z.enum(['new', 'running', 'stopped', 'deleted']),
    environment: z.string(),
    replicas: z.int(),
    deployment: z.string().nullable(),
    secretsVersion: z.int(),
    createdAt: Time,
    restorableUntil: Time.nullable(),
  })
  .meta({ id: 'Pod' })

/** The address of a pod. */
export function podUrl(platform: Platform, name: string): string {
  const { protocol, port } = new URL(platform.settings.publicUrl)
  return `${protocol}//${name}.${platform.settings.domain}${port ? `:${port}` : ''}`
}

export function toPod(platform: Platform, row: PodRow) {
  const until = row.deleted_at && new Date(row.deleted_at.getTime() + restorableDays * 86_400_000)
  return {
    id: row.id,
    name: row.name,
    url: podUrl(platform, row.name),
    status: row.status,
    environment: row.environment,
    replicas: row.replicas,
    deployment: row.deployment,
    secretsVersion: row.secrets_version,
    createdAt: row.created_at.toISOString(),
    restorableUntil: until?.toISOString() ?? null,
  }
}

/** The caller's pod of that id or name. @throws PlatformError `not_found`, the same for a pod of somebody else */
export async function findPod(db: Queryable, caller: Caller, which: string, deleted = false): Promise<PodRow> {
  const rows = await db.query<PodRow>(
    `select * from platform.pods where (id = $1 or name = $1) and (agent = $2 or $3)
        and ($4::text[] is null or id = any ($4)) and (status <> 'deleted' or $5)
      order by (id = $1) desc, deleted_at desc nulls first limit 1`,
    [which, caller.agent, caller.kind === 'operator', caller.pods, deleted],
  )
  const [row] = rows
  if (!row) throw new PlatformError('not_found', `There is no pod ${which.slice(0, 60)}.`)
  return row
}

const create = endpoint({
  method: 'POST',
  path: '/api/pods',
  summary: 'Create a pod. A repeated call with the name of a pod of yours answers that one.',
  access: 'deploy',
  body: z.object({ name: PodName, environment: z.string().default('standard') }),
  reply: z.object({ pod: Pod, created: z.boolean() }),
  errors: ['name_taken', 'rate_limited', 'not_found'],
  async handler({ platform, caller, body }) {
    const { db } = platform
    const [mine] = await db.query<PodRow>(
      "select * from platform.pods where name = $1 and agent = $2 and status <> 'deleted'",
      [body.name, caller.agent],
    )
    if (mine) {
      if (caller.pods !== null && !caller.pods.includes(mine.id))
        throw new PlatformError('forbidden', 'This key is for other pods.')
      return { pod: toPod(platform, mine), created: false }
    }
    if (caller.pods !== null)
      throw new PlatformError('forbidden', 'This key is for some pods only and cannot create others.')
    const environment = await findEnvironment(db, body.environment)
    await limitUse(
      db,
      `pods/${caller.agent}`,
      [
        { max: 10, seconds: 3600 },
        { max: 100, seconds: 86_400 },
      ],
      'Pods created by this agent',
    )
    try {
      const row = await db.transaction(async (tx) => {
        const [pod] = await tx.query<PodRow>(
          'insert into platform.pods (id, agent, name, environment) values ($1, $2, $3, $4) returning *',
          [newId(), caller.agent, body.name, environment.id],
        )
        if (!pod) throw new PlatformError('internal')
        await tx.query('insert into platform.stores (pod) values ($1)', [pod.id])
        return pod
      })
      await platform.fleet.settle()
      return { pod: toPod(platform, row), created: true }
    } catch (error) {
      if (!(error instanceof Taken)) throw error
      throw new PlatformError('name_taken', `The name ${body.name} is taken.`, {
        hint: `Choose another: tidepool deploy --name ${body.name}-${newId().slice(0, 4)}`,
      })
    }
  },
})

const list = endpoint({
  method: 'GET',
  path: '/api/pods',
  summary: 'The pods of this agent. With ?deleted=1, those that can be restored too.',
  access: 'read',
  query: z.object({ deleted: z.enum(['0', '1']).default('0') }),
  reply: z.object({ pods: z.array(Pod) }),
  errors: [],
  async handler({ platform, caller, query }) {
    const rows = await platform.db.query<PodRow>(
      `select * from platform.pods where agent = $1 and ($2::text[] is null or id = any ($2))
          and (status <> 'deleted' or ($3 and deleted_at > now() - make_interval(days => $4))) order by created_at, id`,
      [caller.agent, caller.pods, query.deleted === '1', restorableDays],
    )
    return { pods: rows.map((row) => toPod(platform, row)) }
  },
})

const get = endpoint({
  method: 'GET',
  path: '/api/pods/:pod',
  summary: 'A pod, its processes, and what it keeps.',
  access: 'read',
  reply: z.object({
    pod: Pod,
    replicas: z.array(ReplicaState),
    data: z.object({ dbBytes: z.int(), files: z.int(), fileBytes: z.int() }),
  }),
  errors: [],
  async handler({ platform, pod }) {
    const [data] = await platform.db.query<{ db_size: number; files: number; bytes: number }>(
      `select s.db_size, (select count(*) from platform.files where pod = $1) as files,
              (select coalesce(sum(size), 0) from platform.files where pod = $1) as bytes
         from platform.stores s where s.pod = $1`,
      [pod.id],
    )
    const replicas = platform.replicas
      .of(pod.id)
      .map(({ id, state, deployment, restarts, startedAt, inFlight, memory, cpu }) => ({
        id,
        state,
        deployment,
        restarts,
        startedAt: new Date(startedAt).toISOString(),
        inFlight,
        memoryBytes: memory ?? null,
        cpu: cpu ?? null,
      }))
    return {
      pod: toPod(platform, pod),
      replicas,
      data: { dbBytes: data?.db_size ?? 0, files: data?.files ?? 0, fileBytes: data?.bytes ?? 0 },
    }
  },
})

const patch = endpoint({
  method: 'PATCH',
  path: '/api/pods/:pod',
  summary: 'Change the number of processes (1 to 10), or the environment (with the next start).',
  access: 'manage',
  body: z.object({ replicas: z.int().min(1).max(10).optional(), environment: z.string().optional() }),
  reply: z.object({ pod: Pod }),
  errors: ['not_found'],
  async handler({ platform, pod, body }) {
    const environment =
      body.environment === undefined ? undefined : await findEnvironment(platform.db, body.environment)
    const [row] = await platform.db.query<PodRow>(
      'update platform.pods set replicas = coalesce($2, replicas), environment = coalesce($3, environment) where id = $1 returning *',
      [pod.id, body.replicas ?? null, environment?.id ?? null],
    )
    await platform.fleet.settle()
    return { pod: toPod(platform, row ?? pod) }
  },
})

/** Changes the status where it is one of `from`. */
async function become(platform: Platform, pod: PodRow, status: PodRow['status']): Promise<PodRow> {
  const [row] = await platform.db.query<PodRow>(
    `update platform.pods set status = $2, deleted_at = case when $2 = 'deleted' then now() end where id = $1 returning *`,
    [pod.id, status],
  )
  await platform.fleet.settle()
  return row ?? pod
}

/** Stops a pod's processes. @throws PlatformError `not_deployed` */
export async function killPod(platform: Platform, pod: PodRow) {
  if (pod.status === 'new') throw new PlatformError('not_deployed')
  return toPod(platform, await become(platform, pod, 'stopped'))
}

/** Starts a stopped pod. @throws PlatformError `not_deployed` */
export async function activatePod(platform: Platform, pod: PodRow) {
  if (!pod.deployment) throw new PlatformError('not_deployed')
  return toPod(platform, await become(platform, pod, 'running'))
}

const kill = endpoint({
  method: 'POST',
  path: '/api/pods/:pod/kill',
  summary: 'Stop all processes of the pod; its data stays.',
  access: 'manage',
  reply: z.object({ pod: Pod }),
  errors: ['not_deployed'],
  handler: async ({ platform, pod }) => ({ pod: await killPod(platform, pod) }),
})

const activate = endpoint({
  method: 'POST',
  path: '/api/pods/:pod/activate',
  summary: 'Start a stopped pod.',
  access: 'manage',
  reply: z.object({ pod: Pod }),
  errors: ['not_deployed'],
  handler: async ({ platform, pod }) => ({ pod: await activatePod(platform, pod) }),
})

const restart = endpoint({
  method: 'POST',
  path: '/api/pods/:pod/restart',
  summary: 'Replace the processes one after the other, without losing a request.',
  access: 'manage',
  reply: z.object({ pod: Pod }),
  errors: ['not_deployed'],
  async handler({ platform, pod }) {
    if (!pod.deployment || pod.status !== 'running') throw new PlatformError('not_deployed')
    await platform.replicas.restart(pod.id, pod.deployment)
    return { pod: toPod(platform, pod) }
  },
})

const remove = endpoint({
  method: 'DELETE',
  path: '/api/pods/:pod',
  summary: `Delete a pod. For ${restorableDays} days it can be restored with all it kept.`,
  access: 'manage',
  reply: z.object({ pod: Pod }),
  errors: [],
  async handler({ platform, pod }) {
    await platform.db.transaction((tx) =>
      takeSnapshot(tx, {
        pod: pod.id,
        reason: 'delete',
        deployment: pod.deployment,
        secretsVersion: pod.secrets_version,
        days: restorableDays,
      }),
    )
    return { pod: toPod(platform, await become(platform, pod, 'deleted')) }
  },
})

const restore = endpoint({
  method: 'POST',
  path: '/api/pods/:pod/restore',
  summary: 'Bring a deleted pod back.',
  access: 'manage',
  reply: z.object({ pod: Pod }),
  errors: ['not_found', 'name_taken'],
  async handler({ platform, pod }) {
    if (pod.status !== 'deleted') return { pod: toPod(platform, pod) }
    if ((pod.deleted_at?.getTime() ?? 0) < Date.now() - restorableDays * 86_400_000)
      throw new PlatformError('not_found', 'The time in which this pod could be restored is over.')
    try {
      return { pod: toPod(platform, await become(platform, pod, pod.deployment ? 'running' : 'new')) }
    } catch (error) {
      if (!(error instanceof Taken)) throw error
      throw new PlatformError('name_taken', `The name ${pod.name} was taken meanwhile.`)
    }
  },
})

export const podEndpoints = {
  createPod: create,
  listPods: list,
  getPod: get,
  changePod: patch,
  killPod: kill,
  activatePod: activate,
  restartPod: restart,
  deletePod: remove,
  restorePod: restore,
}

/** Pods whose time is over: everything of them goes. One that cannot go yet holds up no other. */
export async function sweepPods(platform: Platform): Promise<void> {
  const rows = await platform.db.query<{ id: string }>(
    `select id from platform.pods where status = 'deleted' and deleted_at < now() - make_interval(days => $1)
      order by random() limit 20`,
    [restorableDays],
  )
  const failures: unknown[] = []
  for (const { id } of rows) await purge(platform, id).catch((error: unknown) => failures.push(error))
  if (failures.length > 0) throw failures[0]
}

async function purge({ db, storage, logs, releases }: Platform, id: string): Promise<void> {
  await db.query('delete from platform.records where pod = $1', [id])
  await db.query('delete from platform.files where pod = $1', [id])
  await db.query('delete from platform.writes where pod = $1', [id])
  await storage.deletePrefix(`pods/${id}/`)
  await logs.remove(id)
  await releases.keep(id, [])
  await db.query('delete from platform.pods where id = $1', [id])
}

/** Makes `sweep`, which looks at one pod a call, in turn, and removes bytes that nothing of it names any more. */
export function createCollector({ db, files, uploads }: Platform): () => Promise<void> {
  let last = ''
  return async () => {
    const [pod] = await db.query<{ id: string }>('select id from platform.pods where id > $1 order by id limit 1', [
      last,
    ])
    last = pod?.id ?? ''
    if (!pod) return
    await files.collect(pod.id)
    const rows = await db.query<{ sha256: string }>(
      `select distinct f ->> 1 as sha256 from platform.deployments d cross join jsonb_array_elements(d.files) f
        where d.pod = $1 and (d.status in ('queued', 'running', 'live')
          or d.id in (select deployment from platform.snapshots where pod = $1)
          or d.number > (select max(number) - 20 from platform.deployments where pod = $1))`,
      [pod.id],
    )
    await uploads.collect(pod.id, new Set(rows.map(({ sha256 }) => sha256)))
  }
}
