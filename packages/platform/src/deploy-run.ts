/**
 * The run of a deployment: unpack → install → boot → health → switch → drain, each a step of Tidebase.
 *
 * Invariants
 * - Every step may be repeated and brings about the same: a platform that was killed in the middle goes on in the next
 *   process, where `health` first starts again what died with the last one.
 * - Nothing changes for visitors before `switch`, which is one transaction. What the pod's author can mend (a build
 *   error, a throw at the start) ends the deployment as failed; what only the platform can mend is tried again.
 */
import { RunCancelledError, type RunContext, TidebaseError } from '@tidebase/sdk'
import type { DeploymentRow, StepName, StepState } from './deploys.ts'
import { ask } from './drivers/inside.ts'
import { errorBody, messageOf, PlatformError } from './errors.ts'
import type { Platform } from './platform.ts'
import { type PodRow, podUrl } from './pods.ts'
import { restoreSnapshot, takeSnapshot } from './snapshots.ts'

/** Requests of the version that is replaced may take this long, ms. */
const drainMs = 30_000
const healthMs = 10_000

/** Failures that the pod's author mends. */
const final = new Set([
  'install_failed',
  'boot_failed',
  'unhealthy',
  'cancelled',
  'missing_files',
  'invalid',
  'not_found',
])
const isFinal = (error: unknown): error is PlatformError => error instanceof PlatformError && final.has(error.code)

/** What the pod said last of a failure, with the place in its source. */
async function lastError({ logs }: Platform, pod: string, replicas: readonly string[]) {
  const lines = await logs.tail(pod, { limit: 50 })
  const line = lines.reverse().find(({ level, replica }) => level === 'error' && replicas.includes(replica))
  if (!line) return {}
  const { message, file, line: number, column } = line
  return {
    message,
    file: typeof file === 'string' ? file : undefined,
    line: typeof number === 'number' ? number : undefined,
    column: typeof column === 'number' ? column : undefined,
  }
}

/** Whether the new processes answer: `/` must not be an error of theirs. */
async function checkHealth(platform: Platform, pod: PodRow, deployment: string): Promise<{ status: number }> {
  const host = new URL(podUrl(platform, pod.name)).host
  let status = 0
  for (const replica of platform.replicas.healthy(pod.id, deployment)) {
    const answer = await ask(
      replica.socket,
      '/',
      { host, accept: 'application/json', 'x-forwarded-for': '127.0.0.1' },
      healthMs,
    ).catch((error: unknown) => {
      throw new PlatformError('unhealthy', `The new version does not answer at /: ${messageOf(error)}.`)
    })
    status = answer.status
    if (status < 500) continue
    const { message, ...place } = await lastError(platform, pod.id, [replica.id])
    throw new PlatformError(
      'unhealthy',
      `The new version answers / with ${status}${message ? `: ${message}` : '.'}`,
      place,
    )
  }
  return { status }
}

/** Makes what is deployed live. */
async function goLive(platform: Platform, pod: PodRow, row: DeploymentRow): Promise<{ before: string | null }> {
  return platform.db.transaction(async (tx) => {
    const [now] = await tx.query<PodRow>('select * from platform.pods where id = $1 for update', [pod.id])
    if (!now || now.status === 'deleted') throw new PlatformError('cancelled', 'The pod was deleted meanwhile.')
    if (now.deployment === row.id) return { before: null }
    const [mine] = await tx.query(
      "update platform.deployments set status = 'live', live_at = now() where id = $1 and status = 'running' returning id",
      [row.id],
    )
    if (!mine) throw new PlatformError('cancelled')
    if (now.deployment) {
      const [old] = await tx.query<DeploymentRow>(
        "update platform.deployments set status = 'superseded' where id = $1 returning *",
        [now.deployment],
      )
      if (!row.before)
        await takeSnapshot(tx, {
          pod: pod.id,
          reason: row.restores ? 'undo' : 'deploy',
          deployment: now.deployment,
          secretsVersion: old?.secrets_version ?? now.secrets_version,
        })
    }
    if (row.restores) await restoreSnapshot(tx, pod.id, row.restores)
    await tx.query("update platform.pods set deployment = $2, status = 'running', secrets_version = $3 where id = $1", [
      pod.id,
      row.id,
      // What was set while this deployment was under way is newer than what it was made with.
      row.rollback_of ? row.secrets_version : Math.max(now.secrets_version, row.secrets_version),
    ])
    return { before: now.deployment }
  })
}

/** Executes a deployment; registered as the workflow `deploy`. */
export async function runDeploy(platform: Platform, run: RunContext, input: { deployment: string }): Promise<object> {
  const { db, replicas, releases, fleet, progress } = platform
  const id = input.deployment

  const [row] = await db.query<DeploymentRow>(
    "update platform.deployments set status = case when status = 'queued' then 'running' else status end where id = $1 returning *",
    [id],
  )
  const [pod] = await db.query<PodRow>('select * from platform.pods where id = $1', [row?.pod ?? ''])
  if (!row || !pod) return { status: 'gone' }
  if (row.status === 'cancelled' || row.status === 'failed') return { status: row.status }

  let steps = row.steps
  const podId = pod.id
  async function note(name: StepName, change: Partial<StepState>): Promise<void> {
    const known = steps.find((each) => each.name === name)
    const fresh: StepState = {
      name,
      status: 'running',
      startedAt: new Date().toISOString(),
      endedAt: null,
      detail: null,
    }
    const next = { ...(known ?? fresh), ...change }
    steps = known ? steps.map((each) => (each === known ? next : each)) : [...steps, next]
    await db.query('update platform.deployments set steps = $2 where id = $1', [id, JSON.stringify(steps)])
    progress.tell(id, podId)
  }

  async function step<T extends Record<string, unknown>>(
    name: StepName,
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    let failure: PlatformError | undefined
    try {
      return await run.step(name, async ({ signal }) => {
        await note(name, { status: 'running', endedAt: null })
        try {
          const detail = await work(signal)
          await note(name, { status: 'completed', endedAt: new Date().toISOString(), detail })
          return detail
        } catch (error) {
          if (isFinal(error)) {
            failure = error
            await note(name, { status: 'failed', endedAt: new Date().toISOString(), detail: { error: error.message } })
          } else if (!signal.aborted) {
            const detail = { error: 'The platform could not do this; it is tried again.' }
            await note(name, { detail }).catch(() => undefined)
          }
          throw error
        }
      })
    } catch (error) {
      throw failure ?? error
    }
  }

  const start = async () => {
    await releases.prepare(pod.id, id, row.files)
    await fleet.candidate(pod.id, id)
  }

  try {
    await step('unpack', () => releases.unpack(pod.id, id, row.files))
    await step('install', (signal) => releases.install(pod.id, id, signal))
    await step('boot', async (signal) => {
      await releases.build(pod.id, id, signal)
      await start()
      await replicas.ready(pod.id, id, signal)
      return { replicas: replicas.healthy(pod.id, id).length }
    })
    await step('health', async (signal) => {
      // They may have died with an earlier process of the platform.
      if (!replicas.has(pod.id, id)) await start()
      await replicas.ready(pod.id, id, signal)
      return checkHealth(platform, pod, id)
    })
    const { before } = await step('switch', async (signal) => {
      if (!replicas.has(pod.id, id)) await start()
      await replicas.ready(pod.id, id, signal)
      const result = await goLive(platform, pod, row)
      await fleet.settle({ drain: false })
      return result
    })
    await step('drain', async () => {
      if (before) await replicas.stop(pod.id, before, drainMs)
      await fleet.settle()
      await tidy(platform, pod.id)
      return {}
    })
    await end(platform, id, pod.id)
    return { status: 'live' }
  } catch (error) {
    const cancelled =
      error instanceof RunCancelledError || (error instanceof PlatformError && error.code === 'cancelled')
    if (!isFinal(error) && !cancelled) throw error
    const body = cancelled ? null : errorBody(error).body
    await comeToNothing(platform, row, body)
    if (cancelled) throw error
    return { status: 'failed', error: body }
  }
}

/** Ends a deployment that is not to be: as failed with an error, else as cancelled. */
async function comeToNothing(
  { db, fleet, replicas, progress }: Platform,
  { id, pod }: Pick<DeploymentRow, 'id' | 'pod'>,
  error: object | null,
): Promise<void> {
  await db.query(
    `update platform.deployments set status = $2, error = $3, ended_at = coalesce(ended_at, now())
      where id = $1 and status in ('queued', 'running')`,
    [id, error ? 'failed' : 'cancelled', error && JSON.stringify(error)],
  )
  fleet.dismiss(id)
  await replicas.stop(pod, id, 0)
  progress.tell(id, pod)
}

/** Ends the deployments whose runs have used up their attempts, so that the next one of their pods may begin. */
export async function endGivenUp(platform: Platform): Promise<void> {
  const { db, tide, log } = platform
  const rows = await db.query<DeploymentRow>(
    "select * from platform.deployments where status = 'running' and created_at < now() - interval '1 minute'",
  )
  for (const row of rows) {
    const run = await tide.runs.get(row.run, { include: ['run'] }).then(
      (found) => found.run,
      (error: unknown) => {
        // It failed so long ago that it is deleted.
        if (error instanceof TidebaseError && error.code === 'run_not_found') return undefined
        throw error
      },
    )
    if (run && run.status !== 'failed') continue
    log.error({ run: row.run, err: run?.error }, `the deployment ${row.id} was given up`)
    const given = new PlatformError(
      'internal',
      'The platform could not finish this deployment, however often it tried.',
      {
        hint: `Deploy again; if it stays, the operator finds the reason in the run ${row.run}.`,
      },
    )
    await comeToNothing(platform, row, errorBody(given).body)
  }
}

async function end({ db, progress }: Platform, id: string, pod: string): Promise<void> {
  await db.query('update platform.deployments set ended_at = coalesce(ended_at, now()) where id = $1', [id])
  progress.tell(id, pod)
}

/** Keeps on disk what is live, what is coming, and the one before, which a rollback most often wants. */
async function tidy({ db, releases }: Platform, pod: string): Promise<void> {
  const rows = await db.query<{ id: string }>(
    `select id from platform.deployments where pod = $1 and (status in ('queued', 'running', 'live')
        or id in (select id from platform.deployments where pod = $1 and live_at is not null order by number desc limit 3))`,
    [pod],
  )
  await releases.keep(
    pod,
    rows.map(({ id }) => id),
  )
}
