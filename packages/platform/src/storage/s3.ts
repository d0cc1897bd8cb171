/**
 * Objects in a bucket of a service that speaks S3.
 *
 * Objects above 8 MiB are uploaded in parts of 8 MiB, all of one size because some services insist. An upload that
 * fails is taken back; one whose process died leaves its parts, which only the service can remove: give the bucket a
 * rule that ends incomplete uploads after some days.
 *
 * Invariants: every request here may be sent twice. A second begin of an upload leaves an empty one that costs nothing;
 * a second end of it finds no upload, and then the object's etag tells whether the first had arrived.
 */
import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
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
import { createS3Client, element, type Patience, refused, type S3Options, type S3Request } from './s3-request.ts'

const partSize = 8 * 1024 * 1024
/** No service takes more. */
const maxParts = 10_000
const pageSize = 1000
/** Putting thousands of parts together takes the service a while. */
const completeMs = 10 * 60_000
const patient: Patience = { attempts: 4, backoffMs: 200, timeoutMs: 30_000 }

type Listed = StoredObject & { key: string }

const escapeXml = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what XML cannot say
const beyondXml = /[\u0000-\u001f\u007f-\u009f\ufffe\uffff]/

const quoted = (etag: string | null | undefined): string => `"${(etag ?? '').replace(/^W\/|"/g, '')}"`

/** Cuts a stream into parts of 8 MiB, of which the last may be shorter; none of them is empty. */
async function* partsOf(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, void> {
  let part = new Uint8Array(64 * 1024)
  let used = 0
  for await (let chunk of chunks) {
    while (chunk.length > 0) {
      const taken = chunk.subarray(0, partSize - used)
      chunk = chunk.subarray(taken.length)
      if (taken.length === partSize) {
        yield taken
        continue
      }
      if (used + taken.length > part.length) {
        const larger = new Uint8Array(Math.min(partSize, Math.max(part.length * 2, used + taken.length)))
        larger.set(part.subarray(0, used))
        part = larger
      }
      part.set(taken, used)
      used += taken.length
      if (used < partSize) continue
      yield part
      part = new Uint8Array(partSize)
      used = 0
    }
  }
  if (used > 0) yield part.subarray(0, used)
}

function infoOf(headers: Headers): StoredObject {
  const whole = /\/(\d+)$/.exec(headers.get('content-range') ?? '')?.[1] ?? headers.get('content-length')
  return {
    size: Number(whole),
    etag: quoted(headers.get('etag')),
    modifiedAt: Date.parse(headers.get('last-modified') ?? ''),
  }
}

function listed(xml: string): Listed[] {
  const encoded = element(xml, 'EncodingType') === 'url'
  return [...xml.matchAll(/<Contents>([\s\S]*?)<\/Contents>/g)].map(([, each = '']) => {
    const key = element(each, 'Key') ?? ''
    return {
      key: encoded ? decodeURIComponent(key.replaceAll('+', '%20')) : key,
      size: Number(element(each, 'Size')),
      etag: quoted(element(each, 'ETag')),
      // Some services list milliseconds, and leave them out everywhere else.
      modifiedAt: Math.floor(Date.parse(element(each, 'LastModified') ?? '') / 1000) * 1000,
    }
  })
}

/**
 * Opens the storage in a bucket, and makes the bucket if it is not there and the key may. `patience` is for tests.
 * @throws StorageError `storage` when the service does not answer, or refuses the key or the bucket
 */
export async function openS3Storage(options: S3Options, patience: Patience = patient): Promise<Storage> {
  if (!/^[a-z0-9][\w.-]{1,254}$/i.test(options.bucket))
    throw new StorageError('storage', 'This cannot be the name of a bucket', { hint: 'Use a–z, 0–9, "-" and ".".' })
  const client = createS3Client(options, patience)
  const lifetime = new Lifetime()

  async function checkBucket(): Promise<void> {
    const found = await client.send({ method: 'HEAD', accept: [404] })
    if (found.status !== 404) return
    const elsewhere = !['us-east-1', 'auto'].includes(client.region)
    const text = `<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><LocationConstraint>${escapeXml(client.region)}</LocationConstraint></CreateBucketConfiguration>`
    const request: S3Request = { method: 'PUT', accept: [409], ...(elsewhere && { body: Buffer.from(text) }) }
    const made = await client.send(request)
    if (made.status === 409 && made.code !== 'BucketAlreadyOwnedByYou') throw refused(request, made)
  }

  async function stat(key: string): Promise<StoredObject | undefined> {
    const answer = await client.send({ method: 'HEAD', key, accept: [404] })
    return answer.status === 404 ? undefined : infoOf(answer.headers)
  }

  /** Uploads parts and returns the etag of the whole and its size. */
  async function putParts(
    key: string,
    parts: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<{ etag: string; size: number }> {
    const headers = { 'content-type': 'application/octet-stream' }
    const begun = await client.send({ method: 'POST', key, query: { uploads: '' }, headers, signal })
    const uploadId = element(begun.text, 'UploadId')
    if (!uploadId) throw new StorageError('storage', 'The object storage began an upload without naming it')
    try {
      const etags: string[] = []
      let size = 0
      for await (const body of parts) {
        if (etags.length === maxParts)
          throw new StorageError('too_large', `The object is larger than ${maxParts * partSize} bytes`)
        const query = { partNumber: String(etags.length + 1), uploadId }
        const answer = await client.send({ method: 'PUT', key, query, body, signal })
        etags.push(quoted(answer.headers.get('etag')))
        size += body.length
      }
      return { etag: await complete(key, uploadId, etags, signal), size }
    } catch (error) {
      // Without the signal, which may be what ended the upload; the first error is the one to tell.
      await client.send({ method: 'DELETE', key, query: { uploadId }, accept: [404] }).catch(() => {})
      throw error
    }
  }

  async function complete(key: string, uploadId: string, etags: string[], signal: AbortSignal): Promise<string> {
    const list = etags.map(
      (etag, index) => `<Part><PartNumber>${index + 1}</PartNumber><ETag>${escapeXml(etag)}</ETag></Part>`,
    )
    const text = `<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${list.join('')}</CompleteMultipartUpload>`
    const request: S3Request = {
      method: 'POST',
      key,
      query: { uploadId },
      headers: { 'content-type': 'application/xml' },
      body: Buffer.from(text),
      signal,
      lateError: true,
      accept: [404],
      timeoutMs: completeMs,
    }
    const answer = await client.send(request)
    if (answer.status !== 404) return quoted(element(answer.text, 'ETag'))
    const sums = Buffer.from(etags.join('').replaceAll('"', ''), 'hex')
    const expected = quoted(`${createHash('md5').update(sums).digest('hex')}-${etags.length}`)
    if ((await stat(key))?.etag !== expected) throw refused(request, answer)
    return expected
  }

  async function putWhole(key: string, parts: AsyncGenerator<Uint8Array, void, void>, signal: AbortSignal) {
    const first = await parts.next()
    const second = first.done ? first : await parts.next()
    if (!first.done && !second.done) {
      const all = async function* () {
        yield first.value
        yield second.value
        yield* parts
      }
      return putParts(key, all(), signal)
    }
    const body = first.done ? new Uint8Array() : first.value
    const headers = { 'content-type': 'application/octet-stream' }
    const answer = await client.send({ method: 'PUT', key, headers, body, signal })
    return { etag: quoted(answer.headers.get('etag')), size: body.length }
  }

  async function page(prefix: string, after: string | undefined, limit: number): Promise<[Listed[], boolean]> {
    const query = {
      'list-type': '2',
      'encoding-type': 'url',
      'max-keys': String(Math.min(limit, pageSize)),
      ...(prefix !== '' && { prefix }),
      ...(after && { 'start-after': after }),
    }
    const { text } = await client.send({ method: 'GET', query })
    const found = listed(text)
    return [found, found.length > 0 && element(text, 'IsTruncated') === 'true']
  }

  async function deleteKeys(keys: string[]): Promise<void> {
    for (const key of keys.filter((each) => beyondXml.test(each)))
      await client.send({ method: 'DELETE', key, accept: [404] })
    const others = keys.filter((each) => !beyondXml.test(each))
    if (others.length === 0) return
    const list = others.map((key) => `<Object><Key>${escapeXml(key)}</Key></Object>`)
    const body = Buffer.from(
      `<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Quiet>true</Quiet>${list.join('')}</Delete>`,
    )
    const md5 = createHash('md5').update(body).digest('base64')
    const headers = { 'content-type': 'application/xml', 'content-md5': md5 }
    await client.send({ method: 'POST', query: { delete: '' }, headers, body, lateError: true })
  }

  await checkBucket()
  return {
    async put(key, data, { maxBytes, signal } = {}) {
      lifetime.check()
      checkKey(key)
      return lifetime.put(signal, async (either) => {
        const parts = partsOf(chunksOf(data, { maxBytes, signal: either }))
        try {
          const put = await putWhole(key, parts, either)
          // Only this tells when the service says it was; the object is stored, whatever becomes of the question.
          const found = await stat(key).catch(() => undefined)
          const now = Math.floor(Date.now() / 1000) * 1000
          return { ...put, modifiedAt: found?.etag === put.etag ? found.modifiedAt : now }
        } finally {
          await parts.return()
        }
      })
    },
    async get(key, range) {
      checkRange(range)
      lifetime.check()
      checkKey(key)
      const headers = range && { range: `bytes=${range.start}-${range.end}` }
      const request: S3Request = { method: 'GET', key, headers, accept: [404, 416] }
      const answer = await client.open(request)
      if (answer.status === 416) {
        const info = await stat(key)
        return info && { info, body: Readable.from([]) }
      }
      if (answer.status === 404) {
        if (answer.code === 'NoSuchBucket') throw refused(request, answer)
        return undefined
      }
      const info = infoOf(answer.headers)
      if (range && answer.status !== 206 && info.size > 0 && (range.start > 0 || range.end < info.size - 1)) {
        answer.body.destroy()
        throw new StorageError('storage', 'The object storage answers without regard to ranges')
      }
      return { info, body: answer.body }
    },
    async stat(key) {
      lifetime.check()
      checkKey(key)
      return stat(key)
    },
    async delete(key) {
      lifetime.check()
      checkKey(key)
      if (!(await stat(key))) return false
      await client.send({ method: 'DELETE', key, accept: [404] })
      return true
    },
    async list(prefix, { after, limit = pageSize } = {}) {
      lifetime.check()
      checkPrefix(prefix)
      checkPrefix(after ?? '')
      const found: Listed[] = []
      for (let more = limit > 0, last = after; more && found.length < limit; ) {
        const [objects, truncated] = await page(prefix, last, limit - found.length)
        // What others put there under names that are no keys cannot be read or deleted by them.
        found.push(...objects.filter((each) => isKey(each.key)))
        last = objects.at(-1)?.key
        more = truncated
      }
      return found
    },
    async deletePrefix(prefix) {
      lifetime.check()
      checkDeletePrefix(prefix)
      let count = 0
      for (let more = true, last: string | undefined; more; ) {
        const [objects, truncated] = await page(prefix, last, pageSize)
        await deleteKeys(objects.map((each) => each.key))
        count += objects.length
        last = objects.at(-1)?.key
        more = truncated
      }
      return count
    },
    close: () => lifetime.close(),
  }
}
