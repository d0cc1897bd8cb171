/**
 * From what a handler returned to bytes on the wire. The table of return values is in the docs; this is where it holds.
 *
 * Invariants: nothing is written before the whole answer is known to be sendable (a value that is not JSON becomes a
 * clean 500); strings go out in one packet with the head, which is what makes small answers fast.
 */
import type { ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { ReadableStream } from 'node:stream/web'
import { TpError } from './errors.ts'
import { Html } from './html.ts'
import { cookieHeader, Reply } from './reply.ts'
import type { PodRequest } from './request.ts'
import { encodePath } from './router.ts'
import { type createStreams, isEvents } from './streams.ts'

/** Sent with everything. */
const always = ['x-content-type-options', 'nosniff', 'referrer-policy', 'strict-origin-when-cross-origin']
const htmlType = 'text/html; charset=utf-8'
const jsonType = 'application/json; charset=utf-8'

export interface Answering {
  https: () => boolean
  streams: ReturnType<typeof createStreams>
}

/** `headers` with those of `defaults` that they do not name; both are flat lists. */
function withDefaults(headers: readonly string[], defaults: readonly string[]): string[] {
  const given = new Set(headers.filter((_, at) => at % 2 === 0).map((name) => name.toLowerCase()))
  const missing = defaults.filter((_, at) => !given.has(defaults[at - (at % 2)] ?? ''))
  return [...missing, ...headers]
}

/** Sends a whole text. `extra` is a flat list of header names and values. */
export function sendText(res: ServerResponse, status: number, type: string, text: string, extra?: readonly string[]) {
  const headers = ['content-type', type, 'content-length', String(Buffer.byteLength(text)), ...always]
  res.writeHead(status, extra ? withDefaults(extra, headers) : headers)
  res.end(text)
}

/** Sends a finished page, or 304 when the client has it. */
export function sendPage(req: PodRequest, page: { page: string; length: string; etag: string }): void {
  const { res } = req
  if (req.im.headers['if-none-match'] === page.etag) {
    res.writeHead(304, ['etag', page.etag, ...always])
    res.end()
    return
  }
  res.writeHead(200, ['content-type', htmlType, 'content-length', page.length, 'etag', page.etag, ...always])
  res.end(page.page)
}

function toJson(value: unknown): string {
  if (value instanceof Map || value instanceof Set)
    throw new TpError('unserialisable', `The handler returned a ${value.constructor.name}, which JSON cannot hold`, {
      hint: value instanceof Map ? 'Return Object.fromEntries(map).' : 'Return [...set].',
    })
  let json: string | undefined
  try {
    json = JSON.stringify(value)
  } catch (cause) {
    throw new TpError('unserialisable', 'The handler returned something that contains itself or a BigInt', { cause })
  }
  if (json === undefined) throw new TpError('unserialisable', `The handler returned a ${typeof value}`)
  return json
}

function checkStatus(status: number): number {
  if (!Number.isInteger(status) || status < 200 || status > 599)
    throw new TpError('unserialisable', `${status} is not an HTTP status`, {
      hint: 'Return a status from 200 to 599; to send a number, return {value: n} or String(n).',
    })
  return status
}

async function sendStream(res: ServerResponse, status: number, headers: readonly string[], body: Readable) {
  res.writeHead(status, withDefaults(headers, always))
  await pipeline(body, res)
}

function sendBytes(res: ServerResponse, status: number, bytes: Uint8Array, headers: readonly string[]): void {
  res.writeHead(status, withDefaults(headers, ['content-length', String(bytes.byteLength), ...always]))
  res.end(bytes)
}

/** A standard Response; that of tp.http comes from another copy of the class. */
function isResponse(value: object): value is Response {
  return value instanceof Response || Object.prototype.toString.call(value) === '[object Response]'
}

async function sendResponse(req: PodRequest, response: Response): Promise<void> {
  const headers: string[] = []
  for (const [name, value] of response.headers) {
    // The body of a fetched answer is unpacked already.
    if (response.url !== '' && /^(content-(encoding|length)|transfer-encoding|connection|keep-alive)$/.test(name))
      continue
    headers.push(name, value)
  }
  if (!response.body) {
    if (response.status >= 200 && response.status !== 204 && response.status !== 304)
      headers.push('content-length', '0')
    req.res.writeHead(response.status, withDefaults(headers, always))
    req.res.end()
    return
  }
  const body: ReadableStream = response.body
  await sendStream(req.res, response.status, headers, Readable.fromWeb(body))
}

function sendReply(req: PodRequest, { body, options }: Reply, answering: Answering): void | Promise<void> {
  const { res } = req
  const status = checkStatus(options.status ?? 200)
  const headers: string[] = []
  let typed = false
  for (const [name, value] of Object.entries(options.headers ?? {})) {
    if (name.toLowerCase() === 'content-type') typed = true
    if (Array.isArray(value)) for (const each of value) headers.push(name, each)
    else headers.push(name, String(value))
  }
  for (const [name, cookie] of Object.entries(options.cookies ?? {}))
    headers.push('set-cookie', cookieHeader(name, cookie, answering.https()))
  if (body instanceof Readable || body instanceof Uint8Array) {
    if (!typed) headers.push('content-type', 'application/octet-stream')
    return body instanceof Readable ? sendStream(res, status, headers, body) : sendBytes(res, status, body, headers)
  }
  if (body === null || body === undefined) {
    if (status === 204 || status === 304) {
      res.writeHead(status, withDefaults(headers, always))
      res.end()
      return
    }
    return sendBytes(res, status, new Uint8Array(), headers)
  }
  if (typeof body === 'object' && isEvents(body))
    return answering.streams.start(req, body, withDefaults(headers, always))
  const isText = typeof body === 'string' || body instanceof Html
  const text = isText ? String(body) : toJson(body)
  if (typed) return sendBytes(res, status, Buffer.from(text), headers)
  sendText(res, status, isText ? htmlType : jsonType, text, headers)
}

/**
 * Sends what a handler returned.
 * @returns a promise when the answer is streamed
 * @throws TpError `unserialisable`, `empty_reply`, `too_many_streams`; nothing has been sent then
 */
export function respond(req: PodRequest, value: unknown, answering: Answering): void | Promise<void> {
  const { res } = req
  if (res.closed || res.headersSent) return
  if (typeof value === 'string') return sendText(res, 200, htmlType, value)
  if (value === null || value === undefined) {
    // The browser would ask for the same page for ever.
    if (req.method === 'GET' || req.method === 'HEAD') throw new TpError('empty_reply')
    res.writeHead(303, ['location', encodePath(req.path), 'content-length', '0'])
    res.end()
    return
  }
  if (typeof value === 'number') {
    const status = checkStatus(value)
    if (status === 204 || status === 304) {
      res.writeHead(status, always)
      res.end()
      return
    }
    return sendText(res, status, 'text/plain; charset=utf-8', String(status))
  }
  if (value instanceof Html) return sendText(res, 200, htmlType, value.toString())
  if (value instanceof Reply) return sendReply(req, value, answering)
  if (typeof value === 'object' && isResponse(value)) return sendResponse(req, value)
  if (value instanceof Uint8Array) return sendBytes(res, 200, value, ['content-type', 'application/octet-stream'])
  if (value instanceof Readable) return sendStream(res, 200, ['content-type', 'application/octet-stream'], value)
  if (typeof value === 'object' && !Array.isArray(value) && isEvents(value))
    return answering.streams.start(req, value, always)
  sendText(res, 200, jsonType, toJson(value))
}
