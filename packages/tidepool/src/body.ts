/**
 * Reads the body of a request: JSON, forms, text, and uploads, which are streamed into `tp.files`.
 *
 * Invariants: no more than the route's limits is ever kept in memory; what was stored of an upload that fails is
 * removed again; a body that is not what its content-type says is a 400 with the place of the fault.
 */
import { randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'
import type { Readable } from 'node:stream'
import type { FileStore } from './backend.ts'
import { messageOf, TpError } from './errors.ts'
import { collectFields, type PodRequest, type UploadedFile } from './request.ts'

const require = createRequire(import.meta.url)
const maxFiles = 20
const maxFields = 1000
const utf8 = new TextDecoder('utf-8', { fatal: true })

export interface BodyLimits {
  maxBody: number
  maxUpload: number
}

/** Whether there is a body to read. */
export function hasBody(req: PodRequest): boolean {
  const { headers } = req.im
  return headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0'
}

function tooLarge(limit: number): TpError {
  return new TpError('too_large', `The body is larger than ${limit} bytes`, {
    hint: 'Send less at a time, send files as multipart/form-data, or raise {maxBody: bytes} of the route.',
  })
}

function collect(req: PodRequest, limit: number): Promise<Buffer> {
  const { im } = req
  if (Number(im.headers['content-length'] ?? 0) > limit) return Promise.reject(tooLarge(limit))
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let size = 0
    im.on('data', (chunk: Buffer) => {
      size += chunk.length
      if (size > limit) {
        im.removeAllListeners('data')
        im.resume()
        reject(tooLarge(limit))
      } else chunks.push(chunk)
    })
    im.on('end', () => resolve(chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks, size)))
    im.on('error', () => reject(new TpError('bad_request', 'The body was cut off')))
    im.on('close', () => reject(new TpError('bad_request', 'The body was cut off')))
  })
}

function decode(raw: Buffer): string {
  try {
    return utf8.decode(raw)
  } catch (cause) {
    throw new TpError('bad_encoding', undefined, { cause })
  }
}

function parseJson(raw: Buffer): unknown {
  const text = decode(raw)
  try {
    // Own properties called __proto__ would change prototypes when somebody copies them.
    return text.includes('__proto__')
      ? JSON.parse(text, (key, value) => (key === '__proto__' ? undefined : value))
      : JSON.parse(text)
  } catch (cause) {
    throw new TpError('bad_json', `The body is not valid JSON: ${messageOf(cause)}`, { cause })
  }
}

function safeName(filename: string): string {
  const name = filename
    .normalize('NFC')
    .replace(/[^\p{L}\p{N}._-]+/gu, '-')
    .replace(/^[.-]+/, '')
    .slice(-100)
  return name || 'file'
}

async function readUpload(req: PodRequest, limits: BodyLimits, files: FileStore): Promise<void> {
  const { Busboy }: typeof import('@fastify/busboy') = require('@fastify/busboy')
  const contentType = req.im.headers['content-type'] ?? ''
  const fields: [string, string][] = []
  /** In the order of the form, whichever is stored first. */
  const stored: { field: string; file?: UploadedFile }[] = []
  const streams: Readable[] = []
  const writing: Promise<unknown>[] = []
  let failed: unknown

  const parser = (() => {
    try {
      return new Busboy({
        headers: { ...req.im.headers, 'content-type': contentType },
        limits: { fieldSize: limits.maxBody, fields: maxFields, files: maxFiles, fieldNameSize: 200 },
      })
    } catch (cause) {
      throw new TpError('bad_form', `The upload cannot be read: ${messageOf(cause)}`, { cause })
    }
  })()

  async function store(field: string, stream: Readable, filename: string): Promise<void> {
    const name = `uploads/${randomBytes(12).toString('hex')}/${safeName(filename)}`
    const slot: (typeof stored)[number] = { field }
    stored.push(slot)
    const info = await files.write(name, stream, { maxBytes: limits.maxUpload, signal: req.signal })
    const url = `/_files/${name.split('/').map(encodeURIComponent).join('/')}`
    slot.file = { name, filename, contentType: info.contentType, size: info.size, url }
  }

  await new Promise<void>((resolve, reject) => {
    const fail = (error: unknown) => {
      failed ??= error
      for (const stream of streams) stream.destroy()
      req.im.unpipe(parser)
      req.im.resume()
      reject(failed)
    }
    let fieldBytes = 0
    parser.on('file', (field, stream, filename) => {
      // A file input that was left empty.
      if (!filename) {
        stream.resume()
        return
      }
      // The parser only emits this, and may do so before anybody reads; a destroyed stream tells every later reader.
      stream.on('error', (cause: Error) => {
        stream.destroy(cause)
      })
      streams.push(stream)
      writing.push(
        store(field, stream, filename).catch((cause: unknown) => {
          fail(cause instanceof TpError ? cause : new TpError('bad_form', 'The upload was cut off', { cause }))
        }),
      )
    })
    parser.on('field', (name, value) => {
      fieldBytes += value.length
      if (fieldBytes > limits.maxBody) fail(tooLarge(limits.maxBody))
      fields.push([name, value])
    })
    parser.on('filesLimit', () => fail(new TpError('too_large', `More than ${maxFiles} files in one form`)))
    parser.on('fieldsLimit', () => fail(new TpError('too_large', `More than ${maxFields} fields in one form`)))
    parser.on('error', (cause) =>
      fail(new TpError('bad_form', `The upload cannot be read: ${messageOf(cause)}`, { cause })),
    )
    parser.on('finish', () => resolve())
    req.im.on('close', () => {
      if (!req.im.complete) fail(new TpError('bad_form', 'The upload was cut off'))
    })
    req.im.pipe(parser)
  })
    .then(() => Promise.all(writing))
    .catch(async (error: unknown) => {
      await Promise.all(writing)
      await Promise.all(stored.map(({ file }) => file && files.delete(file.name)))
      throw error
    })
  if (failed) throw failed

  const byField = new Map<string, UploadedFile>()
  for (const { field, file } of stored) {
    if (!file) continue
    let name = field
    for (let n = 1; byField.has(name); n++) name = `${field}[${n}]`
    byField.set(name, file)
  }
  req.files = Object.fromEntries(byField)
  req.body = collectFields(fields)
}

/**
 * Reads and parses the body into `req.raw`, `.json`, `.body` and `.files`.
 * @throws TpError `too_large`, `bad_json`, `bad_encoding`, `bad_form`
 */
export async function readBody(req: PodRequest, limits: BodyLimits, files: () => FileStore): Promise<void> {
  const type = (req.im.headers['content-type'] ?? '').split(';', 1)[0]?.trim().toLowerCase() ?? ''
  if (type === 'multipart/form-data') return readUpload(req, limits, files())
  req.raw = await collect(req, limits.maxBody)
  if (type === 'application/json' || type.endsWith('+json')) {
    req.json = parseJson(req.raw)
    if (typeof req.json === 'object' && req.json !== null) req.body = { ...req.json }
  } else if (type === 'application/x-www-form-urlencoded') {
    req.body = collectFields(new URLSearchParams(decode(req.raw)))
  }
}
