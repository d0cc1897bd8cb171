/**
 * `tp.files` on the local disk: `tp_data/files/<name>`, plain files that people may look at and put there.
 *
 * Invariants: a file appears whole or not at all (written to tp_data/incoming/, synced, renamed); no name leads out
 * of the folder, symbolic links included.
 */
import { randomBytes } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { lstat, mkdir, open, readdir, realpath, rename, rm, rmdir, unlink } from 'node:fs/promises'
import { dirname, join, relative, sep } from 'node:path'
import { lookup } from 'mrmime'
import { type FileInfo, type FileStore, maxFilesSize } from '../backend.ts'
import { TpError } from '../errors.ts'

const codeOf = (error: unknown): unknown => (error instanceof Error && 'code' in error ? error.code : undefined)

/**
 * Checks a file's name: relative, with `/`, no empty or dot segments, at most 512 characters.
 * @throws TpError `bad_key`
 */
export function checkFileName(name: string): string {
  const bad =
    typeof name !== 'string' ||
    name.length > 512 ||
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be in a name
    /[\u0000-\u001f\u007f\\]/.test(name) ||
    name.split('/').some((each) => each === '' || each === '.' || each === '..' || Buffer.byteLength(each) > 255)
  if (bad)
    throw new TpError('bad_key', `"${String(name).slice(0, 80)}" cannot be the name of a file`, {
      hint: 'Use a relative path like "photos/cat.jpg": no leading "/", no "..", no backslash, at most 512 characters.',
      status: 400,
    })
  return name
}

/** Opens the file store in `root`; `incoming` is a folder on the same disk for files that are not complete yet. */
export function createLocalFiles(root: string, incoming: string): FileStore {
  /** Bytes stored, counted once and kept; undefined until the first write. */
  let total: number | undefined

  async function pathOf(name: string): Promise<string> {
    const path = join(root, ...checkFileName(name).split('/'))
    // Links are refused wherever they are on the way, since they may lead out of the folder.
    let at = root
    for (const segment of relative(root, path).split(sep)) {
      at = join(at, segment)
      const found = await lstat(at).catch(() => undefined)
      if (!found) break
      if (found.isSymbolicLink()) throw new TpError('bad_key', `"${name}" is a symbolic link`, { status: 400 })
    }
    return path
  }

  function info(name: string, stats: { size: number; mtimeMs: number; ino: number }): FileInfo {
    const { size, mtimeMs, ino } = stats
    return {
      name,
      size,
      contentType: lookup(name) ?? 'application/octet-stream',
      modifiedAt: Math.trunc(mtimeMs),
      etag: `"${size.toString(36)}-${Math.trunc(mtimeMs).toString(36)}-${ino.toString(36)}"`,
    }
  }

  async function* walk(folder: string, prefix: string): AsyncGenerator<FileInfo> {
    const entries = await readdir(folder, { withFileTypes: true }).catch((error: unknown) => {
      if (codeOf(error) === 'ENOENT') return []
      throw error
    })
    // A folder sorts as its files do, with the slash: "a-b" comes before "a/b".
    const sortable = entries.map((entry) => ({ entry, key: entry.isDirectory() ? `${entry.name}/` : entry.name }))
    sortable.sort((a, b) => (a.key < b.key ? -1 : 1))
    for (const { entry, key } of sortable) {
      if (entry.isDirectory()) yield* walk(join(folder, entry.name), `${prefix}${key}`)
      else if (entry.isFile()) {
        const stats = await lstat(join(folder, entry.name)).catch(() => undefined)
        if (stats) yield info(`${prefix}${key}`, stats)
      }
    }
  }

  async function stored(): Promise<number> {
    if (total === undefined) {
      let sum = 0
      for await (const file of walk(root, '')) sum += file.size
      total = sum
    }
    return total
  }

  async function receive(
    path: string,
    data: Uint8Array | AsyncIterable<Uint8Array>,
    { maxBytes = maxFilesSize, signal }: { maxBytes?: number; signal?: AbortSignal },
  ): Promise<void> {
    const free = maxFilesSize - (await stored())
    const handle = await open(path, 'wx', 0o600)
    let size = 0
    try {
      for await (const chunk of data instanceof Uint8Array ? [data] : data) {
        signal?.throwIfAborted()
        size += chunk.length
        if (size > maxBytes) throw new TpError('too_large', `The file is larger than ${maxBytes} bytes`)
        if (size > free) throw new TpError('quota_exceeded', 'tp.files is full: it holds 50 GB')
        await handle.appendFile(chunk)
      }
      await handle.sync()
    } finally {
      await handle.close()
    }
  }

  async function stat(name: string): Promise<FileInfo | undefined> {
    const stats = await lstat(await pathOf(name)).catch((error: unknown) => {
      if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return undefined
      throw error
    })
    return stats?.isFile() ? info(name, stats) : undefined
  }

  return {
    stat,
    async write(name, data, options = {}) {
      const path = await pathOf(name)
      await mkdir(incoming, { recursive: true, mode: 0o700 })
      const temporary = join(incoming, randomBytes(12).toString('hex'))
      try {
        await receive(temporary, data, options)
        await mkdir(dirname(path), { recursive: true, mode: 0o700 })
        const before = (await stat(name))?.size ?? 0
        await rename(temporary, path)
        const written = await lstat(path)
        total = (total ?? 0) + written.size - before
        return info(name, written)
      } catch (error) {
        await rm(temporary, { force: true })
        if (['EEXIST', 'ENOTDIR', 'EISDIR', 'ENOTEMPTY'].includes(String(codeOf(error))))
          throw new TpError('bad_key', `"${name}" cannot be a file: a part of its path is one, or it is a folder`)
        if (codeOf(error) === 'ENOSPC') throw new TpError('storage', 'The disk is full', { cause: error })
        throw error
      }
    },
    async read(name, range) {
      const found = await stat(name)
      if (!found) return undefined
      const root = await realpath(dirname(await pathOf(name)))
      return { info: found, body: createReadStream(join(root, name.split('/').at(-1) ?? ''), range) }
    },
    async list({ prefix = '', after, limit = 1000 } = {}) {
      const files: FileInfo[] = []
      for await (const file of walk(root, '')) {
        if (!file.name.startsWith(prefix) || (after !== undefined && file.name <= after)) continue
        if (files.length >= limit) break
        files.push(file)
      }
      return files
    },
    async delete(name) {
      const found = await stat(name)
      if (!found) return false
      const path = await pathOf(name)
      await unlink(path)
      if (total !== undefined) total -= found.size
      // Folders exist only for the files in them.
      for (let folder = dirname(path); folder !== root && folder.startsWith(root); folder = dirname(folder)) {
        if (
          !(await rmdir(folder).then(
            () => true,
            () => false,
          ))
        )
          break
      }
      return true
    },
  }
}
