/**
 * The way back: `rollback` to the code and secrets of an earlier deployment, `undo` of the last change with its data.
 * Both are deployments of files that are there already.
 */
import { z } from 'zod'
import { Deployment, type DeploymentRow, findDeployment, toDeployment } from './deploys.ts'
import { endpoint } from './endpoint.ts'
import { PlatformError } from './errors.ts'
import { restoreSnapshot, type Snapshot, takeSnapshot } from './snapshots.ts'

const rollback = endpoint({
  method: 'POST',
  path: '/api/pods/:pod/rollback',
  summary:
    'Bring back the code and secrets of an earlier deployment (the one before, unless given); data stays as it is.',
  access: 'deploy',
  body: z.object({ deployment: z.string().nullish() }),
  reply: z.object({ deployment: Deployment }),
  errors: ['not_found', 'not_deployed', 'deploy_running'],
  async handler({ platform, pod, body }) {
    const [row] = await platform.db.query<DeploymentRow>(
      `select * from platform.deployments where pod = $1 and live_at is not null and id <> $2
          and ($3::text is null or id = $3 or number::text = $3)
          and number > (select max(number) - 10 from platform.deployments where pod = $1 and live_at is not null)
          and ($3::text is not null or number < (select number from platform.deployments where id = $2))
        order by number desc limit 1`,
      [pod.id, pod.deployment ?? '', body.deployment ?? null],
    )
    if (!row)
      throw new PlatformError(
        body.deployment ? 'not_found' : 'not_deployed',
        body.deployment
          ? `There is no deployment ${body.deployment} to go back to.`
          : 'There is no earlier deployment to go back to.',
      )
    const made = await platform.deploys.begin(pod, {
      files: row.files,
      secretsVersion: row.secrets_version,
      rollbackOf: row.id,
      message: `back to ${row.id} (#${row.number})`,
    })
    return { deployment: toDeployment(platform, pod, made) }
  },
})

const undo = endpoint({
  method: 'POST',
  path: '/api/pods/:pod/undo',
  summary:
    'Undo the last deployment, replacement of the database or sync: code, secrets and data are as before it. Undoing twice is redoing.',
  access: 'manage',
  reply: z.object({ undone: z.string(), deployment: Deployment.nullable() }),
  errors: ['nothing_to_undo', 'deploy_running'],
  async handler({ platform, pod }) {
    const { db } = platform
    const [snapshot] = await db.query<Snapshot>(
      "select * from platform.snapshots where pod = $1 and reason <> 'delete' order by created_at desc limit 1",
      [pod.id],
    )
    if (!snapshot?.deployment) throw new PlatformError('nothing_to_undo')
    const { files } = await findDeployment(db, pod.id, snapshot.deployment)
    const live = pod.deployment ? await findDeployment(db, pod.id, pod.deployment) : undefined
    if (live && snapshot.deployment === live.id && snapshot.secrets_version === live.secrets_version) {
      await db.transaction(async (tx) => {
        await takeSnapshot(tx, {
          pod: pod.id,
          reason: 'undo',
          deployment: live.id,
          secretsVersion: live.secrets_version,
        })
        await restoreSnapshot(tx, pod.id, snapshot.id)
      })
      return { undone: snapshot.reason, deployment: null }
    }
    const made = await platform.deploys.begin(pod, {
      files,
      secretsVersion: snapshot.secrets_version,
      rollbackOf: snapshot.deployment,
      restores: snapshot.id,
      message: `undo ${snapshot.reason}`,
    })
    return { undone: snapshot.reason, deployment: toDeployment(platform, pod, made) }
  },
})

export const rollbackEndpoints = { rollback, undo }
