/**
 * The records of the local backend in memory: one ordered tree per space, and atomic changes to them.
 *
 * Invariants: rows are never changed in place (a fold works on a clone of the tree while writes go on); values are
 * kept as JSON text, so that every read is a fresh copy and sizes are known; `change` is all or nothing and returns
 * what undoes it, for when the journal cannot be written.
 */
import { createRequire } from 'node:module'
import {
  type Condition,
  type Entry,
  maxDbSize,
  maxKeyLength,
  maxValueLength,
  type Outcome,
  type Scan,
  type Space,
  type Spaces,
  type Write,
  type Written,
} from '../backend.ts'
import { TpError } from '../errors.ts'

// The package is CommonJS with a `default` export, which bundlers and Node import differently; require is the same in both.
const { default: BTree }: typeof import('sorted-btree') = createRequire(import.meta.url)('sorted-btree')

/** A stored value as JSON text. `expires` is ms since 1970, 0 for never. */
export interface Row {
  readonly json: string
  readonly version: number
  readonly expires: number
}
export type Tree = InstanceType<typeof BTree<string, Row>>

/** What became of one key: its row before and after. This is what goes into the journal, and what undoes it. */
export interface Change {
  space: Space
  key: string
  before: Row | undefined
  after: Row | undefined
}

export type Tables = ReturnType<typeof createTables>

const byCodeUnit = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

/** Makes empty tables. `now` is the clock that expiry is measured by. */
export function createTables(now: () => number = Date.now, maxBytes = maxDbSize) {
  const trees = new Map<Space, Tree>()
  let version = 0
  let dbSize = 0

  function tree(space: Space): Tree {
    let found = trees.get(space)
    if (!found) {
      found = new BTree<string, Row>(undefined, byCodeUnit)
      trees.set(space, found)
    }
    return found
  }

  const isLive = (row: Row): boolean => row.expires === 0 || row.expires > now()

  function live(space: Space, key: string): Row | undefined {
    const row = trees.get(space)?.get(key)
    return row && isLive(row) ? row : undefined
  }

  /** Puts or (row undefined) removes; keeps the size of `db`. */
  function put(space: Space, key: string, row: Row | undefined): void {
    const target = tree(space)
    if (space === 'db') {
      const old = target.get(key)
      dbSize += (row ? key.length + row.json.length : 0) - (old ? key.length + old.json.length : 0)
    }
    if (row) target.set(key, row)
    else target.delete(key)
  }

  /** A new row under a version of its own. */
  function row(json: string, expires = 0): Row {
    version += 1
    return { json, version, expires }
  }

  /** When what lasts for `ttl` ms ends: whole, as not every storage keeps parts of a millisecond. */
  const expiry = (ttl: number | undefined) => (ttl ? now() + Math.ceil(ttl) : 0)

  function entry<S extends Space>(key: string, found: Row): Entry<S> {
    const value: Spaces[S] = JSON.parse(found.json)
    if (found.expires === 0) return { key, value, version: found.version }
    return { key, value, version: found.version, expiresIn: found.expires - now() }
  }

  /** Calls `visit` with live rows in order until it returns false. */
  function walk(
    space: Space,
    { prefix = '', after, reverse = false }: Scan,
    visit: (key: string, row: Row) => boolean,
  ) {
    const target = trees.get(space)
    if (!target) return
    const beyond = after !== undefined
    if (reverse) {
      // Nothing that starts with the prefix sorts above prefix + U+FFFF…: three of them cover any real key.
      const top = `${prefix}\uffff\uffff\uffff`
      const from = beyond && after < top ? after : top
      for (const [key, found] of target.entriesReversed(from, undefined, true)) {
        if (!key.startsWith(prefix)) {
          if (key < prefix) return
          continue
        }
        if (isLive(found) && !visit(key, found)) return
      }
      return
    }
    const from = beyond && after >= prefix ? after : prefix
    for (const [key, found] of target.entries(from)) {
      if (beyond && key <= after) continue
      if (!key.startsWith(prefix)) return
      if (isLive(found) && !visit(key, found)) return
    }
  }

  function holds(condition: Condition | undefined, found: Row | undefined): boolean {
    if (condition === undefined) return true
    if (condition === 'absent') return found === undefined
    if (condition === 'present') return found !== undefined
    return found?.version === condition
  }

  function text(value: unknown): string {
    let json: string | undefined
    try {
      json = JSON.stringify(value)
    } catch (cause) {
      throw new TpError('bad_value', 'The value is not JSON: it contains itself or a BigInt', { cause })
    }
    if (json === undefined) throw new TpError('bad_value', `A ${typeof value} cannot be stored`)
    if (json.length > maxValueLength) throw new TpError('bad_value', 'The value is larger than 32 MB as JSON')
    return json
  }

  function step(op: Write, found: Row | undefined): { after: Row | undefined; written: Written } {
    if (op.op === 'set') {
      const after = row(text(op.value), expiry(op.ttl))
      return { after, written: { version: after.version, ...(op.ttl && { expiresIn: op.ttl }) } }
    }
    if (op.op === 'delete') return { after: undefined, written: { version: 0, existed: found !== undefined } }
    if (op.op === 'check') return { after: found, written: { version: found?.version ?? 0 } }
    const current: unknown = found ? JSON.parse(found.json) : 0
    if (typeof current !== 'number') throw new TpError('not_a_number', `"${op.key}" holds a ${typeof current}`)
    const number = current + op.by
    if (!Number.isFinite(number)) throw new TpError('not_a_number', `"${op.key}" would leave the range of numbers`)
    const after = row(String(number), found ? found.expires : expiry(op.ttl))
    const expiresIn = after.expires ? { expiresIn: after.expires - now() } : {}
    return { after, written: { version: after.version, number, ...expiresIn } }
  }

  /** Takes changes back, last first. */
  function undo(changes: readonly Change[]): void {
    for (let at = changes.length - 1; at >= 0; at--) {
      const change = changes[at]
      if (change) put(change.space, change.key, change.before)
    }
  }

  /** Does all of `ops` or nothing. */
  function change(ops: readonly Write[]): { outcome: Outcome; changes: Change[] } {
    const changes: Change[] = []
    const results: Written[] = []
    const sizeBefore = dbSize
    try {
      for (const [at, op] of ops.entries()) {
        if (op.key === '' || op.key.length > maxKeyLength)
          throw new TpError('bad_key', `A key has 1 to ${maxKeyLength} characters`)
        const found = live(op.space, op.key)
        if (!holds(op.if, found)) {
          undo(changes)
          return { outcome: { ok: false, at }, changes: [] }
        }
        const { after, written } = step(op, found)
        results.push(written)
        if (op.op === 'check' || (op.op === 'delete' && !found)) continue
        changes.push({ space: op.space, key: op.key, before: trees.get(op.space)?.get(op.key), after })
        put(op.space, op.key, after)
      }
      if (dbSize > maxBytes && dbSize > sizeBefore)
        throw new TpError('quota_exceeded', `tp.db is full: it holds ${(maxBytes / 1024 ** 3).toPrecision(1)} GB`)
    } catch (error) {
      undo(changes)
      throw error
    }
    return { outcome: { ok: true, results }, changes }
  }

  return {
    change,
    /** Goes on from what somebody else counted: the last version and the size of `db`. */
    seed(from: { version: number; dbSize: number }): void {
      version = from.version
      dbSize = from.dbSize
    },
    /** The last version and the size of `db`. */
    get counted() {
      return { version, dbSize }
    },
    undo,
    put,
    row,
    /** The tree of a space as it is now, unaffected by later changes. Costs nothing: nodes are shared until changed. */
    snapshot: (space: Space): Tree => tree(space).clone(),
    tree,
    isLive,
    read<S extends Space>(space: S, key: string): Entry<S> | undefined {
      const found = live(space, key)
      return found && entry<S>(key, found)
    },
    scan<S extends Space>(space: S, options: Scan = {}): Entry<S>[] {
      const { limit = 1000 } = options
      const entries: Entry<S>[] = []
      if (limit <= 0) return entries
      walk(space, options, (key, found) => entries.push(entry<S>(key, found)) < limit)
      return entries
    },
    keys(space: Space, options: Scan = {}): string[] {
      const { limit = Number.POSITIVE_INFINITY } = options
      const keys: string[] = []
      if (limit <= 0) return keys
      walk(space, options, (key) => keys.push(key) < limit)
      return keys
    },
    count(space: Space, prefix = ''): number {
      let count = 0
      walk(space, { prefix }, () => {
        count += 1
        return true
      })
      return count
    },
    /** Forgets what has expired, as changes to be journaled. */
    expire(): Change[] {
      const changes: Change[] = []
      for (const [space, target] of trees) {
        for (const [key, found] of target.entries())
          if (!isLive(found)) changes.push({ space, key, before: found, after: undefined })
      }
      for (const { space, key } of changes) put(space, key, undefined)
      return changes
    },
  }
}
