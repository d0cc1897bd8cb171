/**
 * The processes of pods on this machine. A group is one deployment of a pod with its replicas:
 *
 *   starting ──ready──▶ healthy ──exit / no answer──▶ backing off ──▶ starting …
 *       └──failed──▶ (a group that was never ready gives up: that is a deployment that does not go live)
 *
 *   draining: gets no new requests; told to stop when its last request is answered, killed after its grace.
 *
 * Invariants: what is healthy answers (asked every few seconds; one whose event loop is blocked is killed); a replica
 * that dies is started again with backoff, which a minute of life takes back.
 */
import { alivePath, bundleOf, nodeArguments } from 'tidepool/kit'
import { ask } from './drivers/inside.ts'
import type { Driver, Job, Started } from './drivers/process.ts'
import { createMeter } from './drivers/use.ts'
import { messageOf, PlatformError } from './errors.ts'
import { failureOf } from './failures.ts'
import { newId } from './ids.ts'
import type { Logs } from './logs.ts'

/** What a deployment's processes are started with. */
export interface GroupSpec {
  pod: string
  deployment: string
  token: string
  /** The pod's address. */
  origin: string
  aliases: readonly string[]
  /** Folder of the release and, if it has packages, of those. */
  release: string
  modules: string | undefined
  limits: Job['limits']
  /** Texts that logs and errors must not contain. */
  secrets: readonly string[]
}

export interface Replica {
  id: string
  state: 'starting' | 'healthy' | 'backoff' | 'draining'
  /** Where it listens; set once it is ready. */
  socket: string
  restarts: number
  startedAt: number
  /** Requests of the gateway that it has not answered yet. */
  inFlight: number
  /** Bytes in use, and processor cores in use over the last seconds, where this machine tells. */
  memory?: number | undefined
  cpu?: number | undefined
}

interface Running extends Replica {
  group: Group
  process: Started | undefined
  timer: NodeJS.Timeout | undefined
  /** Consecutive deaths. */
  failures: number
  misses: number
  stopping: boolean
  meter: (cpuMs: number | undefined) => number | undefined
  ended: Promise<unknown>
}

interface Group {
  spec: GroupSpec
  desired: number
  replicas: Running[]
  wasReady: boolean
  failure: PlatformError | undefined
}

export interface ReplicasOptions {
  driver: Driver
  logs: Logs
  /** A replica became healthy or ceased to be. */
  onChange: (pod: string) => void
}

const bootMs = 30_000
const probeMs = 3_000
/** Probes that may fail in a row. */
const maxMisses = 3
const backoffMs = { first: 250, most: 30_000, forgetAfter: 60_000 }
/** After SIGTERM. */
const stopMs = 6_000
const socketName = 'pod.sock'

/** Makes the supervisor. */
export function createReplicas({ driver, logs, onChange }: ReplicasOptions) {
  const groups = new Map<string, Group>()
  const byId = new Map<string, Running>()
  const waiters = new Set<() => void>()
  let closed = false

  const keyOf = (pod: string, deployment: string) => `${pod} ${deployment}`
  const changed = (pod: string) => {
    for (const wake of waiters) wake()
    onChange(pod)
  }

  function say(group: Group, replica: string, level: 'info' | 'warn' | 'error', message: string): void {
    logs.write(group.spec.pod, { at: Date.now(), level, replica, message, deployment: group.spec.deployment })
  }

  function launch(replica: Running): void {
    const { spec } = replica.group
    const memory = Math.max(64, Math.trunc(spec.limits.memoryMb * 0.7))
    const source = { from: spec.release, to: '/app' }
    const app = driver.place(source)
    const binds = [source, ...(spec.modules ? [{ from: spec.modules, to: '/app/node_modules' }] : [])]
    replica.state = 'starting'
    replica.startedAt = Date.now()
    replica.misses = 0
    replica.meter = createMeter()
    try {
      replica.process = driver.start({
        id: replica.id,
        limits: spec.limits,
        binds,
        args: [`--max-old-space-size=${memory}`, ...nodeArguments(bundleOf(app))],
        workDir: app,
        env: {
          NODE_ENV: 'production',
          TIDEPOOL_MODE: 'production',
          TIDEPOOL_DIR: app,
          TIDEPOOL_LISTEN: `/tmp/${socketName}`,
          TIDEPOOL_URL: spec.origin,
          TIDEPOOL_ALIASES: spec.aliases.join(','),
          TIDEPOOL_DEPLOYMENT: spec.deployment,
          TIDEPOOL_TRUST_PROXY: '1',
          TIDEPOOL_TOKEN: spec.token,
          TIDEPOOL_REPLICA: replica.id,
        },
        onOutput: (stream) => logs.capture(spec.pod, replica.id, stream, () => spec.secrets),
      })
    } catch (error) {
      died(replica, `could not be started: ${messageOf(error)}`)
      return
    }
    replica.timer = setTimeout(() => {
      say(replica.group, replica.id, 'error', `did not start within ${bootMs / 1000} s`)
      fail(
        replica.group,
        new PlatformError('boot_failed', `The app did not start within ${bootMs / 1000} s.`, {
          hint: 'main.ts must come to its end: no endless loop, no await on something that never comes.',
        }),
      )
      replica.process?.kill('SIGKILL')
    }, bootMs)
    replica.ended = replica.process.ended.then(({ code, signal, outOfMemory }) => {
      const how = outOfMemory
        ? `used more than its ${spec.limits.memoryMb} MB of memory`
        : signal
          ? `was ended by ${signal}`
          : `ended with code ${code}`
      died(replica, how)
    })
  }

  function fail(group: Group, error: PlatformError): void {
    if (!group.wasReady) group.failure ??= error
    changed(group.spec.pod)
  }

  function died(replica: Running, how: string): void {
    clearTimeout(replica.timer)
    const { group } = replica
    replica.process = undefined
    const lived = Date.now() - replica.startedAt
    if (replica.stopping || closed) {
      group.replicas = group.replicas.filter((each) => each !== replica)
      byId.delete(replica.id)
      changed(group.spec.pod)
      return
    }
    replica.state = 'backoff'
    replica.failures = lived > backoffMs.forgetAfter ? 1 : replica.failures + 1
    const wait = Math.min(backoffMs.most, backoffMs.first * 2 ** (replica.failures - 1))
    if (!group.wasReady) {
      fail(group, new PlatformError('boot_failed', `The app's process ${how} before it was ready.`))
      return
    }
    replica.restarts += 1
    say(group, replica.id, 'error', `The process ${how}; it is started again in ${wait} ms.`)
    replica.timer = setTimeout(() => launch(replica), wait)
    changed(group.spec.pod)
  }

  function add(group: Group): void {
    const replica: Running = {
      id: newId(),
      state: 'starting',
      socket: '',
      restarts: 0,
      startedAt: Date.now(),
      inFlight: 0,
      memory: undefined,
      cpu: undefined,
      meter: createMeter(),
      group,
      process: undefined,
      timer: undefined,
      failures: 0,
      misses: 0,
      stopping: false,
      ended: Promise.resolve(),
    }
    group.replicas.push(replica)
    byId.set(replica.id, replica)
    launch(replica)
  }

  /** Lets a replica finish what it has and ends it. */
  async function drain(replica: Running, graceMs: number): Promise<void> {
    clearTimeout(replica.timer)
    const was = replica.state
    replica.state = 'draining'
    replica.stopping = true
    if (!replica.process) {
      replica.group.replicas = replica.group.replicas.filter((each) => each !== replica)
      byId.delete(replica.id)
      return
    }
    if (was === 'healthy') changed(replica.group.spec.pod)
    await until(() => replica.inFlight === 0 || closed, graceMs)
    replica.process?.kill('SIGTERM')
    const killer = setTimeout(() => replica.process?.kill('SIGKILL'), stopMs)
    await replica.ended
    clearTimeout(killer)
  }

  /** Waits until `holds`, looked at whenever something changed. @returns whether it came to hold */
  async function until(holds: () => boolean, ms: number): Promise<boolean> {
    const end = Date.now() + ms
    while (!holds()) {
      const left = end - Date.now()
      if (left <= 0) return false
      await new Promise<void>((resolve) => {
        const timer = setTimeout(done, Math.min(left, 100))
        function done() {
          clearTimeout(timer)
          waiters.delete(done)
          resolve()
        }
        waiters.add(done)
      })
    }
    return true
  }

  const probing = setInterval(() => {
    for (const replica of byId.values()) {
      const use = replica.process?.use()
      replica.memory = use?.memoryBytes
      replica.cpu = replica.meter(use?.cpuMs)
      if (replica.state !== 'healthy') continue
      ask(replica.socket, alivePath).then(
        () => {
          replica.misses = 0
        },
        () => {
          replica.misses += 1
          if (replica.misses < maxMisses || replica.state !== 'healthy') return
          say(
            replica.group,
            replica.id,
            'error',
            'The process does not answer: its event loop is blocked. It is ended.',
          )
          replica.process?.kill('SIGKILL')
        },
      )
    }
  }, probeMs)

  return {
    /** Makes a group have `count` replicas, starting the group if need be. */
    ensure(spec: GroupSpec, count: number): void {
      if (closed) return
      const key = keyOf(spec.pod, spec.deployment)
      let group = groups.get(key)
      if (!group) {
        group = { spec, desired: 0, replicas: [], wasReady: false, failure: undefined }
        groups.set(key, group)
      }
      group.desired = count
      const live = group.replicas.filter(({ stopping }) => !stopping)
      for (let at = live.length; at < count; at++) add(group)
      for (const replica of live.slice(count)) void drain(replica, 10_000)
    },
    /**
     * Resolves when all replicas of a group are healthy.
     * @throws PlatformError `boot_failed` with the pod's own error, file and line
     */
    async ready(pod: string, deployment: string, signal?: AbortSignal): Promise<void> {
      const key = keyOf(pod, deployment)
      const settled = () => {
        const group = groups.get(key)
        if (!group || group.failure || signal?.aborted) return true
        return group.replicas.filter(({ state }) => state === 'healthy').length >= group.desired
      }
      const came = await until(settled, bootMs + 5_000)
      signal?.throwIfAborted()
      const group = groups.get(key)
      if (!group) throw new PlatformError('unavailable', 'The processes of this deployment were stopped.')
      if (group.failure) throw group.failure
      if (!came) throw new PlatformError('boot_failed', `The app did not start within ${bootMs / 1000} s.`)
    },
    /** A process tells how it is. */
    report(pod: string, message: Record<string, unknown>): void {
      const replica = byId.get(String(message.replica))
      if (!replica || replica.group.spec.pod !== pod || replica.state !== 'starting') return
      if (message.type === 'failed') {
        const { text, place } = failureOf(message.error, replica.group.spec.secrets)
        say(replica.group, replica.id, 'error', `The app did not start: ${text}`)
        fail(replica.group, new PlatformError('boot_failed', text, place))
        return
      }
      if (message.type !== 'ready') return
      replica.process?.inside(socketName).then(
        (socket) => {
          if (replica.state !== 'starting') return
          clearTimeout(replica.timer)
          replica.socket = socket
          replica.state = 'healthy'
          if (replica.group.replicas.filter(({ state }) => state === 'healthy').length >= replica.group.desired)
            replica.group.wasReady = true
          changed(pod)
        },
        () => {},
      )
    },
    /** What a request may be given to. The array is the live list: do not keep it. */
    healthy(pod: string, deployment: string): Replica[] {
      const group = groups.get(keyOf(pod, deployment))
      return group ? group.replicas.filter(({ state }) => state === 'healthy') : []
    },
    /** Everything that runs for a pod. */
    of(pod: string): (Replica & { deployment: string })[] {
      return [...groups.values()]
        .filter(({ spec }) => spec.pod === pod)
        .flatMap(({ spec, replicas }) =>
          replicas.map(({ id, state, socket, restarts, startedAt, inFlight, process, memory, cpu }) => ({
            id,
            state,
            socket,
            restarts,
            startedAt,
            inFlight,
            deployment: spec.deployment,
            memory: process ? (memory ?? process.use().memoryBytes) : undefined,
            cpu: process && cpu,
          })),
        )
    },
    /** Deployments of a pod, or of all, that have processes. */
    groups: () =>
      [...groups.values()].map(({ spec, desired }) => ({ pod: spec.pod, deployment: spec.deployment, desired })),
    has: (pod: string, deployment: string) => groups.has(keyOf(pod, deployment)),
    /** Ends a group. @param graceMs how long its requests may take */
    async stop(pod: string, deployment: string, graceMs = 30_000): Promise<void> {
      const key = keyOf(pod, deployment)
      const group = groups.get(key)
      if (!group) return
      groups.delete(key)
      await Promise.all([...group.replicas].map((replica) => drain(replica, graceMs)))
    },
    /** Replaces the processes of a group one by one; each new one is up before an old one goes. */
    async restart(pod: string, deployment: string): Promise<void> {
      const group = groups.get(keyOf(pod, deployment))
      if (!group) return
      for (const old of [...group.replicas].filter(({ stopping }) => !stopping)) {
        const healthy = () => group.replicas.filter(({ state }) => state === 'healthy').length
        const before = healthy()
        add(group)
        await until(
          () => healthy() > before || group.replicas.some(({ state, failures }) => state === 'backoff' && failures > 2),
          bootMs,
        )
        await drain(old, 30_000)
      }
    },
    /** A request ended: somebody may wait for that. */
    released(): void {
      for (const wake of waiters) wake()
    },
    async close(): Promise<void> {
      closed = true
      clearInterval(probing)
      const all = [...byId.values()]
      groups.clear()
      await Promise.all(all.map((replica) => drain(replica, 0)))
    },
  }
}

export type Replicas = ReturnType<typeof createReplicas>
