/**
 * `tp.background`: work beside requests; once per deployment or every N seconds, on one replica at a time.
 *
 * How replicas agree, per task, by records in `tasks` with the backend's clock:
 *   once:<deployment>:<task>   set if absent before the only run; it stays
 *   tick:<task>                set if absent with a ttl just short of the interval: who sets it does this tick's run
 *   lease:<task>               held (ttl 30 s, renewed every 10 s) while a run goes on: no second run beside it, and
 *                              a replica that dies frees the task by itself
 */
import { randomBytes } from 'node:crypto'
import { messageOf, TpError } from './errors.ts'
import type { BackgroundTask, Pod } from './pod.ts'
import { inHandler } from './scope.ts'

const leaseMs = 30_000
const renewMs = 10_000

export interface BackgroundOptions {
  /** Every so many seconds; none, 0 or less: once per deployment. */
  seconds?: number
}

/** Registers a task, see `tp.background`. */
export function addBackground(pod: Pod, options: BackgroundOptions, run: () => unknown): void {
  const seconds = options.seconds ?? 0
  if (typeof run !== 'function') throw new TpError('bad_config', 'tp.background needs a function')
  if (!Number.isFinite(seconds)) throw new TpError('bad_config', 'The seconds of tp.background must be a number')
  pod.addTask({ name: run.name || `task ${pod.tasks.length + 1}`, seconds: Math.max(0, seconds), run })
}

/** Runs the pod's tasks from start to stop. */
export function backgroundFeature(pod: Pod): void {
  if (pod.tasks.length === 0) return
  const { backend, deployment, log } = pod.setup()
  const holder = randomBytes(8).toString('hex')
  const timers = new Set<NodeJS.Timeout>()
  let stopped = false

  /** @returns the version of the record that was made; undefined when somebody has it */
  async function claim(key: string, ttl?: number): Promise<number | undefined> {
    const outcome = await backend.write([{ op: 'set', space: 'tasks', key, value: holder, if: 'absent', ttl }])
    return outcome.ok ? outcome.results[0]?.version : undefined
  }

  async function runOnce(task: BackgroundTask, id: string): Promise<void> {
    const key = `lease:${id}`
    // The lease's version is its fencing token: who was held up for longer than the lease touches no other's.
    let version = await claim(key, leaseMs)
    if (version === undefined) return
    let renewal = Promise.resolve()
    const renewing = async () => {
      if (version === undefined) return
      const outcome = await backend.write([
        { op: 'set', space: 'tasks', key, value: holder, if: version, ttl: leaseMs },
      ])
      version = outcome.ok ? outcome.results[0]?.version : undefined
      if (!outcome.ok) log.warn(`Background task ${task.name} lost its lease: another replica may run it too`)
    }
    const renew = setInterval(() => {
      renewal = renewal.then(renewing).catch(() => undefined)
    }, renewMs)
    timers.add(renew)
    try {
      await inHandler(() => task.run())
    } catch (error) {
      const stack = error instanceof Error ? error.stack : undefined
      log.error(`Background task ${task.name}: ${messageOf(error)}`, { task: task.name, stack })
    } finally {
      clearInterval(renew)
      timers.delete(renew)
      await renewal
      if (!stopped && version !== undefined) await backend.write([{ op: 'delete', space: 'tasks', key, if: version }])
    }
  }

  async function tick(task: BackgroundTask, id: string): Promise<void> {
    // A little less than the interval, so that this replica's next tick never finds its own claim.
    if ((await claim(`tick:${id}`, task.seconds * 1000 * 0.9)) !== undefined) await runOnce(task, id)
  }

  function begin(task: BackgroundTask, at: number): void {
    const id = String(at)
    const report = (error: unknown) => {
      if (!stopped) log.error(`Background task ${task.name}: ${messageOf(error)}`, { task: task.name })
    }
    if (task.seconds === 0) {
      claim(`once:${deployment}:${id}`)
        .then((mine) => (mine === undefined ? undefined : runOnce(task, id)))
        .catch(report)
      return
    }
    let busy = false
    const step = () => {
      if (busy || stopped) return
      busy = true
      tick(task, id)
        .catch(report)
        .finally(() => {
          busy = false
        })
    }
    timers.add(setInterval(step, task.seconds * 1000))
    step()
  }

  pod.onStart(() => {
    for (const [at, task] of pod.tasks.entries()) begin(task, at)
  })
  pod.onStop(() => {
    stopped = true
    for (const timer of timers) clearInterval(timer)
  })
}
