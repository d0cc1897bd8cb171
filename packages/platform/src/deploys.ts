/**
 * Deployments: a version of a pod on its way to being live. Each is a run of the workflow `deploy` (deploy-run.ts):
 *
 *   queued ──▶ running ──▶ live ──the next one──▶ superseded
 *      └──────────┴──▶ failed, cancelled (what was live stays live)
 *
 * Invariants: at most one of a pod is queued or running; the row is written before its run is enqueued, and rows whose
 * run was never enqueued are found again (`sweep`), so none is lost between the two.
 */
import { newRunId } from '@tidebase/sdk'
import { z } from 'zod'
import type { Queryable } from './db.ts'
import { endpoint, IntParam, Time } from './endpoint.ts'
import { PlatformError } from './errors.ts'
import { newId } from './ids.ts'
import { limitUse } from './limits.ts'
import type { Platform } from './platform.ts'
import { type PodRow, podUrl } from './pods.ts'
import { changeSecrets, SecretsPatch } from './secrets.ts'
import { blobKey, checkSource, type SourceFile, sourceFile, sourceLimits } from './source.ts'
import { openEvents } from './sse.ts'

export const stepNames = ['unpack', 'install', 'boot', 'health', 'switch', 'drain'] as const
export type StepName = (typeof stepNames)[number]

export interface StepState {
  name: StepName
  status: 'running' | 'completed' | 'failed'
  startedAt: string
  endedAt: string | null
  detail: Record<string, unknown> | null
}

export interface DeploymentRow {
  id: string
  pod: string
  number: number
  status: 'queued' | 'running' | 'live' | 'superseded' | 'failed' | 'cancelled'
  files: SourceFile[]
  secrets_version: number
  rollback_of: string | null
  restores: string | null
  before: string | null
  message: string | null
  run: string
  steps: StepState[]
  error: Record<string, unknown> | null
  created_at: Date
  live_at: Date | null
  ended_at: Date | null
}

export const Deployment = z
  .object({
    id: z.string(),
    number: z.int(),
    status: z.enum(['queued', 'running', 'live', 'superseded', 'failed', 'cancelled']),
    steps: z.array(
      z.object({
        name: z.enum(stepNames),
        status: z.enum(['running', 'completed', 'failed']),
        startedAt: Time,
        endedAt: Time.nullable(),
        detail: z.record(z.string(), z.unknown()).nullable(),
      }),
    ),
    error: z.record(z.string(), z.unknown()).nullable().describe('error, code, hint, file, line'),
    files: z.int(),
    bytes: z.int(),
    secretsVersion: z.int(),
    rollbackOf: z.string().nullable(),
    message: z.string().nullable(),
    run: z.string(),
    url: z.string(),
    createdAt: Time,
    liveAt: Time.nullable(),
    endedAt: Time.nullable(),
  })
  .meta({ id: 'Deployment' })

export const isOver = ({ status }: { status: DeploymentRow['status'] }) => status !== 'queued' && status !== 'running'

/** How a deployment is told to be: live only when visitors get it, a moment after the switch is committed. */
export function statusOf(platform: Platform, pod: PodRow, row: Pick<DeploymentRow, 'id' | 'status'>) {
  const route = platform.fleet.route(pod.name)
  const switching = row.status === 'live' && route?.pod === pod.id && route.deployment !== row.id
  return switching ? 'running' : row.status
}

export function toDeployment(platform: Platform, pod: PodRow, row: DeploymentRow) {
  return {
    id: row.id,
    number: row.number,
    status: statusOf(platform, pod, row),
    steps: row.steps,
    error: row.error,
    files: row.files.length,
    bytes: row.files.reduce((sum, [, , size]) => sum + size, 0),
    secretsVersion: row.secrets_version,
    rollbackOf: row.rollback_of,
    message: row.message,
    run: row.run,
    url: podUrl(platform, pod.name),
    createdAt: row.created_at.toISOString(),
    liveAt: row.live_at?.toISOString() ?? null,
    endedAt: row.ended_at?.toISOString() ?? null,
  }
}

/** A deployment of a pod. @throws PlatformError `not_found` */
export async function findDeployment(db: Queryable, pod: string, id: string): Promise<DeploymentRow> {
  const [row] = await db.query<DeploymentRow>('select * from platform.deployments where pod = $1 and id = $2', [
    pod,
    id,
  ])
  if (!row) throw new PlatformError('not_found', `There is no deployment ${id.slice(0, 40)} of this pod.`)
  return row
}

interface NewDeployment {
  files: SourceFile[]
  secrets?: { set: Record<string, string>; unset: string[] }
  /** Of an earlier deployment, in place of the pod's current ones. */
  secretsVersion?: number
  rollbackOf?: string
  restores?: string
  before?: string | null
  message?: string | null
}

/** Makes the operations on deployments that other nouns use too. */
export function createDeploys(platform: Platform) {
  const { db, master } = platform

  async function enqueue({ id, pod, run }: Pick<DeploymentRow, 'id' | 'pod' | 'run'>): Promise<void> {
    await platform.tide.enqueue('deploy', {
      queue: 'deploys',
      id: run,
      input: { deployment: id, pod },
      metadata: { pod, deployment: id },
      maxAttempts: 10, // Some 20 minutes, as the run server spaces them.
    })
  }

  /**
   * Begins a deployment.
   * @throws PlatformError `deploy_running` unless the one under way is of the same files: then that one
   */
  async function begin(pod: PodRow, wanted: NewDeployment): Promise<DeploymentRow> {
    if (platform.driver.refusal) throw platform.driver.refusal
    const row = await db.transaction(async (tx) => {
      await tx.query('select 1 from platform.pods where id = $1 for update', [pod.id])
      const [running] = await tx.query<DeploymentRow>(
        "select * from platform.deployments where pod = $1 and status in ('queued', 'running')",
        [pod.id],
      )
      if (running) {
        if (
          !wanted.rollbackOf &&
          !running.rollback_of &&
          JSON.stringify(running.files) === JSON.stringify(wanted.files)
        )
          return running
        throw new PlatformError('deploy_running', `Deployment ${running.id} of this pod is under way.`, {
          hint: `Wait for it (GET /api/pods/${pod.id}/deployments/${running.id}), or cancel it (POST …/${running.id}/cancel).`,
          fields: { deployment: running.id },
        })
      }
      const version =
        wanted.secretsVersion ?? (await changeSecrets(tx, master, pod.id, wanted.secrets ?? { set: {}, unset: [] }))
      const [made] = await tx.query<DeploymentRow>(
        `insert into platform.deployments (id, pod, number, files, secrets_version, rollback_of, restores, before, message, run)
         select $1, $2, coalesce(max(number), 0) + 1, $3, $4, $5, $6, (select id from platform.snapshots where id = $7 and pod = $2), $8, $9 from platform.deployments where pod = $2
         returning *`,
        [
          newId(),
          pod.id,
          JSON.stringify(wanted.files),
          version,
          wanted.rollbackOf ?? null,
          wanted.restores ?? null,
          wanted.before ?? null,
          wanted.message ?? null,
          newRunId(),
        ],
      )
      if (!made) throw new PlatformError('internal')
      return made
    })
    await enqueue(row)
    platform.progress.tell(pod.id)
    return row
  }

  return {
    begin,
    /** Deploys the files of an earlier deployment once more, with the secrets as they are now. */
    async again(pod: PodRow, deployment: string, { message }: { message: string }): Promise<DeploymentRow> {
      const { files } = await findDeployment(db, pod.id, deployment)
      return begin(pod, { files, message, rollbackOf: deployment })
    },
    /** Enqueues what was written and never enqueued: a process died in between. */
    async sweep(): Promise<void> {
      const rows = await db.query<DeploymentRow>(
        "select * from platform.deployments where status = 'queued' and created_at < now() - interval '10 seconds'",
      )
      for (const row of rows) await enqueue(row)
    },
  }
}

export type Deploys = ReturnType<typeof createDeploys>

/** Bytes of sources that an agent may upload. */
const uploadLimit = { max: 4 * 1024 ** 3, seconds: 3600 }

const upload = endpoint({
  method: 'PUT',
  path: '/api/pods/:pod/source/:sha256',
  summary: 'Upload the content of one file, under the SHA-256 of its bytes in hex. Repeating it does no harm.',
  access: 'deploy',
  bytes: true,
  reply: z.object({ sha256: z.string(), size: z.int() }),
  errors: ['invalid', 'too_large', 'rate_limited'],
  async handler({ platform, pod, params, caller, req }) {
    const { sha256 = '' } = params
    if (!/^[0-9a-f]{64}$/.test(sha256)) throw new PlatformError('invalid', 'The name of an upload is 64 hex digits.')
    if (req.headers['content-encoding'])
      throw new PlatformError('invalid', 'Files are uploaded as they are, without content-encoding.')
    const length = Number(req.headers['content-length'])
    if (!Number.isInteger(length))
      throw new PlatformError('invalid', 'An upload says how many bytes it has: send content-length.')
    await limitUse(
      platform.db,
      `uploads/${caller.agent}`,
      [uploadLimit],
      'Bytes of sources uploaded by this agent',
      length,
    )
    const { size } = await platform.uploads.store(blobKey(pod.id, sha256), sha256, req, sourceLimits.fileBytes)
    return { sha256, size }
  },
})

const deploy = endpoint({
  method: 'POST',
  path: '/api/pods/:pod/deployments',
  summary:
    'Deploy a list of files [[path, sha256, bytes], …]. What the platform lacks is answered as `missing` (409): upload it and repeat.',
  access: 'deploy',
  body: z.object({
    files: z.array(sourceFile).min(1).max(sourceLimits.files),
    secrets: SecretsPatch.optional(),
    message: z.string().max(500).nullish(),
    before: z
      .string()
      .nullish()
      .describe('A snapshot that this push took before it replaced data: one undo takes back both'),
  }),
  reply: z.object({ deployment: Deployment }),
  errors: ['invalid', 'too_large', 'missing_files', 'deploy_running', 'no_sandbox', 'forbidden'],
  async handler({ platform, pod, caller, body }) {
    checkSource(body.files)
    if (body.secrets && caller.verbs && !caller.verbs.includes('secrets'))
      throw new PlatformError('forbidden', 'This key may deploy but not set secrets.')
    const missing = await platform.uploads.missing(pod.id, body.files)
    if (missing.length > 0)
      throw new PlatformError(
        'missing_files',
        `${missing.length} of ${body.files.length} files were not uploaded yet.`,
        {
          fields: { missing },
        },
      )
    const row = await platform.deploys.begin(pod, body)
    return { deployment: toDeployment(platform, pod, row) }
  },
})

const list = endpoint({
  method: 'GET',
  path: '/api/pods/:pod/deployments',
  summary: 'Deployments, newest first.',
  access: 'read',
  query: z.object({ limit: IntParam(1, 100).default(20) }),
  reply: z.object({ deployments: z.array(Deployment) }),
  errors: [],
  async handler({ platform, pod, query }) {
    const rows = await platform.db.query<DeploymentRow>(
      'select * from platform.deployments where pod = $1 order by number desc limit $2',
      [pod.id, query.limit],
    )
    return { deployments: rows.map((row) => toDeployment(platform, pod, row)) }
  },
})

const get = endpoint({
  method: 'GET',
  path: '/api/pods/:pod/deployments/:deployment',
  summary: 'A deployment and its steps.',
  access: 'read',
  reply: z.object({ deployment: Deployment }),
  errors: ['not_found'],
  handler: async ({ platform, pod, params }) => ({
    deployment: toDeployment(platform, pod, await findDeployment(platform.db, pod.id, params.deployment ?? '')),
  }),
})

const follow = endpoint({
  method: 'GET',
  path: '/api/pods/:pod/deployments/:deployment/events',
  summary: 'The deployment as it goes on: Server-Sent Events, each the whole deployment, until it is over.',
  access: 'read',
  reply: null,
  errors: ['not_found'],
  async handler({ platform, pod, params, res, signal }) {
    const id = params.deployment ?? ''
    const load = () => findDeployment(platform.db, pod.id, id)
    let row = await load()
    const events = openEvents(res, signal)
    let last = ''
    for (;;) {
      const shown = toDeployment(platform, pod, row)
      const text = JSON.stringify(shown)
      if (text !== last) events.send(text)
      last = text
      if (isOver(shown) || !(await platform.progress.changed(id, signal))) break
      row = await load()
    }
    events.end()
  },
})

const cancel = endpoint({
  method: 'POST',
  path: '/api/pods/:pod/deployments/:deployment/cancel',
  summary: 'Cancel a deployment under way; what is live stays live.',
  access: 'deploy',
  reply: z.object({ deployment: Deployment }),
  errors: ['not_found', 'conflict'],
  async handler({ platform, pod, params }) {
    const { db, tide, replicas, progress } = platform
    const { id, run } = await findDeployment(db, pod.id, params.deployment ?? '')
    const [row] = await db.query<DeploymentRow>(
      "update platform.deployments set status = 'cancelled', ended_at = now() where id = $1 and status in ('queued', 'running') returning *",
      [id],
    )
    if (!row) {
      const now = await findDeployment(db, pod.id, id)
      if (now.status === 'cancelled') return { deployment: toDeployment(platform, pod, now) }
      throw new PlatformError('conflict', `The deployment is ${now.status} already.`)
    }
    await tide.runs.cancel(run, { reason: 'cancelled by the agent' }).catch(() => undefined)
    void replicas.stop(pod.id, id, 0)
    progress.tell(id, pod.id)
    return { deployment: toDeployment(platform, pod, row) }
  },
})

const source = endpoint({
  method: 'GET',
  path: '/api/pods/:pod/source',
  summary: 'The files of what is live (or of ?deployment=): [[path, sha256, bytes], …].',
  access: 'read',
  query: z.object({ deployment: z.string().optional() }),
  reply: z.object({ deployment: z.string(), files: z.array(sourceFile) }),
  errors: ['not_deployed', 'not_found'],
  async handler({ platform, pod, query }) {
    const id = query.deployment ?? pod.deployment
    if (!id) throw new PlatformError('not_deployed')
    const { files } = await findDeployment(platform.db, pod.id, id)
    return { deployment: id, files }
  },
})

const content = endpoint({
  method: 'GET',
  path: '/api/pods/:pod/source/:sha256',
  summary: 'The content of one file, as bytes.',
  access: 'read',
  reply: null,
  errors: ['not_found'],
  async handler({ platform, pod, params, res }) {
    const { sha256 = '' } = params
    const found = /^[0-9a-f]{64}$/.test(sha256) ? await platform.storage.get(blobKey(pod.id, sha256)) : undefined
    if (!found) throw new PlatformError('not_found', 'There is no such file.')
    await platform.uploads.send(found, res)
  },
})

export const deployEndpoints = {
  uploadSource: upload,
  deploy,
  listDeployments: list,
  getDeployment: get,
  followDeployment: follow,
  cancelDeployment: cancel,
  getSource: source,
  getSourceFile: content,
}
