/**
 * What should run on this machine, made to run: the live deployment of every running pod, and candidates of deployments
 * under way. `settle` compares and acts; it is called after every change and every few seconds, so whatever else
 * happened (a restart, another server's change) ends in the same state.
 */
import type { DeploymentRow } from './deploys.ts'
import { findEnvironment } from './environments.ts'
import { messageOf } from './errors.ts'
import { struck } from './logs.ts'
import type { Platform } from './platform.ts'
import { type PodRow, podUrl } from './pods.ts'
import type { GroupSpec } from './replicas.ts'
import { readSecrets } from './secrets.ts'

/** A pod as the gateway looks it up. */
export interface Route {
  pod: string
  name: string
  status: PodRow['status']
  deployment: string | null
}

/** Makes the fleet. */
export function createFleet(platform: () => Platform) {
  let routes = new Map<string, Route>()
  const candidates = new Set<string>()
  const preparing = new Set<string>()
  let running: Promise<void> = Promise.resolve()

  async function specOf(pod: PodRow, deployment: string): Promise<GroupSpec> {
    const { db, master, releases } = platform()
    const [row] = await db.query<DeploymentRow>('select * from platform.deployments where id = $1', [deployment])
    const environment = await findEnvironment(db, pod.environment)
    const secrets = await readSecrets(db, master, pod.id, row?.secrets_version ?? 0)
    return {
      pod: pod.id,
      deployment,
      token: master.podToken(pod.id, deployment),
      origin: podUrl(platform(), pod.name),
      aliases: [],
      release: releases.dir(pod.id, deployment),
      modules: await releases.modulesOf(pod.id, deployment),
      limits: environment,
      secrets: struck(Object.values(secrets)),
    }
  }

  /** Starts processes of a pod. What fails is the pod's own and told in its log: the others go on. */
  async function begin(pod: PodRow, work: () => Promise<void>): Promise<void> {
    await work().catch((error: unknown) => {
      const message = `The pod could not be started: ${messageOf(error)}`
      platform().logs.write(pod.id, { at: Date.now(), level: 'error', replica: 'platform', message })
    })
  }

  /** Has as many processes of a pod's live deployment as it should. */
  async function scale(pod: PodRow, deployment: string): Promise<void> {
    platform().replicas.ensure(await specOf(pod, deployment), pod.replicas)
  }

  /** Starts the live deployment of a pod, laying its release out again if this machine lacks it. */
  async function start(pod: PodRow, deployment: string): Promise<void> {
    const { db, releases } = platform()
    if (preparing.has(deployment)) return
    preparing.add(deployment)
    try {
      const [row] = await db.query<DeploymentRow>('select * from platform.deployments where id = $1', [deployment])
      if (!row) return
      await releases.prepare(pod.id, deployment, row.files)
      await scale(pod, deployment)
    } finally {
      preparing.delete(deployment)
    }
  }

  async function settleOnce(drain: boolean): Promise<void> {
    const { db, replicas } = platform()
    const pods = await db.query<PodRow>("select * from platform.pods where status <> 'deleted'")
    routes = new Map(pods.map(({ id, name, status, deployment }) => [name, { pod: id, name, status, deployment }]))
    const wanted = new Set<string>()
    for (const pod of pods) {
      if (pod.status !== 'running' || !pod.deployment) continue
      wanted.add(`${pod.id} ${pod.deployment}`)
      candidates.delete(pod.deployment)
      const group = replicas.groups().find((each) => each.pod === pod.id && each.deployment === pod.deployment)
      if (group?.desired === pod.replicas) continue
      const { deployment } = pod
      if (group) await begin(pod, () => scale(pod, deployment))
      else void begin(pod, () => start(pod, deployment))
    }
    if (!drain) return
    for (const { pod, deployment } of replicas.groups())
      if (!wanted.has(`${pod} ${deployment}`) && !candidates.has(deployment)) void replicas.stop(pod, deployment)
  }

  return {
    /** Where requests for a host name go. */
    route: (name: string): Route | undefined => routes.get(name),
    /** Makes what runs what should run. @param options.drain false: what is no longer wanted is left for the caller to end */
    settle({ drain = true }: { drain?: boolean } = {}): Promise<void> {
      running = running.catch(() => {}).then(() => settleOnce(drain))
      return running
    },
    /** Starts a deployment beside what is live. */
    async candidate(podId: string, deployment: string): Promise<void> {
      const { db, replicas } = platform()
      const [pod] = await db.query<PodRow>('select * from platform.pods where id = $1', [podId])
      if (!pod) return
      candidates.add(deployment)
      replicas.ensure(await specOf(pod, deployment), pod.replicas)
    },
    /** A deployment came to nothing. */
    dismiss: (deployment: string) => void candidates.delete(deployment),
  }
}

export type Fleet = ReturnType<typeof createFleet>
