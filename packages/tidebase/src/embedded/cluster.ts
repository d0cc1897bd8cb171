// A cluster (Postgres's word for a data directory) in a data folder: its place, its user, its first making.
//
// <data>/postgres/         the cluster; complete or absent, whatever was killed while it was made
// <data>/postgres.new-*/   one in the making
// <data>/postgres.log      see log.ts
// <data>/socket/           where it listens (elsewhere when the path is too long or closed to Postgres's user)
// <data>/lock/             see lock.ts
// <data>/binaries/         a copy of the programs, when the package's cannot be used in place

import { createHash, randomBytes } from 'node:crypto'
import {
  chmod,
  chown,
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  rmdir,
  stat,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { type Account, accountFor, canEnter, giveTree, makePrivate, run } from './account.ts'
import { prepareBinaries } from './binaries.ts'
import { EmbeddedError, errnoOf, textOf } from './error.ts'
import { maxSocketPath } from './lock.ts'
import type { Cluster } from './postmaster.ts'

export const user = 'postgres'
export const database = 'postgres'
const port = 5432

/** For a small machine with one product on it. Overridden by `startEmbedded({ settings })`. */
const settings: Record<string, string> = {
  max_connections: '60',
  shared_buffers: '128MB',
  // Durable, and said so: an acknowledged commit survives a power cut.
  fsync: 'on',
  synchronous_commit: 'on',
  full_page_writes: 'on',
  // Checkpoints are spaced by time under normal load; a crash recovers at most this much.
  max_wal_size: '1GB',
  min_wal_size: '256MB',
  checkpoint_timeout: '15min',
  // Short statements: compiling them, or sharing them among processes, costs more than it saves.
  jit: 'off',
  max_parallel_workers_per_gather: '0',
  random_page_cost: '1.1',
  // In containers huge pages may be offered and then fail.
  huge_pages: 'off',
  log_checkpoints: 'off',
  timezone: 'UTC',
  log_timezone: 'UTC',
}

/**
 * Makes sure that the data folder exists.
 * @param dataDir a path, may be relative
 * @returns its real path, and who its contents belong to (undefined: us)
 * @throws EmbeddedError `embedded_failed` when it cannot be made
 */
export async function openFolder(dataDir: string): Promise<{ folder: string; account: Account | undefined }> {
  const folder = resolve(dataDir)
  try {
    const account = await accountFor(join(folder, 'postgres'))
    if (!(await stat(folder).catch(() => undefined))?.isDirectory()) {
      await mkdir(dirname(folder), { recursive: true })
      await makePrivate(folder, account)
    }
    return { folder: await realpath(folder), account }
  } catch (error) {
    throw new EmbeddedError(
      'embedded_failed',
      `The data folder ${folder} cannot be used: ${textOf(error)}`,
      'Choose a folder that this user may write with --data DIR, or set DATABASE_URL.',
      { cause: error },
    )
  }
}

/**
 * Brings a data folder into a state in which Postgres can be started on it; makes the cluster when there is none.
 * @param folder what `openFolder` returned, and the caller has locked
 * @param account who Postgres runs as
 * @param packageFolder the npm package with Postgres
 * @param overrides Postgres settings that replace or extend ours
 * @param log told of what takes time
 * @returns what `startPostmaster` needs
 * @throws EmbeddedError `embedded_version`, `embedded_unsupported`, `embedded_failed`
 */
export async function prepareCluster(
  folder: string,
  account: Account | undefined,
  packageFolder: string,
  overrides: Record<string, string>,
  log: (message: string) => void,
): Promise<Cluster> {
  const dir = join(folder, 'postgres')
  const enterable = await canEnter(folder, account)
  if (!enterable && process.platform !== 'linux') throw closed(folder, account)
  // Linux keeps a process's working directory reachable under this name, whatever is closed above it; and it is
  // entered with our rights, before Postgres takes those of its own user.
  const seenByPostgres = (path: string) => (enterable ? path : '/proc/self/cwd')
  const caches = [...(enterable ? [join(folder, 'binaries')] : []), ...(account ? ['/var/cache/tidebase'] : [])]
  const binaries = await prepareBinaries(packageFolder, account, caches)
  await removeUnfinished(folder)
  if ((await clusterVersion(dir)) === undefined) {
    const began = Date.now()
    await makeCluster(folder, dir, (fresh) => initdb(binaries.initdb, fresh, seenByPostgres(fresh), account), account)
    log(`made a new database in ${dir} in ${Date.now() - began} ms`)
  }
  const version = await clusterVersion(dir)
  if (version !== binaries.major) throw wrongVersion(dir, version, binaries.major)
  const { dev, ino, uid } = await stat(dir)
  if (account && uid === 0) await giveTree(dir, account) // restored from a backup by root
  return {
    folder,
    dir: await realpath(dir),
    dirForPostgres: seenByPostgres(dir),
    name: `tidebase-${digest(`${dev}:${ino}`)}`,
    socketDir: await socketFolder(folder, account, enterable),
    port,
    logFile: join(folder, 'postgres.log'),
    postgres: binaries.postgres,
    account,
    settings: { ...settings, ...overrides },
    log,
  }
}

/**
 * Removes the socket's folder when it is not in the data folder, after Postgres has ended.
 * @param cluster whose socket
 */
export async function leaveSocketFolder(cluster: Cluster): Promise<void> {
  if (dirname(cluster.socketDir) !== cluster.folder) await rmdir(cluster.socketDir).catch(() => {})
}

async function clusterVersion(dir: string): Promise<string | undefined> {
  try {
    return (await readFile(join(dir, 'PG_VERSION'), 'utf8')).trim()
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined
    throw error
  }
}

/** Removes what killed servers have left; an initdb that outlived its server still writes, and goes the next time. */
async function removeUnfinished(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (name.startsWith('postgres.new-')) await rm(join(folder, name), { recursive: true }).catch(() => {})
  }
}

/** Fills a folder of another name, and gives it its name when it is complete and on disk. */
async function makeCluster(
  folder: string,
  dir: string,
  fill: (fresh: string) => Promise<void>,
  account: Account | undefined,
): Promise<void> {
  if ((await readdir(dir).catch(() => [])).length > 0) {
    throw new EmbeddedError(
      'embedded_failed',
      `${dir} holds files, but no database.`,
      'Move that folder away, choose another with --data DIR, or set DATABASE_URL.',
    )
  }
  const fresh = join(folder, `postgres.new-${randomBytes(4).toString('hex')}`)
  try {
    await makePrivate(fresh, account)
    await fill(fresh)
    await rename(fresh, dir)
    await syncFolder(folder)
    await syncFolder(dirname(folder)).catch(() => {}) // one that we may enter, but not read
  } catch (error) {
    await rm(fresh, { recursive: true, force: true })
    if (error instanceof EmbeddedError) throw error
    throw new EmbeddedError(
      'embedded_failed',
      `The database could not be made in ${dir}:\n${textOf(error)}`,
      'Choose another folder with --data DIR, or set DATABASE_URL.',
      { cause: error },
    )
  }
}

async function initdb(program: string, dir: string, seen: string, account: Account | undefined): Promise<void> {
  const args = ['-D', seen, '--username', user, '--auth', 'trust', '--encoding', 'UTF8', '--locale', 'C']
  const done = await run(program, [...args, '--set', 'huge_pages=off', '--no-instructions'], { account, cwd: dir })
  if (done.code === 0) return
  if (!done.output.includes('could not look up effective user')) throw new Error(done.output)
  throw new EmbeddedError(
    'embedded_failed',
    `The database could not be made in ${dir}:\n${done.output}`,
    'Postgres needs a user with a name. In a container run as one that /etc/passwd knows (node, nobody), or as root.',
  )
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder)
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** The folder of the unix socket: in the data folder, or where its path is short and open to Postgres's user. */
async function socketFolder(folder: string, account: Account | undefined, enterable: boolean): Promise<string> {
  let path = join(folder, 'socket')
  if (!enterable || Buffer.byteLength(join(path, `.s.PGSQL.${port}`)) > maxSocketPath) {
    path = join((await canEnter(tmpdir(), account)) ? tmpdir() : '/tmp', `tidebase-${digest(folder)}`)
  }
  await makePrivate(path, account)
  // Everybody can make folders in /tmp: one that somebody else made first must not get our socket.
  const { uid } = await lstat(path)
  if (uid !== process.getuid?.() && uid !== account?.uid) throw notOurs(path)
  if (account) await chown(path, account.uid, account.gid)
  await chmod(path, 0o700)
  return path
}

function closed(folder: string, account: Account | undefined): EmbeddedError {
  return new EmbeddedError(
    'embedded_failed',
    `Postgres cannot run as root, and user ${account?.uid}, as whom it would run, cannot enter ${folder}.`,
    'Start Tidebase as a normal user, or choose a folder that everybody can enter with --data DIR.',
  )
}

function notOurs(path: string): EmbeddedError {
  return new EmbeddedError(
    'embedded_failed',
    `The folder ${path}, meant for the database's socket, belongs to another user.`,
    'Remove it, set TMPDIR to a folder of your own, or choose a data folder with a shorter path (--data DIR).',
  )
}

function wrongVersion(dir: string, found: string | undefined, major: string): EmbeddedError {
  return new EmbeddedError(
    'embedded_version',
    `The database in ${dir} was made by Postgres ${found ?? '?'}; this Tidebase brings Postgres ${major}.`,
    `Start it with the Tidebase that made it and move its data with pg_dump, or run your own Postgres ${found ?? ''} on it and set DATABASE_URL. An empty folder (--data DIR) starts afresh.`,
  )
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 16)
}
