/**
 * `tp.db`: the pod's key-value store. Everything here is said in terms of the backend's atomic writes; conflicts of
 * `update` are retried here, so that it works the same with one process and with ten replicas.
 */
import type { Backend, Json, Write } from './backend.ts'
import { TpError } from './errors.ts'

export interface PrefixOptions {
  /** From the last key to the first. */
  reverse?: boolean
  /** At most so many; default all. */
  limit?: number
  /** Only keys beyond this one, for the next page: the last key of the page before. */
  after?: string
}

/** One change of `batch`. */
export type Change =
  | { op: 'set'; key: string; value: unknown }
  | { op: 'setIfAbsent'; key: string; value: unknown }
  | { op: 'delete'; key: string }
  | { op: 'increment'; key: string; by?: number }

const pageSize = 1000
const maxTries = 200

/** The key-value store of a pod: JSON values up to 32 MB, keys up to 1,024 characters, 1 GB in all. */
export type Db = ReturnType<typeof createDb>

// JSON is checked where it is written down; a type cannot tell plain data from what only looks like it.
function asJson(value: unknown): Json {
  return value as Json
}

/**
 * What came with a request may be missing or a number, whatever its type says: it must not reach another key, or take
 * the reads of others down with it. @throws TpError `bad_key`
 */
function asKey(key: string): string {
  if (typeof key === 'string') return key
  throw new TpError('bad_key', `A key is a text, not ${key === null ? 'null' : typeof key}`, {
    hint: 'Check what came with the request before you use it as a key.',
  })
}

function toWrite(change: Change): Write {
  const key = asKey(change.key)
  switch (change.op) {
    case 'set':
      return { op: 'set', space: 'db', key, value: asJson(change.value) }
    case 'setIfAbsent':
      return { op: 'set', space: 'db', key, value: asJson(change.value), if: 'absent' }
    case 'delete':
      return { op: 'delete', space: 'db', key }
    case 'increment':
      return { op: 'increment', space: 'db', key, by: change.by ?? 1 }
    default: {
      const { op }: { op: unknown } = change
      throw new TpError('bad_value', `tp.db.batch knows set, setIfAbsent, delete and increment, not ${String(op)}`)
    }
  }
}

/** Makes `tp.db` on the backend that `backend` gives. */
export function createDb(backend: () => Backend) {
  /**
   * The value of a key; `fallback`, or undefined, when there is none. `T` is what the caller knows to be stored there.
   * @example const post = await tp.db.get<Post>('post:hello')
   * @example const visits = await tp.db.get('visits', 0)
   */
  async function get<T = Json>(key: string): Promise<T | undefined>
  async function get<T>(key: string, fallback: T): Promise<T>
  async function get<T>(key: string, fallback?: T): Promise<T | undefined> {
    const entry = await backend().read('db', asKey(key))
    // The caller vouches for what lies under the key.
    return entry ? (entry.value as T) : fallback
  }

  /**
   * Stores a value. Durable when the promise resolves.
   * @throws TpError `bad_value` (not JSON, over 32 MB), `bad_key`, `quota_exceeded` (1 GB), `storage`
   * @example await tp.db.set('post:hello', { title: 'Hello', body: '…' })
   */
  async function set(key: string, value: unknown): Promise<void> {
    await backend().write([toWrite({ op: 'set', key, value })])
  }

  /**
   * Removes a key.
   * @returns whether there was one
   * @example await tp.db.delete('post:hello')
   */
  async function remove(key: string): Promise<boolean> {
    const outcome = await backend().write([toWrite({ op: 'delete', key })])
    return outcome.ok && outcome.results[0]?.existed === true
  }

  /**
   * Entries whose keys start with `p`, in key order.
   * @example const newest = await tp.db.prefix<Post>('post:', { reverse: true, limit: 20 })
   */
  async function prefix<T = Json>(p: string, options: PrefixOptions = {}): Promise<{ key: string; value: T }[]> {
    const { limit = Number.POSITIVE_INFINITY, reverse = false } = options
    const found: { key: string; value: T }[] = []
    asKey(p)
    let { after } = options
    while (found.length < limit) {
      const wanted = Math.min(pageSize, limit - found.length)
      const page = await backend().scan('db', { prefix: p, reverse, after, limit: wanted })
      for (const { key, value } of page) found.push({ key, value: value as T })
      after = page.at(-1)?.key
      if (page.length < wanted) break
    }
    return found
  }

  /**
   * Keys that start with `p` (default all), in order.
   * @example const ids = await tp.db.keys('post:')
   */
  async function keys(p = ''): Promise<string[]> {
    return backend().keys('db', { prefix: asKey(p) })
  }

  /**
   * How many keys start with `p` (default all).
   * @example const posts = await tp.db.count('post:')
   */
  async function count(p = ''): Promise<number> {
    return backend().count('db', asKey(p))
  }

  /**
   * Changes a value atomically: `fn` gets the current value (undefined when there is none) and returns the new one.
   * It may be called again when somebody else was faster, so it should only compute.
   * @returns the new value
   * @throws TpError `bad_value` when `fn` returns undefined
   * @example await tp.db.update('cart:7', (cart: string[] = []) => [...cart, 'book'])
   */
  async function update<T = Json>(key: string, fn: (current: T | undefined) => T | Promise<T>): Promise<T> {
    for (let tries = 0; tries < maxTries; tries++) {
      const entry = await backend().read('db', asKey(key))
      const value = await fn(entry ? (entry.value as T) : undefined)
      if (value === undefined)
        throw new TpError('bad_value', 'The function given to tp.db.update returned undefined', {
          hint: 'Return the new value, also when you changed the object in place.',
        })
      const condition = entry ? entry.version : 'absent'
      const outcome = await backend().write([{ op: 'set', space: 'db', key, value: asJson(value), if: condition }])
      if (outcome.ok) return value
    }
    throw new TpError('conflict', `"${key}" is changed by so many at once that tp.db.update found no gap`)
  }

  /**
   * Adds to a number atomically; a missing key counts as 0.
   * @returns the new number
   * @throws TpError `not_a_number`
   * @example const visits = await tp.db.increment('visits')
   */
  async function increment(key: string, by = 1): Promise<number> {
    const outcome = await backend().write([toWrite({ op: 'increment', key, by })])
    return (outcome.ok && outcome.results[0]?.number) || 0
  }

  /**
   * Stores a value only if the key is free.
   * @returns whether it was
   * @example if (!(await tp.db.setIfAbsent(`vote:${user.id}`, choice))) return 409
   */
  async function setIfAbsent(key: string, value: unknown): Promise<boolean> {
    const outcome = await backend().write([toWrite({ op: 'setIfAbsent', key, value })])
    return outcome.ok
  }

  /**
   * Does all changes or none, atomically.
   * @throws TpError `conflict` when a `setIfAbsent` finds its key taken
   * @example await tp.db.batch([{ op: 'set', key: 'a', value: 1 }, { op: 'increment', key: 'n' }, { op: 'delete', key: 'b' }])
   */
  async function batch(changes: readonly Change[]): Promise<void> {
    const outcome = await backend().write(changes.map(toWrite))
    if (!outcome.ok) throw new TpError('conflict', `"${changes[outcome.at]?.key}" is taken; nothing was changed`)
  }

  return { get, set, delete: remove, prefix, keys, count, update, increment, setIfAbsent, batch }
}
