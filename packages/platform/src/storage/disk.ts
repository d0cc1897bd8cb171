/**
 * Objects as files of a folder: `objects/` holds them, `incoming/` those that are not complete.
 *
 * Every segment of a key becomes a name that is safe on any disk: bytes other than a–z, 0–9, `.`, `_` and `-` are
 * written `%xx`, so that neither capital letters nor other scripts can make two keys one file. The last character of a
 * name says what it is, which lets `a` and `a/b` both exist: `=` an object, `,` the folder of a segment, `+` a folder in
 * which a segment goes on that is too long for one name. Keys are compared as strings of bytes (latin1), because
 * JavaScript's own order of strings is not that of their UTF-8.
 *
 * Invariants: a file appears in `objects/` by rename, after it was synced; the folder it appeared in is synced before
 * `put` returns; folders exist only for the objects in them.
 */
import { randomBytes } from 'node:crypto'
import type { BigIntStats } from 'node:fs'
import { constants, type FileHandle, lstat, mkdir, open, readdir, rename, rm, rmdir, unlink } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import {
  checkDeletePrefix,
  checkKey,
  checkPrefix,
  checkRange,
  chunksOf,
  isKey,
  Lifetime,
  type Storage,
  StorageError,
  type StoredObject,
} from './common.ts'

/** Names on disks are at most 255 bytes long; the rest is room for the mark. */
const maxName = 200
/** What a crash left in `incoming/` is removed when it is older than any upload takes. */
const staleMs = 24 * 3600_000

const bytesOf = (text: string): string => Buffer.from(text).toString('latin1')
const textOf = (bytes: string): string => Buffer.from(bytes, 'latin1').toString()

/** The names that stand for a segment, of which the last gets the mark given. */
function namesOf(segment: string, mark: '=' | ','): string[] {
  const safe = bytesOf(segment).replace(
    /[^a-z0-9._-]/g,
    (each) => `%${each.charCodeAt(0).toString(16).padStart(2, '0')}`,
  )
  const names = []
  for (let at = 0; at < safe.length; at += maxName) names.push(safe.slice(at, at + maxName))
  return names.map((name, index) => name + (index < names.length - 1 ? '+' : mark))
}

const decode = (safe: string): string =>
  safe.replace(/%([0-9a-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))

const codeOf = (error: unknown): unknown => (error instanceof Error && 'code' in error ? error.code : undefined)
const isMissing = (error: unknown): boolean => codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR'

/** Makes an error of the file system one of the storage; leaves all others as they are. */
function failure(error: unknown): unknown {
  if (!(error instanceof Error && 'syscall' in error)) return error
  if (codeOf(error) === 'ENOSPC' || codeOf(error) === 'EDQUOT')
    return new StorageError('storage', 'The disk is full', { hint: 'Free some space.', cause: error })
  return new StorageError('storage', `The disk refused: ${String(codeOf(error))}`, {
    hint: 'Check the disk and who may write to the folder of the storage.',
    cause: error,
  })
}

async function guarded<T>(run: () => Promise<T>): Promise<T> {
  try {
    return await run()
  } catch (error) {
    throw failure(error)
  }
}

async function orMissing<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

function infoOf(stats: BigIntStats): StoredObject {
  const etag = [stats.size, stats.mtimeNs, stats.ino].map((each) => each.toString(36)).join('-')
  return { size: Number(stats.size), etag: `"${etag}"`, modifiedAt: Number(stats.mtimeMs) }
}

async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Makes a folder that survives a crash, with those it is in. */
async function makeFolder(path: string): Promise<void> {
  const first = await mkdir(path, { recursive: true, mode: 0o700 })
  if (first === undefined) return
  for (let made = path; made.length >= first.length; made = dirname(made)) await syncFolder(dirname(made))
}

interface Entry {
  /** Bytes of a segment, with `/` at the end of a folder's: so they sort as the keys do. */
  name: string
  path: string
}

/** Objects and folders of a folder, in the order of keys. `begun` is what earlier names said of their segment. */
async function entriesOf(folder: string, begun = ''): Promise<Entry[]> {
  const found: Entry[] = []
  for (const entry of (await orMissing(readdir(folder, { withFileTypes: true }))) ?? []) {
    const name = begun + entry.name.slice(0, -1)
    const path = join(folder, entry.name)
    if (entry.isFile() && entry.name.endsWith('=')) found.push({ name: decode(name), path })
    if (entry.isDirectory() && entry.name.endsWith(',')) found.push({ name: `${decode(name)}/`, path })
    if (entry.isDirectory() && entry.name.endsWith('+')) found.push(...(await entriesOf(path, name)))
  }
  if (begun === '') found.sort((a, b) => (a.name < b.name ? -1 : 1))
  return found
}

/** The files whose keys start with `prefix` and come after `after`, in order; all three as strings of bytes. */
async function* walk(folder: string, base: string, prefix: string, after: string): AsyncGenerator<[string, string]> {
  for (const { name, path } of await entriesOf(folder)) {
    const key = base + name
    if (key.endsWith('/')) {
      const mayMatch = key.startsWith(prefix) || prefix.startsWith(key)
      const mayFollow = key > after || after.startsWith(key)
      if (mayMatch && mayFollow) yield* walk(path, key, prefix, after)
    } else if (key.startsWith(prefix) && key > after) yield [key, path]
  }
}

async function removeStale(incoming: string): Promise<void> {
  for (const name of await readdir(incoming)) {
    const path = join(incoming, name)
    const stats = await orMissing(lstat(path))
    if (stats && stats.mtimeMs < Date.now() - staleMs) await rm(path, { force: true })
  }
}

/**
 * Opens the storage in the folder `dir` and makes it if it is not there. Several processes may use it.
 * @throws StorageError `storage` when the folder cannot be used
 */
export async function openDiskStorage(dir: string): Promise<Storage> {
  const root = join(resolve(dir), 'objects')
  const incoming = join(resolve(dir), 'incoming')
  const lifetime = new Lifetime()
  await guarded(async () => {
    await makeFolder(root)
    await makeFolder(incoming)
    await removeStale(incoming)
  })

  function pathOf(key: string): string {
    lifetime.check()
    checkKey(key)
    const segments = key.split('/')
    return join(root, ...segments.flatMap((each, index) => namesOf(each, index < segments.length - 1 ? ',' : '=')))
  }

  /** Starts where the whole segments of the prefix lead, so that a list does not read the folders beside it. */
  function find(prefix: string, after = ''): AsyncGenerator<[string, string]> {
    const end = prefix.lastIndexOf('/') + 1
    const base = prefix.slice(0, end)
    const segments = base.split('/').slice(0, -1)
    const names = segments.flatMap((each) => namesOf(each, ','))
    return walk(join(root, ...names), bytesOf(base), bytesOf(prefix), bytesOf(after))
  }

  async function receive(handle: FileHandle, chunks: AsyncIterable<Uint8Array>): Promise<void> {
    try {
      // Guarded one by one: what the source throws is not an error of this disk.
      for await (const chunk of chunks) await guarded(() => handle.appendFile(chunk))
      await guarded(() => handle.sync())
    } finally {
      await handle.close()
    }
  }

  async function place(temporary: string, path: string): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        await makeFolder(dirname(path))
        await rename(temporary, path)
        return await syncFolder(dirname(path))
      } catch (error) {
        // Somebody deleted the last object of the folder, and the folder with it.
        if (codeOf(error) !== 'ENOENT' || attempt === 20) throw error
      }
    }
  }

  async function removeEmptyFolders(from: string): Promise<void> {
    for (let folder = from; folder !== root; folder = dirname(folder)) {
      try {
        await rmdir(folder)
      } catch (error) {
        if (!isMissing(error)) return
      }
    }
  }

  return {
    async put(key, data, { maxBytes, signal } = {}) {
      const path = pathOf(key)
      return lifetime.put(signal, async (either) => {
        const temporary = join(incoming, randomBytes(16).toString('hex'))
        try {
          const handle = await guarded(() => open(temporary, 'wx', 0o600))
          await receive(handle, chunksOf(data, { maxBytes, signal: either }))
          either.throwIfAborted()
          return await guarded(async () => {
            const info = infoOf(await lstat(temporary, { bigint: true }))
            await place(temporary, path)
            return info
          })
        } catch (error) {
          await rm(temporary, { force: true })
          throw error
        }
      })
    },
    async get(key, range) {
      checkRange(range)
      const path = pathOf(key)
      return guarded(async () => {
        const handle = await orMissing(open(path, constants.O_RDONLY | constants.O_NOFOLLOW))
        if (!handle) return undefined
        try {
          const info = infoOf(await handle.stat({ bigint: true }))
          return { info, body: handle.createReadStream(range) }
        } catch (error) {
          await handle.close()
          throw error
        }
      })
    },
    async stat(key) {
      const path = pathOf(key)
      const stats = await guarded(() => orMissing(lstat(path, { bigint: true })))
      return stats && infoOf(stats)
    },
    async delete(key) {
      const path = pathOf(key)
      return guarded(async () => {
        const deleted = await orMissing(unlink(path).then(() => true))
        if (!deleted) return false
        await orMissing(syncFolder(dirname(path)))
        await removeEmptyFolders(dirname(path))
        return true
      })
    },
    async list(prefix, { after, limit = 1000 } = {}) {
      lifetime.check()
      checkPrefix(prefix)
      checkPrefix(after ?? '')
      const found: (StoredObject & { key: string })[] = []
      if (limit <= 0) return found
      return guarded(async () => {
        for await (const [bytes, path] of find(prefix, after)) {
          const key = textOf(bytes)
          const stats = await orMissing(lstat(path, { bigint: true }))
          if (!stats || !isKey(key)) continue
          found.push({ key, ...infoOf(stats) })
          if (found.length >= limit) break
        }
        return found
      })
    },
    async deletePrefix(prefix) {
      lifetime.check()
      checkDeletePrefix(prefix)
      return guarded(async () => {
        let count = 0
        const folders = new Set<string>()
        for await (const [, path] of find(prefix)) {
          if (!(await orMissing(unlink(path).then(() => true)))) continue
          count++
          folders.add(dirname(path))
        }
        for (const folder of folders) {
          await orMissing(syncFolder(folder))
          await removeEmptyFolders(folder)
        }
        return count
      })
    },
    close: () => lifetime.close(),
  }
}
