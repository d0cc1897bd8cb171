/** The S3 storage against OpenStack Swift, which checks every signature. */
import { randomBytes } from 'node:crypto'
import { buffer } from 'node:stream/consumers'
import { inspect } from 'node:util'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { openS3Storage } from '../src/storage/s3.ts'
import { createS3Client, type Patience } from '../src/storage/s3-request.ts'
import { openStorage, type Storage, StorageError } from '../src/storage.ts'
import { type Fault, type Faults, type Seen, startFaults } from './faults.ts'
import { bytes, chunked, codeOf, storageConformance } from './storage-conformance.ts'
import { hasSwift, type Swift, startSwift } from './swift.ts'

const mib = 1024 * 1024
const impatient = { attempts: 3, backoffMs: 5, timeoutMs: 10_000 }
const bucketName = () => `test-${randomBytes(6).toString('hex')}`

async function errorOf(promise: Promise<unknown>): Promise<StorageError> {
  const error: unknown = await promise.catch((reason: unknown) => reason)
  if (error instanceof StorageError) return error
  throw new Error(`not a StorageError: ${String(error)}`)
}

describe('addresses', () => {
  test.each([
    'nowhere',
    'ftp://x',
    'http://user:secret@localhost',
    'http://localhost?secret',
    'secret://',
  ])('%s is none, and is not repeated', async (endpoint) => {
    const error = await errorOf(openStorage({ endpoint, bucket: 'abc', accessKey: 'a', secretKey: 'b' }))
    expect(error.code).toBe('storage')
    expect(inspect(error)).not.toContain('secret@')
    expect(error.message).not.toContain('secret')
  })

  test('nobody there is an error with a hint', async () => {
    const options = { endpoint: 'http://127.0.0.1:1', bucket: 'abc', accessKey: 'a', secretKey: 'the-secret' }
    const error = await errorOf(openS3Storage(options, impatient))
    expect(error).toMatchObject({ code: 'storage', hint: expect.stringContaining('endpoint') })
    expect(inspect(error, { depth: 20, showHidden: true })).not.toContain('the-secret')
  })

  test('names that are no buckets are refused', async () => {
    for (const bucket of ['', 'a', 'a/b', '..', '../x'])
      expect(
        await codeOf(openStorage({ endpoint: 'http://127.0.0.1:1', bucket, accessKey: 'a', secretKey: 'b' })),
      ).toBe('storage')
  })
})

describe.skipIf(!hasSwift())('against Swift', () => {
  let swift: Swift
  beforeAll(async () => {
    swift = await startSwift()
  })
  afterAll(() => swift?.stop())
  const options = (bucket: string) => {
    const { endpoint, accessKey, secretKey } = swift
    return { endpoint, bucket, accessKey, secretKey }
  }

  storageConformance('storage on S3', async () => {
    const bucket = bucketName()
    return { open: () => openStorage(options(bucket)), remove: async () => {} }
  })

  describe('keys of the service', () => {
    test('a wrong secret is refused, and is not in the error', async () => {
      const bucket = bucketName()
      const storage = await openStorage(options(bucket))
      await storage.put('x', Buffer.from('x'))
      for (const wrong of [
        { secretKey: `${swift.secretKey}x` },
        { accessKey: 'test:nobody' },
        { accessKey: 'other:tester' },
      ]) {
        const error = await errorOf(openStorage({ ...options(bucket), ...wrong }))
        expect(error.code).toBe('storage')
        expect(error.message).toContain('403')
        expect(error.hint).toContain('secret key')
        expect(inspect(error, { depth: 20, showHidden: true })).not.toContain(swift.secretKey)
      }
      expect(inspect(storage, { depth: 20, showHidden: true })).not.toContain(swift.secretKey)
    })

    test('opens a bucket that is there, and makes one that is not', async () => {
      const bucket = bucketName()
      const first = await openStorage(options(bucket))
      await first.put('x', Buffer.from('x'))
      const second = await openStorage(options(bucket))
      expect(await second.stat('x')).toEqual(await first.stat('x'))
    })
  })

  describe('when the network or the service fails', () => {
    let faults: Faults
    let storage: Storage
    let bucket: string
    let patience: Patience
    beforeEach(async () => {
      patience = { ...impatient }
      faults = await startFaults(swift.endpoint)
      bucket = bucketName()
      storage = await openS3Storage({ ...options(bucket), endpoint: faults.endpoint }, patience)
      faults.seen.length = 0
    })
    afterEach(async () => {
      faults.decide = () => undefined
      await storage.close()
      await faults.stop()
    })
    /** Does harm to the first request that fits. */
    const once = (fault: Fault, fits: (seen: Seen) => boolean = () => true) => {
      let done = false
      faults.decide = (seen) => {
        if (done || !fits(seen)) return undefined
        done = true
        return fault
      }
    }
    const uploads = async () => {
      const client = createS3Client(options(bucket), impatient)
      return (await client.send({ method: 'GET', query: { uploads: '' } })).text.match(/<Upload>/g)?.length ?? 0
    }
    const read = async (key: string) => {
      const found = await storage.get(key)
      return found && (await buffer(found.body))
    }

    test.each<Fault>(['busy', 'cut', 'lost'])('%s: every call is repeated', async (fault) => {
      once(fault)
      const put = await storage.put('x', Buffer.from('hello'))
      expect(faults.seen.map((each) => each.method)).toEqual(['PUT', 'PUT', 'HEAD'])
      once(fault)
      expect(await storage.stat('x')).toEqual(put)
      once(fault)
      expect((await read('x'))?.toString()).toBe('hello')
      once(fault)
      expect(await storage.list('')).toEqual([{ key: 'x', ...put }])
      once(fault, (seen) => seen.method === 'DELETE')
      expect(await storage.delete('x')).toBe(true)
      await storage.put('y', Buffer.from('y'))
      once(fault, (seen) => seen.method === 'POST')
      expect(await storage.deletePrefix('y')).toBe(1)
      expect(await storage.list('')).toEqual([])
    })

    test.each<[Fault, string]>([
      ['busy', '?uploads='],
      ['cut', 'partNumber=1'],
      ['lost', 'partNumber=2'],
      ['busy', '?uploadId='],
      ['lost', '?uploadId='],
      ['late', '?uploadId='],
    ])('an upload in parts survives %s at %s', async (fault, at) => {
      const data = bytes(9 * mib)
      once(fault, (seen) => seen.url.includes(at))
      const put = await storage.put('large', chunked(data))
      expect(faults.seen.filter((each) => each.fault)).toHaveLength(1)
      expect(put).toEqual(await storage.stat('large'))
      expect((await read('large'))?.equals(data)).toBe(true)
      expect(Math.max(...faults.seen.map((each) => each.size))).toBe(8 * mib)
      expect(await uploads()).toBe(0)
    })

    test.each<[Fault, string]>([
      ['busy', 'partNumber=2'],
      ['cut', 'partNumber=1'],
      ['late', '?uploadId='],
    ])('an upload that fails with %s at %s is taken back', async (fault, at) => {
      await storage.put('large', Buffer.from('old'))
      faults.decide = (seen) => (seen.url.includes(at) && seen.method !== 'DELETE' ? fault : undefined)
      expect(await codeOf(storage.put('large', chunked(bytes(9 * mib))))).toBe('storage')
      expect(faults.seen.filter((each) => each.fault)).toHaveLength(impatient.attempts)
      expect((await read('large'))?.toString()).toBe('old')
      expect(await uploads()).toBe(0)
    })

    test('an upload whose end was done, and the answer to it lost, is known by its etag', async () => {
      const ends: Fault[] = ['lost', 'gone']
      faults.decide = (seen) => (seen.url.includes('?uploadId=') && seen.method === 'POST' ? ends.shift() : undefined)
      const data = bytes(9 * mib)
      const put = await storage.put('large', data)
      expect(ends).toEqual([])
      expect(put).toEqual(await storage.stat('large'))
      expect((await read('large'))?.equals(data)).toBe(true)
      faults.decide = (seen) => (seen.url.includes('?uploadId=') && seen.method === 'POST' ? 'gone' : undefined)
      expect((await errorOf(storage.put('large', bytes(9 * mib, 2)))).message).toContain('NoSuchUpload')
      expect((await read('large'))?.equals(data)).toBe(true)
    })

    test('close takes back what is on its way before it returns', async () => {
      const arrived = new Promise<void>((resolve) => {
        faults.decide = (seen) => {
          if (!seen.url.includes('partNumber=2')) return undefined
          resolve()
          return 'hang'
        }
      })
      const put = codeOf(storage.put('x', bytes(9 * mib)))
      await arrived
      expect(await uploads()).toBe(1)
      await storage.close()
      expect(await uploads()).toBe(0)
      expect(await put).toBe('storage')
    })

    test('an upload is taken back that is given up while a part is on its way, or whose source fails', async () => {
      const controller = new AbortController()
      const reason = new Error('changed my mind')
      faults.decide = (seen) => {
        if (!seen.url.includes('partNumber=2')) return undefined
        controller.abort(reason)
        return 'hang'
      }
      await expect(storage.put('x', bytes(9 * mib), { signal: controller.signal })).rejects.toBe(reason)
      faults.decide = () => undefined
      expect(await codeOf(storage.put('x', chunked(bytes(17 * mib)), { maxBytes: 16.5 * mib }))).toBe('too_large')
      expect(faults.seen.filter((each) => each.method === 'DELETE')).toHaveLength(2)
      expect(await uploads()).toBe(0)
      expect(await storage.list('')).toEqual([])
    })

    test('a service that stays busy, or answers nothing, is an error', async () => {
      faults.decide = () => 'busy'
      const error = await errorOf(storage.stat('x'))
      expect(error).toMatchObject({ code: 'storage', message: expect.stringContaining('503') })
      faults.decide = () => 'hang'
      const hurried = openS3Storage({ ...options(bucket), endpoint: faults.endpoint }, { ...impatient, timeoutMs: 50 })
      expect((await errorOf(hurried)).message).toContain('did not answer in time')
    })

    test('an answer that breaks off is an error, never a short object', async () => {
      await storage.put('x', bytes(4 * mib))
      once('half')
      const found = await storage.get('x')
      expect(await codeOf(found ? buffer(found.body) : Promise.resolve())).toBe('storage')
    })

    test('an answer that stops coming is an error; one that is read slowly is not', async () => {
      const data = bytes(4 * mib)
      await storage.put('x', data)
      patience.timeoutMs = 500
      once('stall')
      const stalled = await storage.get('x')
      const error = await errorOf(stalled ? buffer(stalled.body) : Promise.resolve())
      expect(error.message).toContain('did not answer in time')
      const slow = await storage.get('x')
      const chunks: Buffer[] = []
      for await (const chunk of slow?.body ?? []) {
        if (chunks.length === 0) await new Promise((resolve) => setTimeout(resolve, 700))
        chunks.push(chunk as Buffer)
      }
      expect(Buffer.concat(chunks).equals(data)).toBe(true)
    })

    test('a refusal is not repeated', async () => {
      const wrong = { ...options(bucket), endpoint: faults.endpoint, secretKey: 'wrong' }
      await errorOf(openS3Storage(wrong, impatient))
      expect(faults.seen).toHaveLength(1)
    })
  })
})
