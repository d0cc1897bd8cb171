/**
 * The backend of a pod on this machine: everything in `tp_data/`.
 *
 *   db.json               tp.db, a plain JSON object that people and agents may edit while the pod runs
 *   system/<space>.json   users, sessions, purchases, …
 *   db.journal.NNNNNN     what was written since the files above were (see local/journal.ts)
 *   files/ outbox/ secrets.json
 *
 * Life of a write: changed in memory (atomic, synchronous) → journal (durable, resolves the promise) → folded into
 * the data files when the pod is idle, when the journal is large, at exit and at the next start.
 *
 * Hand edits of db.json are merged three ways: a key that the hand changed since the last fold wins; a key that only
 * the pod changed stays. While db.json is broken it is reported, the pod goes on with what it has in memory and the
 * journal, and nothing is folded over the edit.
 */
import { readFileSync, watch } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Backend, Space, Spaces, Write } from './backend.ts'
import { messageOf, TpError } from './errors.ts'
import { fileOf, parseObject, readDataFile, stampOf, writeDataFile } from './local/data-file.ts'
import { createLocalFiles } from './local/files.ts'
import { createJournal, replay } from './local/journal.ts'
import { takeLock } from './local/lock.ts'
import { createOutbox } from './local/outbox.ts'
import { type Change, createTables } from './local/tables.ts'

/** The names of all kinds of records. */
export const spaceNames = {
  db: true,
  users: true,
  emails: true,
  sessions: true,
  tokens: true,
  purchases: true,
  events: true,
  limits: true,
  state: true,
  tasks: true,
  settings: true,
} satisfies Record<keyof Spaces, true>
const spaces = Object.keys(spaceNames).filter((name): name is Space => name in spaceNames)

/** Folding waits for this long without a write, and then for at least ten times as long as the last fold took. */
const idleMs = 200
/** A journal of this size is folded although the pod is not idle. */
const largeJournal = 64 * 1024 * 1024
const sweepMs = 60_000

export interface LocalOptions {
  /** The tp_data folder; made if missing. */
  dir: string
  /** How much `tp.db` holds, bytes; 1 GB unless given. */
  maxDbBytes?: number
  /** Told about a db.json that a hand broke, and when it is mended (undefined). */
  onProblem?: (problem: TpError | undefined) => void
  /** Told when a hand edit of db.json was taken over. */
  onEdit?: (keys: string[]) => void
}

/** Reads `secrets.json`: an object of strings. @throws TpError `bad_data_file` */
export function readSecrets(dir: string): Readonly<Record<string, string>> {
  const file = join(dir, 'secrets.json')
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch {
    return Object.freeze({})
  }
  const secrets: Record<string, string> = {}
  for (const [key, value] of Object.entries(parseObject(text.trim() || '{}', file))) {
    if (typeof value !== 'string')
      throw new TpError('bad_data_file', `secrets.json: "${key}" must be a string`, { file, line: 1, column: 1 })
    secrets[key] = value
  }
  return Object.freeze(secrets)
}

/** One line of the journal: `[[space, key, value, expires], …]`; without value the key was removed. */
function encode(changes: readonly Change[]): string {
  const parts = changes.map(({ space, key, after }) => {
    const head = `${JSON.stringify(space)},${JSON.stringify(key)}`
    return after ? `[${head},${after.json},${after.expires}]` : `[${head}]`
  })
  return `[${parts.join(',')}]`
}

/**
 * Opens the storage of a pod in a folder.
 * @throws TpError `locked` when another process has it open, `bad_data_file` with line and column
 */
export async function openLocalBackend({ dir, maxDbBytes, onProblem, onEdit }: LocalOptions): Promise<Backend> {
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const unlock = takeLock(join(dir, 'lock'))
  try {
    return await start(dir, unlock, onProblem ?? (() => undefined), onEdit ?? (() => undefined), maxDbBytes)
  } catch (error) {
    unlock()
    throw error
  }
}

async function start(
  dir: string,
  unlock: () => void,
  onProblem: (problem: TpError | undefined) => void,
  onEdit: (keys: string[]) => void,
  maxDbBytes?: number,
): Promise<Backend> {
  const tables = createTables(Date.now, maxDbBytes)
  /** Per space: the keys changed since the last fold, with what the data file holds for them. */
  let dirty = new Map<Space, Map<string, string | undefined>>()
  let stamp = await stampOf(fileOf(dir, 'db'))
  let problem: TpError | undefined
  let closed = false

  function mark({ space, key, before }: Change): void {
    let keys = dirty.get(space)
    if (!keys) {
      keys = new Map()
      dirty.set(space, keys)
    }
    if (!keys.has(key)) keys.set(key, before?.json)
  }

  const journal = createJournal(dir, (changes) => tables.undo(changes))

  for (const space of spaces) {
    for (const [key, { json, expires }] of readDataFile(dir, space)) tables.put(space, key, tables.row(json, expires))
  }
  replay(dir, (payload) => {
    const changes: [Space, string, unknown?, number?][] = JSON.parse(payload)
    for (const [space, key, value, expires = 0] of changes) {
      mark({ space, key, before: tables.tree(space).get(key), after: undefined })
      tables.put(space, key, value === undefined ? undefined : tables.row(JSON.stringify(value), expires))
    }
  })
  const secrets = readSecrets(dir)
  await rm(join(dir, 'incoming'), { recursive: true, force: true })

  async function record(changes: Change[]): Promise<void> {
    if (changes.length === 0) return
    for (const change of changes) mark(change)
    schedule()
    await journal.write(encode(changes), changes)
  }

  // ---- folding and hand edits: one at a time ----

  let upkeep: Promise<unknown> = Promise.resolve()
  function exclusively<T>(work: () => Promise<T>): Promise<T> {
    const done = upkeep.then(work)
    upkeep = done.catch(() => undefined)
    return done
  }

  let timer: NodeJS.Timeout | undefined
  let lastFoldMs = 0
  function schedule(): void {
    if (closed || (timer && journal.size() > largeJournal)) return
    clearTimeout(timer)
    const wait = journal.size() > largeJournal ? 0 : Math.max(idleMs, lastFoldMs * 10)
    timer = setTimeout(() => {
      timer = undefined
      exclusively(fold).catch((error: unknown) => {
        onProblem(new TpError('storage', `tp_data could not be written: ${messageOf(error)}`, { cause: error }))
        schedule()
      })
    }, wait).unref()
  }

  async function fold(): Promise<void> {
    await takeEdits()
    if (problem || dirty.size === 0) return
    const startedAt = Date.now()
    // From here to the snapshots nothing awaits: they hold exactly what the journal's ended segments hold.
    const folding = dirty
    dirty = new Map()
    const rotated = journal.rotate()
    const snapshots = [...folding.keys()].map((space) => ({ space, rows: tables.snapshot(space) }))
    let complete = false
    try {
      const segments = await rotated
      for (const { space, rows } of snapshots) {
        const unedited = async () => space !== 'db' || (await stampOf(fileOf(dir, 'db'))) === stamp
        if (!(await writeDataFile(dir, space, rows, tables.isLive, unedited))) return
        if (space === 'db') stamp = await stampOf(fileOf(dir, 'db'))
        folding.delete(space)
      }
      await journal.remove(segments)
      complete = true
    } finally {
      for (const [space, keys] of folding) {
        const later = dirty.get(space)
        dirty.set(space, new Map([...(later ?? []), ...keys]))
      }
      lastFoldMs = Date.now() - startedAt
      if (!complete) schedule()
    }
  }

  /** Merges what a hand changed in db.json. */
  async function takeEdits(): Promise<void> {
    const seen = await stampOf(fileOf(dir, 'db'))
    if (seen === stamp) return
    let edited: ReturnType<typeof readDataFile>
    try {
      edited = readDataFile(dir, 'db')
    } catch (error) {
      if (!(error instanceof TpError)) throw error
      if (problem?.message !== error.message) {
        problem = error
        onProblem(error)
      }
      return
    }
    stamp = seen
    if (problem) {
      problem = undefined
      onProblem(undefined)
    }
    const keys = dirty.get('db') ?? new Map<string, string | undefined>()
    const tree = tables.tree('db')
    const changes: Change[] = []
    const overruled: Change[] = []
    function take(key: string, json: string | undefined): void {
      const before = tree.get(key)
      if (before?.json === json || (keys.has(key) && keys.get(key) === json)) return
      const change = { space: 'db' as const, key, before, after: json === undefined ? undefined : tables.row(json) }
      changes.push(change)
      if (keys.has(key)) overruled.push(change)
    }
    for (const [key, { json }] of edited) take(key, json)
    for (const key of tree.keysArray()) if (!edited.has(key)) take(key, undefined)
    for (const { key, after } of changes) tables.put('db', key, after)
    for (const [key] of keys) keys.set(key, edited.get(key)?.json)
    // What the journal says otherwise must be overruled there too, or a replay would bring it back.
    if (overruled.length > 0) await journal.write(encode(overruled), [])
    if (changes.length > 0) onEdit(changes.map((change) => change.key))
  }

  let settle: NodeJS.Timeout | undefined
  const watcher = watch(dir, (_event, name) => {
    if (name !== 'db.json' || closed) return
    clearTimeout(settle)
    // An editor may write in several steps; a half-written file would be reported as broken.
    settle = setTimeout(() => {
      exclusively(takeEdits)
        .then(() => dirty.size > 0 && schedule())
        .catch((error: unknown) => onProblem(new TpError('storage', messageOf(error), { cause: error })))
    }, 30)
  })
  watcher.on('error', () => undefined)
  watcher.unref()
  const sweep = setInterval(() => void record(tables.expire()).catch(() => undefined), sweepMs).unref()

  if (dirty.size > 0) await exclusively(fold)

  function open(): void {
    if (closed) throw new TpError('unavailable', 'The app is stopping')
  }

  return {
    secrets,
    files: createLocalFiles(join(dir, 'files'), join(dir, 'incoming')),
    mail: createOutbox(join(dir, 'outbox'), secrets),
    async read(space, key) {
      open()
      return tables.read(space, key)
    },
    async scan(space, options) {
      open()
      return tables.scan(space, options)
    },
    async keys(space, options) {
      open()
      return tables.keys(space, options)
    },
    async count(space, prefix) {
      open()
      return tables.count(space, prefix)
    },
    async write(ops: readonly Write[]) {
      open()
      const { outcome, changes } = tables.change(ops)
      await record(changes)
      return outcome
    },
    async close() {
      if (closed) return
      closed = true
      clearTimeout(timer)
      clearTimeout(settle)
      clearInterval(sweep)
      watcher.close()
      try {
        await exclusively(fold)
      } finally {
        clearTimeout(timer)
        await journal.close()
        unlock()
      }
    },
  }
}
