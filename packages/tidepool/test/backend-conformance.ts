/**
 * What every backend must do: the suite is a function, so that a second backend runs the same tests.
 * To add a rule: a test here; to add a backend: a test file that calls `backendConformance`.
 */
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Backend, UserRecord } from '../src/backend.ts'
import { TpError } from '../src/errors.ts'
import { createDb } from '../src/kv.ts'

/** A storage that outlives the backend object: `open` may be called again after `close` and finds the data. */
export interface Storage {
  open: () => Promise<Backend>
  remove: () => Promise<void>
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  return error instanceof TpError ? error.code : `no TpError: ${String(error)}`
}

const user = (id: string, email: string): UserRecord => ({
  id,
  email,
  name: null,
  avatarUrl: null,
  passwordHash: null,
  confirmed: false,
  subscriptions: [],
  purchased: [],
  epoch: 0,
  google: null,
  stripeCustomer: null,
  createdAt: 0,
  data: {},
})

/** Registers the suite for one backend. `make` gives a fresh, empty storage. */
export function backendConformance(name: string, make: () => Promise<Storage>): void {
  describe(`${name}: records`, () => {
    let storage: Storage
    let backend: Backend
    beforeEach(async () => {
      storage = await make()
      backend = await storage.open()
    })
    afterEach(async () => {
      await backend.close()
      await storage.remove()
    })
    const put = (key: string, value: string | number) => backend.write([{ op: 'set', space: 'db', key, value }])

    test('reads what was written, as a fresh copy, and again after a restart', async () => {
      const value = { a: [1, 'zwei', null, { ü: '\u2028"\\\n' }] }
      await backend.write([{ op: 'set', space: 'db', key: 'x', value }])
      const first = await backend.read('db', 'x')
      expect(first?.value).toEqual(value)
      if (first && typeof first.value === 'object' && first.value !== null) Object.assign(first.value, { a: 'changed' })
      expect((await backend.read('db', 'x'))?.value).toEqual(value)
      await backend.close()
      backend = await storage.open()
      expect((await backend.read('db', 'x'))?.value).toEqual(value)
      expect(await backend.read('db', 'y')).toBeUndefined()
    })

    test('keys of every kind survive', async () => {
      const keys = ['__proto__', 'constructor', '12', 'ключ', '😀', 'a b/c:d', '"', '\\', 'x'.repeat(1024)]
      for (const key of keys) await put(key, key)
      await backend.close()
      backend = await storage.open()
      expect((await backend.keys('db')).sort()).toEqual([...keys].sort())
      for (const key of keys) expect((await backend.read('db', key))?.value).toBe(key)
      expect(await codeOf(put('', 1))).toBe('bad_key')
      expect(await codeOf(put('x'.repeat(1025), 1))).toBe('bad_key')
    })

    test('what is no key fails for who gives it, and not for those who read at that moment', async () => {
      const db = createDb(() => backend)
      await db.set('a', 1)
      for (const key of [undefined, null, 5, ['a'], { a: 1 }]) {
        // What JavaScript lets an app do with what came with a request.
        const give = (name: 'get' | 'set' | 'increment' | 'delete' | 'prefix') => Reflect.apply(db[name], db, [key, 1])
        const [before, refused, after] = await Promise.allSettled([db.get('a'), give('get'), db.get('a')])
        expect([before, after]).toMatchObject([{ value: 1 }, { value: 1 }])
        expect(refused).toMatchObject({ reason: { code: 'bad_key' } })
        for (const name of ['set', 'increment', 'delete', 'prefix'] as const)
          expect(await codeOf(give(name))).toBe('bad_key')
      }
      expect(await codeOf(Reflect.apply(db.batch, db, [[{ op: 'add', key: 'a' }]]))).toBe('bad_value')
      expect(await db.keys()).toEqual(['a'])
    })

    test('a part of a millisecond is a time to live like any other', async () => {
      const [first] = await Promise.all([
        backend.write([{ op: 'set', space: 'db', key: 'short', value: 1, ttl: 5_000 * 1.1 * 0.9 + 0.5 }]),
        put('beside', 2),
      ])
      expect(first).toMatchObject({ ok: true })
      expect((await backend.read('db', 'short'))?.expiresIn).toBeLessThanOrEqual(4_951)
      expect((await backend.read('db', 'beside'))?.value).toBe(2)
    })

    test('a write is all or nothing over spaces', async () => {
      await put('x', 1)
      const outcome = await backend.write([
        { op: 'set', space: 'users', key: 'u1', value: user('u1', 'a@b.c'), if: 'absent' },
        { op: 'set', space: 'db', key: 'x', value: 2, if: 'absent' },
      ])
      expect(outcome).toEqual({ ok: false, at: 1 })
      expect(await backend.read('users', 'u1')).toBeUndefined()
      expect((await backend.read('db', 'x'))?.value).toBe(1)
      const failed = backend.write([
        { op: 'set', space: 'db', key: 'y', value: 1 },
        { op: 'set', space: 'db', key: 'x', value: 'text' },
        { op: 'increment', space: 'db', key: 'x', by: 1 },
      ])
      expect(await codeOf(failed)).toBe('not_a_number')
      expect(await backend.keys('db')).toEqual(['x'])
    })

    test('conditions: version, absent, present, check', async () => {
      const made = await put('x', 1)
      const version = made.ok ? (made.results[0]?.version ?? 0) : 0
      expect((await backend.read('db', 'x'))?.version).toBe(version)
      const set = (value: number, condition: number | 'absent' | 'present') =>
        backend.write([{ op: 'set', space: 'db', key: 'x', value, if: condition }])
      expect(await set(2, version)).toMatchObject({ ok: true })
      expect(await set(3, version)).toEqual({ ok: false, at: 0 })
      expect(await set(3, 'absent')).toEqual({ ok: false, at: 0 })
      expect(await set(3, 'present')).toMatchObject({ ok: true })
      const guarded = await backend.write([
        { op: 'check', space: 'db', key: 'nothing', if: 'absent' },
        { op: 'delete', space: 'db', key: 'x', if: 'present' },
      ])
      expect(guarded).toMatchObject({ ok: true, results: [{}, { existed: true }] })
      expect(await backend.write([{ op: 'delete', space: 'db', key: 'x', if: 'present' }])).toEqual({
        ok: false,
        at: 0,
      })
      expect(await backend.write([{ op: 'delete', space: 'db', key: 'x' }])).toMatchObject({
        ok: true,
        results: [{ existed: false }],
      })
    })

    test('of many who race for one key, one wins; no increment is lost', async () => {
      const claims = await Promise.all(
        Array.from({ length: 20 }, (_, n) =>
          backend.write([{ op: 'set', space: 'tasks', key: 'nightly', value: `replica ${n}`, if: 'absent' }]),
        ),
      )
      expect(claims.filter((each) => each.ok)).toHaveLength(1)
      const counts = await Promise.all(
        Array.from({ length: 50 }, () => backend.write([{ op: 'increment', space: 'db', key: 'n', by: 2 }])),
      )
      const numbers = counts.map((each) => (each.ok ? each.results[0]?.number : undefined))
      expect(new Set(numbers).size).toBe(50)
      expect((await backend.read('db', 'n'))?.value).toBe(100)
    })

    test('what expires is gone for every operation, and its key is free', async () => {
      await backend.write([
        {
          op: 'set',
          space: 'tokens',
          key: 't',
          value: { purpose: 'magic', userId: null, email: null, epoch: 0, data: {} },
          ttl: 1_000,
        },
        { op: 'increment', space: 'limits', key: 'l', by: 1, ttl: 1_000 },
        { op: 'set', space: 'tasks', key: 'stays', value: 'me' },
      ])
      const again = await backend.write([{ op: 'increment', space: 'limits', key: 'l', by: 1, ttl: 60_000 }])
      expect(again).toMatchObject({ ok: true, results: [{ number: 2 }] })
      expect(again.ok && again.results[0]?.expiresIn).toBeLessThanOrEqual(1_000)
      await expect.poll(() => backend.read('tokens', 't'), { timeout: 10_000 }).toBeUndefined()
      await expect.poll(() => backend.count('limits'), { timeout: 10_000 }).toBe(0)
      expect(await backend.keys('tokens')).toEqual([])
      expect(await backend.write([{ op: 'delete', space: 'tokens', key: 't', if: 'present' }])).toEqual({
        ok: false,
        at: 0,
      })
      const fresh = await backend.write([{ op: 'increment', space: 'limits', key: 'l', by: 1, ttl: 60_000 }])
      expect(fresh).toMatchObject({ ok: true, results: [{ number: 1 }] })
      await backend.close()
      backend = await storage.open()
      expect(await backend.keys('tokens')).toEqual([])
      expect(await backend.keys('tasks')).toEqual(['stays'])
    })

    test('scans by prefix, in order, both ways, page by page', async () => {
      const keys = ['a', 'post', 'post:', 'post:1', 'post:10', 'post:2', 'post:\uffff', 'post:😀', 'posu', 'z']
      for (const key of keys) await put(key, key.length)
      const posts = keys.filter((key) => key.startsWith('post:')).sort()
      expect(await backend.keys('db', { prefix: 'post:' })).toEqual(posts)
      expect(await backend.keys('db', { prefix: 'post:', reverse: true })).toEqual([...posts].reverse())
      expect(await backend.keys('db')).toEqual([...keys].sort())
      expect(await backend.count('db', 'post:')).toBe(posts.length)
      expect(await backend.count('db')).toBe(keys.length)
      for (const reverse of [false, true]) {
        const paged: string[] = []
        for (let after: string | undefined; ; ) {
          const page = await backend.scan('db', { prefix: 'post:', reverse, limit: 2, after })
          expect(page.length).toBeLessThanOrEqual(2)
          if (page.length === 0) break
          paged.push(...page.map((each) => each.key))
          after = page.at(-1)?.key
        }
        expect(paged).toEqual(reverse ? [...posts].reverse() : posts)
      }
      expect(await backend.keys('db', { prefix: 'post:', after: 'a' })).toEqual(posts)
      expect(await backend.keys('db', { prefix: 'post:', after: 'z' })).toEqual([])
      expect(await backend.keys('db', { prefix: 'post:', after: 'z', reverse: true })).toEqual([...posts].reverse())
      expect(await backend.scan('db', { limit: 0 })).toEqual([])
    })

    test('values that are not JSON are refused', async () => {
      const circular: { [key: string]: never[] } = {}
      Object.assign(circular, { self: circular })
      expect(await codeOf(backend.write([{ op: 'set', space: 'db', key: 'x', value: circular }]))).toBe('bad_value')
      expect(await backend.read('db', 'x')).toBeUndefined()
    })

    test('after close everything says that it is closed', async () => {
      await backend.close()
      expect(await codeOf(backend.read('db', 'x'))).toBe('unavailable')
      expect(await codeOf(put('x', 1))).toBe('unavailable')
      backend = await storage.open()
    })
  })

  describe(`${name}: files and mail`, () => {
    let storage: Storage
    let backend: Backend
    beforeEach(async () => {
      storage = await make()
      backend = await storage.open()
    })
    afterEach(async () => {
      await backend.close()
      await storage.remove()
    })

    test('writes bytes and streams, reads ranges, replaces, deletes', async () => {
      const info = await backend.files.write('a/b/hello.txt', Buffer.from('hello world'))
      expect(info).toMatchObject({ name: 'a/b/hello.txt', size: 11, contentType: 'text/plain' })
      const part = await backend.files.read('a/b/hello.txt', { start: 6, end: 8 })
      expect(String(part && (await buffer(part.body)))).toBe('wor')
      const replaced = await backend.files.write('a/b/hello.txt', Readable.from([Buffer.from('by'), Buffer.from('e')]))
      expect(replaced.etag).not.toBe(info.etag)
      const whole = await backend.files.read('a/b/hello.txt')
      expect(String(whole && (await buffer(whole.body)))).toBe('bye')
      expect(await backend.files.delete('a/b/hello.txt')).toBe(true)
      expect(await backend.files.delete('a/b/hello.txt')).toBe(false)
      expect(await backend.files.read('a/b/hello.txt')).toBeUndefined()
      expect(await backend.files.list()).toEqual([])
    })

    test('a write that breaks off or is too large leaves what was there', async () => {
      await backend.files.write('x.bin', Buffer.from('old'))
      async function* broken(): AsyncGenerator<Uint8Array> {
        yield Buffer.from('new')
        throw new Error('the client went away')
      }
      await expect(backend.files.write('x.bin', broken())).rejects.toThrow('the client went away')
      expect(await codeOf(backend.files.write('x.bin', Buffer.from('12345'), { maxBytes: 4 }))).toBe('too_large')
      expect((await backend.files.stat('x.bin'))?.size).toBe(3)
      expect((await backend.files.list()).map((each) => each.name)).toEqual(['x.bin'])
    })

    test('lists in the order of names, by prefix, page by page', async () => {
      const names = ['a-b', 'a.txt', 'a/1', 'a/2/x', 'b', 'b.d/e']
      for (const name of names) await backend.files.write(name, Buffer.from(name))
      expect((await backend.files.list()).map((each) => each.name)).toEqual([...names].sort())
      expect((await backend.files.list({ prefix: 'a/' })).map((each) => each.name)).toEqual(['a/1', 'a/2/x'])
      expect((await backend.files.list({ after: 'a/1', limit: 2 })).map((each) => each.name)).toEqual(['a/2/x', 'b'])
    })

    test.each([
      '',
      '/etc/passwd',
      '../x',
      'a/../../x',
      'a//b',
      './a',
      'a/.',
      'a\\b',
      'a\0b',
      `${'x'.repeat(300)}`,
    ])('the name %j is refused', async (name) => {
      expect(await codeOf(backend.files.write(name, Buffer.from('x')))).toBe('bad_key')
      expect(await codeOf(backend.files.read(name))).toBe('bad_key')
      expect(await codeOf(backend.files.delete(name))).toBe('bad_key')
    })

    test('what is no text is no name', async () => {
      for (const name of [undefined, null, 5, ['a']])
        for (const what of ['read', 'write', 'delete', 'stat'] as const) {
          const call = async () => Reflect.apply(backend.files[what], backend.files, [name, Buffer.from('x')])
          expect(await codeOf(call())).toBe('bad_key')
        }
    })

    test('keeps mail, newest first', async () => {
      const first = await backend.mail.send({ to: 'a@b.c', subject: 'One', text: 'first' })
      await expect.poll(() => Date.now() > first.at).toBe(true)
      const attachments = [{ filename: 'x.txt', content: 'aGk=', contentType: 'text/plain' }]
      const second = await backend.mail.send({ to: 'a@b.c', subject: 'Two', text: 't', html: '<b>t</b>', attachments })
      expect((await backend.mail.list()).map((each) => each.subject)).toEqual(['Two', 'One'])
      expect((await backend.mail.list({ before: second.id })).map((each) => each.subject)).toEqual(['One'])
      expect(await backend.mail.get(second.id)).toEqual(second)
      expect(await backend.mail.get('../../secrets')).toBeUndefined()
    })
  })
}
