/**
 * The journal of the local backend: what was written since the last fold, durable before a write's promise resolves.
 *
 * One line per atomic write: CRC-32 of the payload in hex, a space, the payload (JSON without newlines). Lines go
 * into numbered segments, `db.journal.000001` and so on; a fold starts the next segment and removes the older ones
 * once their content is in the data files. Lines hold resulting values, so that replaying twice changes nothing.
 *
 * Invariants
 * - Group commit: what arrives while a flush is under way leaves together in the next one, with one fdatasync.
 * - When a flush fails, everything it held and everything queued behind it fails too, and `onFail` has undone it
 *   before any of their promises rejects: memory never holds what the disk does not, beyond one flush.
 * - A torn tail (the process or machine died while writing) ends the replay of its segment; nobody was told that
 *   those lines were durable.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { type FileHandle, open, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { TpError } from '../errors.ts'
import type { Change } from './tables.ts'

const segmentName = /^db\.journal\.(\d{6})$/

interface Waiting {
  line: string
  changes: readonly Change[]
  resolve: () => void
  reject: (error: TpError) => void
  /** Set on the marker of `rotate`, which has no line. */
  rotate?: boolean
}

export type Journal = ReturnType<typeof createJournal>

function segments(dir: string): string[] {
  return readdirSync(dir)
    .filter((name) => segmentName.test(name))
    .sort()
}

/** Reads the payloads that earlier processes left, oldest first. */
export function replay(dir: string, each: (payload: string) => void): { segments: string[] } {
  const found = segments(dir)
  for (const name of found) {
    const bytes = readFileSync(join(dir, name))
    let start = 0
    for (;;) {
      const end = bytes.indexOf(10, start)
      if (end < 0) break
      const payload = bytes.subarray(start + 9, end)
      if (bytes.toString('latin1', start, start + 8) !== checksum(payload)) break
      each(payload.toString('utf8'))
      start = end + 1
    }
  }
  return { segments: found }
}

function checksum(payload: string | Buffer): string {
  return crc32(payload).toString(16).padStart(8, '0')
}

/** Makes the folder's entries themselves durable, after a file was made, renamed or removed. */
export async function syncFolder(dir: string): Promise<void> {
  const handle = await open(dir, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Opens the journal for writing; a segment is made with the first write. */
export function createJournal(dir: string, onFail: (changes: readonly Change[]) => void) {
  let number = Number(segmentName.exec(segments(dir).at(-1) ?? '')?.[1] ?? 0)
  let handle: FileHandle | undefined
  /** Bytes of the current segment that are known to be good. */
  let good = 0
  /** The last segment that `rotate` ended. */
  let sealed = 0
  let queue: Waiting[] = []
  let flushing: Promise<void> | undefined

  async function current(): Promise<FileHandle> {
    if (handle) return handle
    number += 1
    handle = await open(join(dir, `db.journal.${String(number).padStart(6, '0')}`), 'ax', 0o600)
    good = 0
    await syncFolder(dir)
    return handle
  }

  async function abandonSegment(): Promise<void> {
    const old = handle
    handle = undefined
    await old?.close().catch(() => undefined)
  }

  async function append(lines: string): Promise<void> {
    const file = await current()
    const bytes = Buffer.from(lines, 'utf8')
    try {
      await file.appendFile(bytes)
      await file.datasync()
      good += bytes.length
    } catch (error) {
      // What got onto the disk must not be replayed: its writers are told that it failed.
      await file.truncate(good).catch(abandonSegment)
      throw error
    }
  }

  async function flush(): Promise<void> {
    while (queue.length > 0) {
      const marker = queue.findIndex((each) => each.rotate)
      const group = queue.splice(0, marker === 0 ? 1 : marker < 0 ? queue.length : marker)
      try {
        if (marker === 0) {
          await abandonSegment()
          sealed = number
        } else await append(group.map((each) => each.line).join(''))
      } catch (cause) {
        const failed = [...group, ...queue]
        queue = []
        onFail(failed.flatMap((each) => each.changes))
        const error = new TpError('storage', 'The change could not be written to disk', { cause })
        for (const each of failed) each.reject(error)
        continue
      }
      for (const each of group) each.resolve()
    }
  }

  function enqueue(entry: Pick<Waiting, 'line' | 'changes' | 'rotate'>): Promise<void> {
    return new Promise((resolve, reject) => {
      queue.push({ ...entry, resolve, reject })
      // Starting on the next tick lets everything of this tick share one flush.
      flushing ??= Promise.resolve()
        .then(flush)
        .finally(() => {
          flushing = undefined
        })
    })
  }

  return {
    /** Writes one line; resolves when it is durable. `changes` is what to undo when that fails. */
    write(payload: string, changes: readonly Change[]): Promise<void> {
      return enqueue({ line: `${checksum(payload)} ${payload}\n`, changes })
    },
    /** Ends the segment: resolves when all written before is durable, with the names of the segments that hold it. */
    async rotate(): Promise<string[]> {
      await enqueue({ line: '', changes: [], rotate: true })
      return segments(dir).filter((name) => Number(segmentName.exec(name)?.[1]) <= sealed)
    },
    /** Removes segments whose content is in the data files now. */
    async remove(names: readonly string[]): Promise<void> {
      for (const name of names) await unlink(join(dir, name))
    },
    /** Bytes since the last rotation. */
    size: (): number => (handle ? good : 0),
    async close(): Promise<void> {
      while (flushing) await flushing
      await abandonSegment()
    },
  }
}
