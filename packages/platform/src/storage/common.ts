/** What both kinds of storage share: the interface, the error, the rules for keys, and taking in what is put. */
import { Readable } from 'node:stream'

/** What is known about an object without reading it. */
export interface StoredObject {
  /** Bytes. */
  size: number
  /** Changes whenever the content does; with quotes, as HTTP wants it. */
  etag: string
  /** Milliseconds since 1970. S3 knows whole seconds only. */
  modifiedAt: number
}

/** How to put an object. */
export interface PutOptions {
  /** More bytes than this are `too_large`. */
  maxBytes?: number
  /** Gives the upload up. */
  signal?: AbortSignal
}

/** Bytes under keys. A key is a path like `apps/a1/source.tar`: see {@link checkKey}. */
export interface Storage {
  /**
   * Stores an object, whole or not at all; replaces what was there. Streams are never held in memory as a whole. What
   * a stream or the signal throws is passed on.
   * @throws StorageError `bad_key`, `too_large`, `storage`
   */
  put(key: string, data: Uint8Array | AsyncIterable<Uint8Array>, options?: PutOptions): Promise<StoredObject>
  /**
   * Opens an object for reading, or gives undefined. `start` and `end` are offsets of the first and the last byte;
   * beyond the object there are no bytes. `info.size` is that of the whole object. Read the body or destroy it.
   * @throws StorageError `bad_key`, `storage`; RangeError for offsets that are none
   */
  get(key: string, range?: { start: number; end: number }): Promise<{ info: StoredObject; body: Readable } | undefined>
  /** Tells about an object, or gives undefined. @throws StorageError `bad_key`, `storage` */
  stat(key: string): Promise<StoredObject | undefined>
  /** Deletes an object and tells whether it was there. @throws StorageError `bad_key`, `storage` */
  delete(key: string): Promise<boolean>
  /**
   * The objects whose keys start with `prefix`, which may end anywhere in a key, in the order of the keys' bytes:
   * those after the key `after`, at most `limit` (1000 when not given).
   * @throws StorageError `bad_key`, `storage`
   */
  list(prefix: string, options?: { after?: string; limit?: number }): Promise<(StoredObject & { key: string })[]>
  /**
   * Deletes every object whose key starts with `prefix`, and tells how many. The empty prefix is refused.
   * @throws StorageError `bad_key`, `storage`
   */
  deletePrefix(prefix: string): Promise<number>
  /** Gives up puts that are not complete, and waits until nothing is left of them. Later calls fail with `storage`. */
  close(): Promise<void>
}

const hints = {
  too_large: 'Store less, or raise the limit.',
  storage: 'Try again in a moment; if it stays, check that the storage is reachable and has room.',
  bad_key: 'Keys are like "apps/a1/source.tar": at most 900 bytes, no empty, "." or ".." segments, no NUL.',
} as const

/** An error of the storage; message, hint and cause never contain credentials. */
export class StorageError extends Error {
  readonly code: keyof typeof hints
  readonly hint: string

  constructor(code: keyof typeof hints, message: string, details: { hint?: string; cause?: unknown } = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.name = 'StorageError'
    this.code = code
    this.hint = details.hint ?? hints[code]
  }
}

const maxKeyBytes = 900

function checkText(text: string, what: string): void {
  if (text.includes('\0') || !text.isWellFormed() || Buffer.byteLength(text) > maxKeyBytes)
    throw new StorageError('bad_key', `${JSON.stringify(text.slice(0, 80))} cannot be ${what}`)
}

/** Tells whether `key` may be a key: 1 to 900 bytes of UTF-8, `/` between segments, none empty, `.` or `..`, no NUL. */
export function isKey(key: string): boolean {
  try {
    checkKey(key)
    return true
  } catch {
    return false
  }
}

/** Checks a key by the rules of {@link isKey}. @throws StorageError `bad_key` */
export function checkKey(key: string): void {
  checkText(key, 'a key')
  if (key.split('/').some((each) => each === '' || each === '.' || each === '..'))
    throw new StorageError('bad_key', `${JSON.stringify(key.slice(0, 80))} cannot be a key`)
}

/** Checks the beginning of keys, which may be empty or end anywhere in a key. @throws StorageError `bad_key` */
export function checkPrefix(prefix: string): void {
  checkText(prefix, 'the beginning of a key')
}

/** Checks the beginning of keys to delete. @throws StorageError `bad_key`, also when it is empty */
export function checkDeletePrefix(prefix: string): void {
  checkPrefix(prefix)
  if (prefix === '')
    throw new StorageError('bad_key', 'An empty prefix would delete everything', { hint: 'Name what to delete.' })
}

/** Checks the offsets of a range. @throws RangeError */
export function checkRange(range: { start: number; end: number } | undefined): void {
  if (range && !(Number.isSafeInteger(range.start) && Number.isSafeInteger(range.end) && 0 <= range.start))
    throw new RangeError(`${range.start}–${range.end} is no range of bytes`)
  if (range && range.end < range.start) throw new RangeError(`A range cannot end before it starts (${range.start})`)
}

/**
 * The bytes to put, chunk by chunk. Ends at once when the signal aborts, even while the source gives nothing, and
 * closes the source then.
 * @throws StorageError `too_large`; what the source throws; the signal's reason
 */
export async function* chunksOf(
  data: Uint8Array | AsyncIterable<Uint8Array>,
  { maxBytes = Number.POSITIVE_INFINITY, signal }: { maxBytes?: number; signal: AbortSignal },
): AsyncGenerator<Uint8Array, void, void> {
  const tooLarge = () => new StorageError('too_large', `The object is larger than ${maxBytes} bytes`)
  signal.throwIfAborted()
  if (data instanceof Uint8Array) {
    if (data.length > maxBytes) throw tooLarge()
    yield data
    return
  }
  const source = data[Symbol.asyncIterator]()
  let size = 0
  let ended = false
  try {
    for (;;) {
      const next = await unlessAborted(() => source.next(), signal)
      if (next.done) {
        ended = true
        return
      }
      if (!(next.value instanceof Uint8Array)) throw new TypeError('A stream of bytes gave something else')
      size += next.value.length
      if (size > maxBytes) throw tooLarge()
      yield next.value
    }
  } finally {
    if (!ended) {
      if (data instanceof Readable) data.destroy()
      // Not awaited: a generator that waits for its own source would answer only after that.
      source.return?.()?.then(undefined, () => {})
    }
  }
}

/** A promise for each step: one for all of them would remember every chunk until the last has come. */
function unlessAborted<T>(run: () => Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted()
    const stop = () => reject(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
    run()
      .then(resolve, reject)
      .finally(() => signal.removeEventListener('abort', stop))
  })
}

/** Ends a storage: lets no call start after `close`, and gives up those that are putting. */
export class Lifetime {
  #closed: StorageError | undefined
  readonly #puts = new Map<AbortController, Promise<unknown>>()

  /** @throws StorageError `storage` after `close` */
  check(): void {
    if (this.#closed) throw this.#closed
  }

  /** Runs `put` with a signal that aborts when the caller's does, or at `close`. */
  async put<T>(signal: AbortSignal | undefined, put: (signal: AbortSignal) => Promise<T>): Promise<T> {
    this.check()
    signal?.throwIfAborted()
    // Not AbortSignal.any: what it makes of a signal that lives as long as the storage is never let go.
    const controller = new AbortController()
    const follow = () => controller.abort(signal?.reason)
    signal?.addEventListener('abort', follow, { once: true })
    const running = put(controller.signal)
    this.#puts.set(controller, running)
    try {
      return await running
    } finally {
      this.#puts.delete(controller)
      signal?.removeEventListener('abort', follow)
    }
  }

  /** Aborts the puts and waits until they have ended. */
  async close(): Promise<void> {
    this.#closed ??= new StorageError('storage', 'The storage is closed', { hint: 'Open it again.' })
    for (const controller of this.#puts.keys()) controller.abort(this.#closed)
    await Promise.allSettled(this.#puts.values())
  }
}
