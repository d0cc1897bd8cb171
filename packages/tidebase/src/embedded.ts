// The embedded database: a real Postgres in the data folder, started with the server, watched, and stopped with it.
//
// Invariants:
// - One server per data folder (embedded/lock.ts); the lock is held before anything in the folder is touched, and
//   released after Postgres has ended.
// - The connection settings never change while the server runs, though Postgres may be killed and started again.
// - Nothing here keeps the process alive, and nothing is left running after stop().
//
//   startEmbedded ─► running ──(Postgres dies)──► restarting ─► running
//                       │                             └─(too often)─► given up: onGiveUp
//                       └────────── stop() ◄── from every state ──────┘

import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { findPackage } from './embedded/binaries.ts'
import { database, leaveSocketFolder, openFolder, prepareCluster, user } from './embedded/cluster.ts'
import { EmbeddedError, textOf } from './embedded/error.ts'
import { takeLock } from './embedded/lock.ts'
import { boundLog } from './embedded/log.ts'
import { type Cluster, endPostmaster, type Postmaster, startPostmaster } from './embedded/postmaster.ts'

export { EmbeddedError, type EmbeddedErrorCode } from './embedded/error.ts'

export interface EmbeddedOptions {
  /** The data folder, for example `./.tidebase`; made when it does not exist. */
  dataDir: string
  /** Told of what the person at the terminal may want to know. */
  log?: (message: string) => void
  /** Postgres settings that replace or extend ours. */
  settings?: Record<string, string>
  /** Waits before the attempts to start a Postgres that died, in milliseconds; after the last it is given up. */
  restartPauses?: number[]
  /** Called once when Postgres has died so often in a row that it is not started again. */
  onGiveUp?: (error: EmbeddedError) => void
}

export interface Embedded {
  /** For the driver: `host` is the folder of the unix socket. */
  connection: { host: string; port: number; user: string; database: string }
  /** Postgres's main process, at present. */
  pid(): number
  /** Ends Postgres (fast, then by force after 5 s) and frees the folder. Safe to call twice. */
  stop(): Promise<void>
}

/** 13 s in all. */
const defaultPauses = [0, 50, 100, 200, 400, 800, 1600, 2500, 3500, 4000]
/** A Postgres that lived this long has not died of what its predecessor died of (ms). */
const healthyAfter = 1000
const logCheckEvery = 60_000

/**
 * Starts Postgres in a data folder, as this process's own.
 * @param options where, and how
 * @returns the running database
 * @throws EmbeddedError `data_dir_in_use`, `embedded_unsupported`, `embedded_version`, `embedded_failed`
 */
export async function startEmbedded(options: EmbeddedOptions): Promise<Embedded> {
  const log = options.log ?? (() => {})
  const packageFolder = findPackage()
  const { folder, account } = await openFolder(options.dataDir)
  const lock = await takeLock(folder, account)
  try {
    const cluster = await prepareCluster(folder, account, packageFolder, options.settings ?? {}, log)
    await boundLog(cluster.logFile)
    const supervised = supervise(cluster, await startPostmaster(cluster), options)
    let stopped: Promise<void> | undefined
    return {
      connection: { host: cluster.socketDir, port: cluster.port, user, database },
      pid: supervised.pid,
      stop: () => {
        stopped ??= supervised
          .stop()
          .then(() => leaveSocketFolder(cluster))
          .finally(() => lock.release())
        return stopped
      },
    }
  } catch (error) {
    lock.release()
    if (error instanceof EmbeddedError) throw error
    throw new EmbeddedError(
      'embedded_failed',
      `The embedded database in ${folder} cannot be started: ${textOf(error)}`,
      'Choose another folder with --data DIR, or set DATABASE_URL to a Postgres of your own.',
      { cause: error },
    )
  }
}

/** Keeps Postgres running: starts it again when it dies, at once the first time, then ever more patiently. */
function supervise(
  cluster: Cluster,
  first: Postmaster,
  { restartPauses = defaultPauses, onGiveUp }: EmbeddedOptions,
): { pid: () => number; stop: () => Promise<void> } {
  const stopping = new AbortController()
  const stopRequested = once(stopping.signal, 'abort')
  let current = first
  let deaths = 0
  const timer = setInterval(() => {
    boundLog(cluster.logFile).catch((error: unknown) =>
      cluster.log(`postgres.log cannot be shortened: ${textOf(error)}`),
    )
  }, logCheckEvery)
  timer.unref()

  const keepRunning = async () => {
    for (;;) {
      const since = Date.now()
      const how = await Promise.race([current.exited, stopRequested])
      if (stopping.signal.aborted) return endPostmaster(cluster, current)
      if (Date.now() - since > healthyAfter) deaths = 0
      cluster.log(`Postgres (pid ${current.pid}) ended unexpectedly (${how}); starting it again`)
      const next = await startAgain()
      if (next === undefined) return endPostmaster(cluster, current)
      current = next
      cluster.log(`Postgres runs again (pid ${current.pid})`)
    }
  }

  const startAgain = async (): Promise<Postmaster | undefined> => {
    for (let last = ''; ; ) {
      const pause = restartPauses[deaths++]
      if (pause === undefined) {
        const message = `Postgres died ${deaths - 1} times in a row and is not started again. ${last}`.trim()
        const error = new EmbeddedError('embedded_failed', message, `See ${cluster.logFile}.`)
        cluster.log(message)
        onGiveUp?.(error)
        return undefined
      }
      try {
        await delay(pause, undefined, { signal: stopping.signal })
        return await startPostmaster(cluster, stopping.signal)
      } catch (error) {
        if (stopping.signal.aborted) return undefined
        last = textOf(error)
        cluster.log(last)
      }
    }
  }

  const running = keepRunning()
  return {
    pid: () => current.pid,
    stop: () => {
      clearInterval(timer)
      stopping.abort()
      return running
    },
  }
}
