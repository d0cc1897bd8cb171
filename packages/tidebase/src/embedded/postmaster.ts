// One life of Postgres's main process, the postmaster: starting it, waiting until it answers, ending it, and clearing
// away what an earlier one has left behind.
//
// Invariants:
// - Every process of ours carries the cluster's name on its command line (`cluster_name`), made from the folder's
//   device and inode. A pid found in a file is signalled only when its command line has that name.
// - The caller holds the lock on the data folder, so that nobody else of ours starts a postmaster meanwhile. Postgres
//   itself refuses a second one as long as any process of the first is attached to its shared memory.

import { type ChildProcess, spawn } from 'node:child_process'
import { chown, open, readFile, readlink, rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { type Account, plainEnvironment } from './account.ts'
import { EmbeddedError } from './error.ts'
import { inUse } from './lock.ts'
import { lastLines, logSize, wordsSince } from './log.ts'
import { commandLine, isAlive, signalProcess, titled, within } from './processes.ts'

/** What stays the same from one postmaster to the next. */
export interface Cluster {
  /** The data folder that the user named, for messages. */
  folder: string
  /** Real path of Postgres's data directory. */
  dir: string
  /** How Postgres reaches it: the same, or a way around parent folders that are closed to its user. */
  dirForPostgres: string
  /** Marks our processes. */
  name: string
  socketDir: string
  port: number
  logFile: string
  postgres: string
  account: Account | undefined
  settings: Record<string, string>
  log: (message: string) => void
}

export interface Postmaster {
  readonly pid: number
  /** Resolves with how it ended; never rejects. */
  readonly exited: Promise<string>
  signal(name: NodeJS.Signals): void
}

/** How long Postgres may take to write its data and end, before it is told to drop everything (ms). */
const shutdownMs = 5000
const shutdownSignals = ['SIGINT', 'SIGQUIT', 'SIGKILL'] as const
/** Orphans get SIGQUIT at once, SIGKILL after this (ms), and are given up on after `orphansLeaveMs`. */
const orphansQuitMs = 2000
const orphansLeaveMs = 30_000
/** What Postgres says when something of an earlier one is alive: its processes, or one that was just being started. */
const stillThere = /shared memory block .* is still in use|lock file "postmaster.pid" already exists/

/**
 * Starts Postgres and waits until it accepts connections, however long its recovery takes.
 * @param cluster the cluster; an earlier postmaster on it is ended first
 * @param signal aborts the wait, and ends what was started
 * @returns the running postmaster
 * @throws EmbeddedError `data_dir_in_use` when a Postgres that is not ours runs on the cluster, `embedded_failed`
 *   when Postgres ends before it is ready (with the last lines of its log)
 */
export async function startPostmaster(cluster: Cluster, signal?: AbortSignal): Promise<Postmaster> {
  const giveUpAt = Date.now() + orphansLeaveMs
  for (let pause = 20; ; pause = Math.min(2 * pause, 1000)) {
    await endEarlier(cluster)
    const log = await logSize(cluster.logFile)
    const { text: stale } = await readPidFile(cluster)
    const postmaster = await spawnPostmaster(cluster)
    const ended = await readyOrEnded(cluster, postmaster, stale, signal)
    if (ended === undefined) return postmaster
    const said = await wordsSince(cluster.logFile, log)
    if (!stillThere.test(said) || Date.now() > giveUpAt || signal?.aborted) {
      throw new EmbeddedError(
        'embedded_failed',
        `Postgres did not start on ${cluster.dir} (${ended}). Its last words:\n${lastLines(said)}`,
        `The whole log is in ${cluster.logFile}. To do without the embedded database, set DATABASE_URL.`,
      )
    }
    await endOrphans(cluster)
    await delay(pause)
  }
}

/**
 * Ends a postmaster: fast (connections are dropped, data is written), then at once (recovery at the next start).
 * Returns when no process of it is left.
 * @param cluster the cluster it runs on
 * @param postmaster one that `startPostmaster` returned; may have ended already
 */
export async function endPostmaster(cluster: Cluster, postmaster: Postmaster): Promise<void> {
  for (const name of shutdownSignals) {
    postmaster.signal(name)
    if (await within(postmaster.exited, shutdownMs)) break
  }
  await endOrphans(cluster)
}

async function spawnPostmaster(cluster: Cluster): Promise<Postmaster> {
  // Left by a killed postmaster, and made a trap by a recycled pid. The folder is ours alone, and nobody listens.
  const socket = join(cluster.socketDir, `.s.PGSQL.${cluster.port}`)
  await rm(socket, { force: true })
  await rm(`${socket}.lock`, { force: true })
  const forced = {
    port: String(cluster.port),
    listen_addresses: '',
    // A list, in which names are quoted as in SQL.
    unix_socket_directories: `"${cluster.socketDir.replaceAll('"', '""')}"`,
    unix_socket_permissions: '0700',
    cluster_name: cluster.name,
  }
  const settings = Object.entries({ ...cluster.settings, ...forced }).flatMap(([name, value]) => [
    '-c',
    `${name}=${value}`,
  ])
  const log = await open(cluster.logFile, 'a', 0o600)
  try {
    if (cluster.account) await chown(cluster.logFile, cluster.account.uid, cluster.account.gid)
    const child = spawn(cluster.postgres, ['-D', cluster.dirForPostgres, ...settings], {
      ...cluster.account,
      cwd: cluster.dir,
      env: plainEnvironment(),
      stdio: ['ignore', log.fd, log.fd],
      // A session of its own: Ctrl-C in a terminal must reach the server, which ends Postgres last.
      detached: true,
    })
    return await watch(child)
  } finally {
    await log.close()
  }
}

async function watch(child: ChildProcess): Promise<Postmaster> {
  const pid = child.pid
  if (pid === undefined) {
    const error = await new Promise<Error>((resolve) => child.once('error', resolve))
    throw new EmbeddedError(
      'embedded_failed',
      `Postgres cannot be started: ${error.message}`,
      'Set DATABASE_URL to a Postgres of your own.',
      { cause: error },
    )
  }
  child.on('error', () => {}) // a signal that could not be sent; who sends them sees that the process lives
  // When this process ends without stop() (an uncaught error), Postgres should not outlive it.
  const atExit = () => child.kill('SIGINT')
  process.on('exit', atExit)
  child.unref()
  const exited = new Promise<string>((resolve) => {
    child.once('exit', (code, signal) => {
      process.off('exit', atExit)
      resolve(signal ?? `exit code ${code}`)
    })
  })
  return { pid, exited, signal: (name) => void child.kill(name) }
}

/**
 * Undefined as soon as Postgres accepts connections; otherwise how it ended. `stale` is the pid file as it was before:
 * in a container the new postmaster often has the pid of the one that was killed.
 */
async function readyOrEnded(
  cluster: Cluster,
  postmaster: Postmaster,
  stale: string,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  let ended: string | undefined
  void postmaster.exited.then((how) => {
    ended = how
  })
  const began = Date.now()
  let nextNotice = 10_000
  while (ended === undefined) {
    const { pid, status, text } = await readPidFile(cluster)
    if (pid === postmaster.pid && status === 'ready' && text !== stale) return undefined
    if (signal?.aborted) await endPostmaster(cluster, postmaster)
    const waited = Date.now() - began
    if (waited > nextNotice) {
      cluster.log(`Postgres is still starting after ${Math.round(waited / 1000)} s (see ${cluster.logFile})`)
      nextNotice += 10_000
    }
    await within(postmaster.exited, waited < 1000 ? 5 : 50)
  }
  return ended
}

/** Clears the way: ends a postmaster of ours whose server was killed, removes a pid file that means somebody else. */
async function endEarlier(cluster: Cluster): Promise<void> {
  const { pid } = await readPidFile(cluster)
  if (pid === undefined) return
  const ours = async () => (await commandLine(pid)).includes(`cluster_name=${cluster.name}`)
  if (await ours()) {
    cluster.log(`ending the Postgres (pid ${pid}) of a server that was killed`)
    for (const name of shutdownSignals) {
      const deadline = Date.now() + shutdownMs
      signalProcess(pid, name)
      while (Date.now() < deadline) {
        if (!(await ours())) return
        await delay(10)
      }
    }
    throw new EmbeddedError(
      'embedded_failed',
      `The Postgres of an earlier server (pid ${pid}) does not end.`,
      `End it (kill -9 ${pid}), or choose another folder with --data DIR.`,
    )
  }
  if (await isForeignPostmaster(cluster, pid)) throw inUse(cluster.folder, pid)
  if (!isAlive(pid)) return // Postgres sees that itself, and uses what else is in the file to look for orphans.
  // The pid now belongs to some other program, which Postgres would take for a postmaster.
  await endOrphans(cluster)
  await rm(join(cluster.dir, 'postmaster.pid'), { force: true })
}

/** Ends processes whose postmaster was killed; they hold its shared memory. As a rule they end by themselves, at once. */
async function endOrphans(cluster: Cluster): Promise<void> {
  const began = Date.now()
  for (let told = false; Date.now() - began < orphansLeaveMs; told = true) {
    const orphans = await titled(`postgres: ${cluster.name}: `)
    if (orphans.length === 0) return
    if (!told) cluster.log('waiting for processes of an earlier Postgres to end')
    for (const pid of orphans) signalProcess(pid, Date.now() - began < orphansQuitMs ? 'SIGQUIT' : 'SIGKILL')
    await delay(20)
  }
}

/** Whether somebody has started a Postgres by hand on our cluster. */
async function isForeignPostmaster(cluster: Cluster, pid: number): Promise<boolean> {
  const command = await commandLine(pid)
  if (!/^(postgres|postmaster)$/.test(basename(command.split(' ')[0] ?? ''))) return false
  return command.includes(cluster.dir) || (await readlink(`/proc/${pid}/cwd`).catch(() => '')) === cluster.dir
}

/** Postgres writes its pid in line 1 and its state in line 8. */
async function readPidFile(
  cluster: Cluster,
): Promise<{ pid: number | undefined; status: string | undefined; text: string }> {
  const text = await readFile(join(cluster.dir, 'postmaster.pid'), 'utf8').catch(() => '')
  const lines = text.split('\n')
  const pid = Number.parseInt(lines[0] ?? '', 10)
  return { pid: pid > 0 ? pid : undefined, status: lines[7]?.trim(), text }
}
