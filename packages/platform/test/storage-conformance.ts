/**
 * What every storage must do: the suite is a function, so that each kind runs the same tests.
 * To add a rule: a test here; to add a kind: a test file that calls `storageConformance`.
 */
import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type Storage, StorageError } from '../src/storage.ts'

/** A place that outlives the storage object: `open` may be called again and finds the objects. */
export interface Place {
  open: () => Promise<Storage>
  remove: () => Promise<void>
}

/** The code of the StorageError a promise fails with, or what it did instead. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => 'no error',
    (reason: unknown) => reason,
  )
  return error instanceof StorageError ? error.code : String(error)
}

/** Every byte differs from its neighbours, and parts of the same size from each other. */
export function bytes(size: number, seed = 1): Buffer {
  const all = Buffer.allocUnsafe(size)
  let state = seed
  for (let at = 0; at < size; at++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    all[at] = state >>> 24
  }
  return all
}

/** A stream in chunks of a size that divides nothing. */
export async function* chunked(data: Buffer, size = 100_003): AsyncGenerator<Buffer> {
  for (let at = 0; at < data.length; at += size) yield data.subarray(at, at + size)
}

const sum = (data: Uint8Array) => createHash('sha256').update(data).digest('hex')
const byBytes = (a: string, b: string) => Buffer.compare(Buffer.from(a), Buffer.from(b))
const mib = 1024 * 1024

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

const strange = [
  'a b/c  d',
  'a+b',
  'a%20b',
  'a%2Fb',
  '%2e%2e/%2E',
  '...',
  '.hidden/x.',
  '!\'()*~_-.$&,;:@=?#[]{}|^`<>"\\',
  'ümläut/é/e\u0301',
  '漢字/🌊/\u{10fffd}',
  '\ue000\uffee',
  'tab\tnew\nline\rbell\u0007delete\u007f',
  ' leading and trailing ',
  'amp&amp;&lt;x&#10;',
  'CON/aux.txt',
]

/** Registers the suite for one kind of storage. `make` gives a fresh, empty place. */
export function storageConformance(name: string, make: () => Promise<Place>): void {
  describe(name, () => {
    let place: Place
    let storage: Storage
    beforeEach(async () => {
      place = await make()
      storage = await place.open()
    })
    afterEach(async () => {
      await storage.close()
      await place.remove()
    })
    const read = async (key: string, range?: { start: number; end: number }) => {
      const found = await storage.get(key, range)
      return found && (await buffer(found.body))
    }
    const text = async (key: string, range?: { start: number; end: number }) => (await read(key, range))?.toString()
    const keys = async (prefix = '', options?: { after?: string; limit?: number }) =>
      (await storage.list(prefix, options)).map((each) => each.key)
    const putAll = async (...all: string[]) => {
      for (const key of all) await storage.put(key, Buffer.from(key))
    }

    test('put, stat, get and list tell the same, also after opening it again', async () => {
      const put = await storage.put('apps/a1/main.ts', Buffer.from('hello'))
      expect(put).toEqual({ size: 5, etag: expect.stringMatching(/^"[^"]+"$/), modifiedAt: expect.any(Number) })
      expect(Math.abs(put.modifiedAt - Date.now())).toBeLessThan(60_000)
      await storage.close()
      storage = await place.open()
      expect(await storage.stat('apps/a1/main.ts')).toEqual(put)
      const got = await storage.get('apps/a1/main.ts')
      expect(got?.info).toEqual(put)
      expect((await buffer(got?.body ?? Readable.from([]))).toString()).toBe('hello')
      expect(await storage.list('')).toEqual([{ key: 'apps/a1/main.ts', ...put }])
    })

    test('replaces, with another etag', async () => {
      const first = await storage.put('x', Buffer.from('one'))
      const second = await storage.put('x', Readable.from([Buffer.from('t'), Buffer.from('wo')]))
      expect(second.etag).not.toBe(first.etag)
      expect(await text('x')).toBe('two')
      expect(await keys()).toEqual(['x'])
    })

    test('what is not there is undefined or false', async () => {
      await putAll('a/b')
      expect(await storage.get('a')).toBeUndefined()
      expect(await storage.get('a/b/c', { start: 0, end: 1 })).toBeUndefined()
      expect(await storage.stat('nothing')).toBeUndefined()
      expect(await storage.delete('a')).toBe(false)
      expect(await storage.list('b')).toEqual([])
      expect(await storage.deletePrefix('b')).toBe(0)
    })

    test('deletes', async () => {
      await putAll('a/b/c')
      expect(await storage.delete('a/b/c')).toBe(true)
      expect(await storage.delete('a/b/c')).toBe(false)
      expect(await storage.stat('a/b/c')).toBeUndefined()
      expect(await keys()).toEqual([])
    })

    test('keeps empty objects', async () => {
      async function* nothing(): AsyncGenerator<Uint8Array> {}
      expect((await storage.put('bytes', new Uint8Array())).size).toBe(0)
      expect((await storage.put('stream', nothing())).size).toBe(0)
      expect(await text('bytes')).toBe('')
      expect(await text('stream')).toBe('')
      expect(await text('stream', { start: 0, end: 9 })).toBe('')
    })

    test('reads ranges, which end with the object', async () => {
      await storage.put('x', Buffer.from('0123456789'))
      expect(await text('x', { start: 0, end: 0 })).toBe('0')
      expect(await text('x', { start: 3, end: 5 })).toBe('345')
      expect(await text('x', { start: 8, end: 1000 })).toBe('89')
      expect(await text('x', { start: 10, end: 12 })).toBe('')
      const part = await storage.get('x', { start: 2, end: 3 })
      part?.body.destroy()
      expect(part?.info.size).toBe(10)
      for (const [start, end] of [
        [-1, 2],
        [3, 2],
        [0.5, 2],
        [0, Number.NaN],
      ] as const)
        await expect(storage.get('x', { start, end })).rejects.toThrow(RangeError)
    })

    test('keys of any characters are themselves', async () => {
      for (const key of strange) await storage.put(key, Buffer.from(`<${key}>`))
      for (const key of strange) expect([key, await text(key)]).toEqual([key, `<${key}>`])
      expect(await keys()).toEqual([...strange].sort(byBytes))
      const sorted = [...strange].sort(byBytes)
      for (const [index, key] of sorted.entries()) {
        expect([key, await keys(key)]).toEqual([key, [key]])
        expect(await keys('', { after: key, limit: 1 })).toEqual(sorted.slice(index + 1, index + 2))
      }
      expect(await storage.delete('a+b')).toBe(true)
      expect(await keys('a')).toEqual(strange.filter((each) => each.startsWith('a') && each !== 'a+b').sort(byBytes))
      expect(await storage.deletePrefix('tab')).toBe(1)
      for (const first of new Set(sorted.map((each) => [...each][0] ?? ''))) await storage.deletePrefix(first)
      expect(await keys()).toEqual([])
    })

    test('any keys: list is the sorted set of what was put', async () => {
      const segment = fc
        .string({ unit: 'grapheme', minLength: 1, maxLength: 6 })
        .filter((each) => !['.', '..'].includes(each) && !/[\0/]/.test(each) && each.isWellFormed())
      const key = fc.array(segment, { minLength: 1, maxLength: 3 }).map((each) => each.join('/'))
      await fc.assert(
        fc.asyncProperty(fc.uniqueArray(key, { maxLength: 8 }), fc.nat(7), async (all, pick) => {
          const inside = all.map((each) => `p/${each}`)
          await putAll(...inside)
          const sorted = [...inside].sort(byBytes)
          expect(await keys('p/')).toEqual(sorted)
          const after = sorted[pick]
          if (after) expect(await keys('', { after })).toEqual(sorted.slice(pick + 1))
          for (const each of inside.slice(0, 2)) expect(await text(each)).toBe(each)
          expect(await storage.deletePrefix('p')).toBe(inside.length)
        }),
        { numRuns: 20, interruptAfterTimeLimit: 4000 },
      )
    })

    test('refuses what is no key', async () => {
      const bad = ['', '/', '/a', 'a/', 'a//b', '.', '..', '../x', 'a/../b', 'a/.', 'a\0b', 'x'.repeat(901), '\ud800']
      for (const key of bad) {
        expect([key, await codeOf(storage.put(key, Buffer.from('x')))]).toEqual([key, 'bad_key'])
        expect([key, await codeOf(storage.get(key))]).toEqual([key, 'bad_key'])
        expect([key, await codeOf(storage.stat(key))]).toEqual([key, 'bad_key'])
        expect([key, await codeOf(storage.delete(key))]).toEqual([key, 'bad_key'])
      }
      expect(await codeOf(storage.list('a\0'))).toBe('bad_key')
      expect(await codeOf(storage.list('', { after: '\0' }))).toBe('bad_key')
      expect(await codeOf(storage.deletePrefix(''))).toBe('bad_key')
      expect(await keys()).toEqual([])
    })

    test('a key may be the folder of others, and differ in capital letters only', async () => {
      const all = ['a', 'a/b', 'a/b/c', 'a/B', 'A', 'A/b', 'a-b', 'a0']
      await putAll(...all)
      for (const key of all) expect(await text(key)).toBe(key)
      expect(await keys()).toEqual(['A', 'A/b', 'a', 'a-b', 'a/B', 'a/b', 'a/b/c', 'a0'])
      expect(await keys('a/')).toEqual(['a/B', 'a/b', 'a/b/c'])
      expect(await keys('a/b')).toEqual(['a/b', 'a/b/c'])
      expect(await storage.delete('a/b')).toBe(true)
      expect(await keys('a/b')).toEqual(['a/b/c'])
    })

    test('segments may be as long as keys', async () => {
      const long = 'n'.repeat(300)
      const all = [long, `${long}/${'m'.repeat(500)}`, `${long}m`, 'n'.repeat(200), 'N'.repeat(900), '漢'.repeat(300)]
      await putAll(...all)
      for (const key of all) expect(await text(key)).toBe(key)
      expect(await keys()).toEqual([...all].sort(byBytes))
      expect(await keys(`${long}/`)).toEqual([all[1]])
      expect(await keys('n'.repeat(250), { after: long })).toEqual([...all.slice(1, 3)].sort(byBytes))
      expect(await storage.deletePrefix('n')).toBe(4)
      expect(await keys()).toEqual(['N'.repeat(900), '漢'.repeat(300)])
    })

    test('lists page by page', async () => {
      const all = Array.from({ length: 25 }, (_, index) => `p/${index % 5}/${index}`)
      await putAll('o', ...all, 'q')
      const sorted = [...all].sort(byBytes)
      expect(await keys('p/')).toEqual(sorted)
      expect(await keys('p/', { limit: 12 })).toEqual(sorted.slice(0, 12))
      const seen: string[] = []
      for (let after: string | undefined; ; after = seen.at(-1)) {
        const page = await keys('p/', { after, limit: 7 })
        expect(page.length).toBeLessThanOrEqual(7)
        if (page.length === 0) break
        seen.push(...page)
      }
      expect(seen).toEqual(sorted)
      expect(await keys('p/', { limit: 0 })).toEqual([])
      expect(await keys('p/1', { after: 'p/1/5' })).toEqual(['p/1/6'])
      expect(await keys('p/', { after: 'a' })).toEqual(sorted)
      expect(await keys('p/', { after: 'q' })).toEqual([])
      expect(await keys('p/', { after: 'p/4/5' })).toEqual(['p/4/9'])
      expect(await storage.deletePrefix('p')).toBe(25)
      expect(await keys()).toEqual(['o', 'q'])
    })

    test('deletePrefix deletes what starts so, and nothing else', async () => {
      await putAll('a/1', 'a/2/3', 'a', 'ab', 'b/a/1', 'B')
      expect(await storage.deletePrefix('a/')).toBe(2)
      expect(await keys()).toEqual(['B', 'a', 'ab', 'b/a/1'])
      expect(await storage.deletePrefix('a')).toBe(2)
      expect(await keys()).toEqual(['B', 'b/a/1'])
    })

    test('more than maxBytes is too_large, and what was there stays', async () => {
      await storage.put('x', Buffer.from('old'))
      expect((await storage.put('y', Buffer.from('12345'), { maxBytes: 5 })).size).toBe(5)
      expect(await codeOf(storage.put('x', Buffer.from('123456'), { maxBytes: 5 }))).toBe('too_large')
      let closed = false
      async function* endless(): AsyncGenerator<Buffer> {
        try {
          for (;;) yield bytes(mib)
        } finally {
          closed = true
        }
      }
      expect(await codeOf(storage.put('x', endless(), { maxBytes: 20 * mib }))).toBe('too_large')
      expect(closed).toBe(true)
      expect(await text('x')).toBe('old')
    })

    test('a source that fails leaves what was there, and its error is passed on', async () => {
      await storage.put('x', Buffer.from('old'))
      const problem = Object.assign(new Error('the source broke'), { syscall: 'read' })
      async function* broken(size: number): AsyncGenerator<Buffer> {
        yield bytes(size)
        throw problem
      }
      await expect(storage.put('x', broken(10))).rejects.toBe(problem)
      await expect(storage.put('x', broken(20 * mib))).rejects.toBe(problem)
      expect(await text('x')).toBe('old')
      expect(await keys()).toEqual(['x'])
    })

    test('the signal ends a put, even while its source gives nothing', async () => {
      const controller = new AbortController()
      const reason = new Error('changed my mind')
      const source = new Readable({ read() {} })
      source.push(bytes(9 * mib))
      source.once('data', () => {})
      const put = storage.put('x', source, { signal: controller.signal })
      setTimeout(() => controller.abort(reason), 100)
      await expect(put).rejects.toBe(reason)
      expect(source.destroyed).toBe(true)
      await expect(storage.put('x', Buffer.from('x'), { signal: controller.signal })).rejects.toBe(reason)
      expect(await storage.stat('x')).toBeUndefined()
    })

    test.each([8 * mib - 1, 8 * mib, 8 * mib + 1, 21 * mib + 7])('%i bytes come back', async (size) => {
      const data = bytes(size)
      const put = await storage.put('large', chunked(data))
      expect(put.size).toBe(size)
      expect(sum((await read('large')) ?? Buffer.alloc(0))).toBe(sum(data))
      expect(await storage.stat('large')).toEqual(put)
      expect(await storage.list('large')).toEqual([{ key: 'large', ...put }])
      const middle = { start: 8 * mib - 5, end: 8 * mib + 4 }
      expect(await read('large', middle)).toEqual(data.subarray(middle.start, middle.end + 1))
      expect(await storage.delete('large')).toBe(true)
      expect(await keys()).toEqual([])
    })

    test('large bytes are stored as large streams are', async () => {
      const data = bytes(17 * mib)
      await storage.put('large', data)
      expect(sum((await read('large')) ?? Buffer.alloc(0))).toBe(sum(data))
    })

    test('a long stream does not stay in memory', async () => {
      let most = 0
      async function* stream(): AsyncGenerator<Uint8Array> {
        for (let count = 0; count < 128; count++) {
          yield new Uint8Array(mib)
          if (count % 16 === 15) collectGarbage()
          most = Math.max(most, process.memoryUsage().arrayBuffers)
        }
      }
      const before = process.memoryUsage().arrayBuffers
      await storage.put('long', stream())
      expect((most - before) / mib).toBeLessThan(96)
    })

    test('of several puts of a key one wins, whole', async () => {
      const all = Array.from({ length: 8 }, (_, index) => bytes(50_000, index + 1))
      await Promise.all(all.map((data) => storage.put('x', chunked(data, 7001))))
      expect(all.map(sum)).toContain(sum((await read('x')) ?? Buffer.alloc(0)))
    })

    test('putting into a folder while its last object is deleted does no harm', async () => {
      for (let round = 0; round < 5; round++) {
        await storage.put('deep/folder/gone', Buffer.from('x'))
        await Promise.all([storage.delete('deep/folder/gone'), putAll('deep/folder/stays')])
        expect(await keys()).toEqual(['deep/folder/stays'])
        await storage.delete('deep/folder/stays')
      }
    })

    test('a body that nobody reads may be destroyed, and closes', async () => {
      await storage.put('x', bytes(3 * mib))
      const found = await storage.get('x')
      const closed = new Promise((resolve) => found?.body.once('close', resolve))
      found?.body.destroy()
      await closed
    })

    test('close gives up what is being put; nothing works afterwards', async () => {
      const source = new Readable({ read() {} })
      source.push(bytes(10))
      const put = codeOf(storage.put('x', source))
      await storage.close()
      expect(await put).toBe('storage')
      expect(await codeOf(storage.put('x', Buffer.from('x')))).toBe('storage')
      expect(await codeOf(storage.list(''))).toBe('storage')
      storage = await place.open()
      expect(await keys()).toEqual([])
    })
  })
}
