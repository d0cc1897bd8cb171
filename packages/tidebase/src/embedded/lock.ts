// The lock on a data folder: one server at a time, freed by the kernel when its holder dies, however it dies.
//
// `<data>/lock/` holds unix sockets named 1, 2, 3 … The socket with the highest number is the lock: when somebody
// listens on it the folder is taken, when connecting is refused its holder is dead. A pid file could be fooled by a
// recycled pid; a listening socket cannot.
//
// Invariants, which make it safe when several processes find the lock stale at once:
// - A number appears together with its live listener: the socket listens under a private name first, and link(2)
//   gives it its number. link fails when the number exists, so of two that saw the same stale lock one gets it.
// - A number is never freed or used again while it is the highest. Therefore release leaves its dead socket behind,
//   and only a newer holder removes older numbers.
// - Who has linked looks again, and steps back when there is a higher number (its first look was outdated).
//
// It holds between containers that share the folder on one machine. It does not hold between machines.

import { randomBytes } from 'node:crypto'
import { link, mkdtemp, readdir, rm, stat, symlink, unlink } from 'node:fs/promises'
import { connect, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Account, makePrivate } from './account.ts'
import { EmbeddedError, errnoOf, textOf } from './error.ts'

/** Longest path a unix socket may have everywhere: macOS has 104 bytes with the closing zero, Linux 108. */
export const maxSocketPath = 103

const answerTimeoutMs = 500
const abandonedAfterMs = 60_000

export interface FolderLock {
  /** Frees the folder; safe to call twice. */
  release(): void
}

/**
 * Takes the lock of a data folder, or refuses at once.
 * @param folder an existing data folder
 * @param account whom the lock's folder belongs to; undefined is us
 * @returns the lock, held until `release()` or the death of this process
 * @throws EmbeddedError `data_dir_in_use` when another process (or this one) holds it,
 *   `embedded_failed` when the file system has no unix sockets or hard links
 */
export async function takeLock(folder: string, account: Account | undefined): Promise<FolderLock> {
  const lockFolder = join(folder, 'lock')
  const own = `${process.pid}-${randomBytes(6).toString('hex')}.new`
  const server = createServer((socket) => {
    socket.on('error', () => {})
    socket.end(`${process.pid}\n`)
  })
  try {
    await makePrivate(lockFolder, account)
    await withShortPath(lockFolder, own, (path) => listen(server, path))
    server.unref()
    for (;;) {
      const newest = await highest(lockFolder)
      const holder = newest > 0 ? await holderOf(lockFolder, newest) : undefined
      if (holder) throw inUse(folder, holder.pid)
      const mine = newest + 1
      try {
        await link(join(lockFolder, own), join(lockFolder, String(mine)))
      } catch (error) {
        if (errnoOf(error) === 'EEXIST') continue
        throw error
      }
      if ((await highest(lockFolder)) === mine) {
        await removeOlder(lockFolder, mine, own)
        return { release: () => server.close() }
      }
      await rm(join(lockFolder, String(mine)), { force: true })
    }
  } catch (error) {
    server.close()
    await rm(join(lockFolder, own), { force: true }).catch(() => {})
    if (error instanceof EmbeddedError) throw error
    throw new EmbeddedError(
      'embedded_failed',
      `The data folder ${folder} cannot be locked: ${textOf(error)}`,
      'It must be a folder that this user may write, on a local disk. Choose another with --data DIR, or set DATABASE_URL.',
      { cause: error },
    )
  }
}

/**
 * The refusal of a data folder that somebody else uses.
 * @param folder the data folder
 * @param pid who uses it, when known
 * @returns the error, to be thrown
 */
export function inUse(folder: string, pid: number | undefined): EmbeddedError {
  const who = pid === undefined ? 'another process' : `process ${pid}${pid === process.pid ? ' (this one)' : ''}`
  return new EmbeddedError(
    'data_dir_in_use',
    `The data folder ${folder} is in use by ${who}.`,
    `Stop the server that runs there, or give this one another folder with --data DIR or a database with DATABASE_URL.`,
  )
}

/**
 * Runs something with a path to `folder/name` that a unix socket can have, by way of a short-lived symbolic link when
 * the real path is too long. The socket itself lies in `folder` in any case.
 */
async function withShortPath<T>(folder: string, name: string, use: (path: string) => Promise<T>): Promise<T> {
  const path = join(folder, name)
  if (Buffer.byteLength(path) <= maxSocketPath) return use(path)
  const alias = await mkdtemp(join(tmpdir(), 'tidebase-'))
  try {
    await symlink(folder, join(alias, 'd'))
    return await use(join(alias, 'd', name))
  } finally {
    await rm(alias, { recursive: true, force: true })
  }
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    // Any user who can enter the private folder may ask, so that root and the folder's owner see each other's lock.
    server.listen({ path, readableAll: true, writableAll: true }, () => {
      server.off('error', reject)
      // A failed accept (too many open files) must not take the server down: the caller is answered by the backlog.
      server.on('error', () => {})
      resolve()
    })
  })
}

async function highest(lockFolder: string): Promise<number> {
  const numbers = (await readdir(lockFolder)).filter((name) => /^\d+$/.test(name)).map(Number)
  return Math.max(0, ...numbers)
}

/** Who listens on a numbered socket: undefined when nobody does; no pid when its process is too busy to answer. */
async function holderOf(lockFolder: string, number: number): Promise<{ pid: number | undefined } | undefined> {
  // A holder that dies between connecting and answering hangs up: the next attempt is refused. A few attempts do.
  for (let attempt = 0; attempt < 5; attempt++) {
    const answer = await withShortPath(lockFolder, String(number), ask)
    if (answer === 'nobody') return undefined
    if (answer !== 'hung up') return { pid: answer }
  }
  return { pid: undefined }
}

function ask(path: string): Promise<number | undefined | 'nobody' | 'hung up'> {
  return new Promise((resolve, reject) => {
    let heard = ''
    const socket = connect(path)
    const settle = (answer: number | undefined | 'nobody' | 'hung up') => {
      socket.destroy()
      resolve(answer)
    }
    socket.setTimeout(answerTimeoutMs, () => settle(undefined))
    socket.on('data', (chunk) => {
      heard += chunk.toString()
      if (heard.endsWith('\n')) settle(Number(heard))
    })
    socket.on('close', () => settle('hung up'))
    socket.on('error', (error) => {
      const code = errnoOf(error)
      // ENOENT: a newer holder has just tidied up; the caller's link or second look will notice it.
      if (code === 'ECONNREFUSED' || code === 'ENOENT') settle('nobody')
      // A full backlog is a listener that is alive.
      else if (code === 'EAGAIN') settle(undefined)
      else if (code === 'ECONNRESET' || code === 'EPIPE') settle('hung up')
      else reject(error)
    })
  })
}

/** Removes what earlier holders, and starters that died half-way, have left. Failing to is harmless. */
async function removeOlder(lockFolder: string, mine: number, own: string): Promise<void> {
  await unlink(join(lockFolder, own)).catch(() => {})
  for (const name of await readdir(lockFolder)) {
    const path = join(lockFolder, name)
    if (/^\d+$/.test(name) ? Number(name) < mine : await isAbandoned(path)) await unlink(path).catch(() => {})
  }
}

async function isAbandoned(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined)
  return found !== undefined && Date.now() - found.mtimeMs > abandonedAfterMs
}
