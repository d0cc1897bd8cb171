/**
 * Requests to a service that speaks S3: addresses, signatures (aws4fetch), time limits, retries, errors.
 *
 * Invariants: the secret key is kept by a closure and goes nowhere but into signatures; a body can be sent again, so
 * that every request may be repeated; what is repeated does no harm when the first one had arrived (`s3.ts` sees to
 * that); a signed request is never sent to another address by a redirect.
 */
import { createHash, randomInt } from 'node:crypto'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { AwsV4Signer } from 'aws4fetch'
import { StorageError } from './common.ts'

/** Where a bucket is and with which key. */
export interface S3Options {
  endpoint: string
  bucket: string
  accessKey: string
  secretKey: string
  region?: string
}

/** How patient requests are. */
export interface Patience {
  /** How often a request is tried. */
  attempts: number
  /** Milliseconds before the second attempt; doubles with each. */
  backoffMs: number
  /** Milliseconds without an answer or without further bytes of one; sending may take longer by the bytes sent. */
  timeoutMs: number
}

/** One request. */
export interface S3Request {
  method: 'GET' | 'HEAD' | 'PUT' | 'POST' | 'DELETE'
  /** Nothing: the bucket itself. */
  key?: string
  query?: Record<string, string>
  headers?: Record<string, string>
  body?: Uint8Array
  signal?: AbortSignal
  /** Answers besides 2xx that the caller wants to see. */
  accept?: number[]
  /** An answer with 200 may still contain an error, because the service began to answer before it was done. */
  lateError?: boolean
  /** Instead of the usual time. */
  timeoutMs?: number
}

/** An answer: its text is read already, or its body is still to be read. */
export interface S3Answer {
  status: number
  headers: Headers
  text: string
  /** S3's name of the error; empty when there is none. */
  code: string
}

/** Sends requests, as often as it takes. All three throw StorageError `storage`, and the reason of the signal. */
export interface S3Client {
  region: string
  /** Sends a request and reads the answer. */
  send(request: S3Request): Promise<S3Answer>
  /** Sends a request and leaves the body of a 2xx answer to be read; it ends with an error when no bytes come. */
  open(request: S3Request): Promise<S3Answer & { body: Readable }>
}

/** Bytes per second that a slow line manages; decides how long sending may take. */
const slowest = 64 * 1024
const region = 'us-east-1'

/** Encodes what RFC 3986 does not let stand, `!'()*` included: signatures are made of exactly this spelling. */
export function encode(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (each) => `%${each.charCodeAt(0).toString(16).toUpperCase()}`)
}

/** The text in the first element `name` of an answer. */
export function element(xml: string, name: string): string | undefined {
  const found = new RegExp(`<${name}(?:\\s[^>]*)?>([^<]*)</${name}>`).exec(xml)?.[1]
  const entities: Record<string, string> = { lt: '<', gt: '>', quot: '"', apos: "'", amp: '&' }
  return found?.replace(/&(?:#(\d+)|#x([\da-f]+)|(\w+));/gi, (whole, decimal, hex, name) =>
    name
      ? (entities[name] ?? whole)
      : String.fromCodePoint(Number.parseInt(decimal ?? hex, decimal === undefined ? 16 : 10)),
  )
}

/** The address of the service, checked. @throws StorageError `storage` */
function addressOf(endpoint: string): URL {
  const hint = 'The endpoint is like https://s3.example.com, without a user, query or fragment.'
  // The text is not repeated, because people put credentials into it.
  if (!URL.canParse(endpoint)) throw new StorageError('storage', 'The endpoint is not a URL', { hint })
  const url = new URL(endpoint)
  if (!/^https?:$/.test(url.protocol) || url.username || url.password || url.search || url.hash)
    throw new StorageError('storage', 'The endpoint is not the address of a service', { hint })
  return url
}

const hintOf = (status: number, code: string): string | undefined => {
  if (code === 'RequestTimeTooSkewed') return 'Set the clock of this machine.'
  if (status === 401 || status === 403)
    return 'Check the access key, the secret key, the region, and what the key may do with the bucket.'
  if (code === 'NoSuchBucket') return 'Create the bucket.'
  if (status === 301 || status === 307) return 'The bucket is elsewhere: check the endpoint and the region.'
  return undefined
}

/** Makes the error of an answer. The service's own message is left out: it may repeat what was signed. */
export function refused(request: S3Request, answer: { status: number; code: string }): StorageError {
  const what = request.key === undefined ? 'the bucket' : JSON.stringify(request.key)
  return new StorageError(
    'storage',
    `The object storage answered ${`${answer.status} ${answer.code}`.trim()} to ${request.method} ${what}`,
    { hint: hintOf(answer.status, answer.code) },
  )
}

const isPassing = (answer: { status: number; code: string }): boolean =>
  (answer.status >= 500 && answer.status !== 501) ||
  [408, 425, 429].includes(answer.status) ||
  // AWS answers 400 when a body came too slowly; the others come inside an answer that began well.
  ['RequestTimeout', 'InternalError', 'ServiceUnavailable', 'SlowDown'].includes(answer.code)

/** Makes a client for one bucket. @throws StorageError `storage` when the endpoint is not an address */
export function createS3Client(options: S3Options, patience: Patience): S3Client {
  const address = addressOf(options.endpoint)
  const base = `${address.origin}${address.pathname.replace(/\/+$/, '')}/${encode(options.bucket)}`
  const signingKeys = new Map<string, ArrayBuffer>()

  function urlOf({ key, query }: S3Request): string {
    const path = key === undefined ? '' : `/${key.split('/').map(encode).join('/')}`
    const pairs = Object.entries(query ?? {}).map(([name, value]) => `${encode(name)}=${encode(value)}`)
    return `${base}${path}${pairs.length ? `?${pairs.join('&')}` : ''}`
  }

  /** Signs anew for every attempt, because signatures carry the time. */
  async function signed(request: S3Request, bodyHash: string): Promise<{ url: URL; headers: Headers }> {
    const { url, headers } = await new AwsV4Signer({
      method: request.method,
      url: urlOf(request),
      headers: { ...request.headers, 'x-amz-content-sha256': bodyHash },
      accessKeyId: options.accessKey,
      secretAccessKey: options.secretKey,
      region: options.region ?? region,
      service: 's3',
      cache: signingKeys,
    }).sign()
    // Not signed: proxies rewrite it. Bytes must come as they are stored, ranges count in them.
    headers.set('accept-encoding', 'identity')
    return { url, headers }
  }

  async function attempt(request: S3Request, bodyHash: string, reading: boolean): Promise<[S3Answer, Response, Timer]> {
    const timeoutMs =
      (request.timeoutMs ?? patience.timeoutMs) + Math.ceil(((request.body?.length ?? 0) / slowest) * 1000)
    const timer = new Timer(request.signal)
    timer.start(timeoutMs)
    try {
      const { url, headers } = await signed(request, bodyHash)
      const response = await fetch(url, {
        method: request.method,
        headers,
        body: request.body as Uint8Array<ArrayBuffer> | undefined,
        redirect: 'manual',
        signal: timer.signal,
      })
      const text = reading || !response.ok ? await response.text() : ''
      const code = (response.ok && !request.lateError ? undefined : element(text, 'Code')) ?? ''
      if (reading || !response.ok) timer.end()
      else timer.stop()
      return [{ status: response.status, headers: response.headers, text, code }, response, timer]
    } catch (error) {
      timer.end()
      throw error
    }
  }

  async function pause(tried: number, signal: AbortSignal | undefined): Promise<void> {
    const longest = patience.backoffMs * 2 ** (tried - 1)
    await sleep(randomInt(Math.ceil(longest / 2), longest + 1), undefined, { signal }).catch(() => {})
    signal?.throwIfAborted()
  }

  async function repeat(request: S3Request, reading: boolean): Promise<[S3Answer, Response, Timer]> {
    const bodyHash = await sha256(request.body)
    for (let tried = 1; ; tried++) {
      let problem: unknown
      try {
        const got = await attempt(request, bodyHash, reading)
        const [answer, response, timer] = got
        if ((response.ok && answer.code === '') || request.accept?.includes(answer.status)) return got
        timer.end()
        if (tried >= patience.attempts || !isPassing(answer)) throw refused(request, answer)
      } catch (error) {
        request.signal?.throwIfAborted()
        if (error instanceof StorageError) throw error
        problem = error
      }
      if (problem !== undefined && tried >= patience.attempts) throw unreachable(problem)
      await pause(tried, request.signal)
    }
  }

  return {
    region: options.region ?? region,
    async send(request) {
      const [answer] = await repeat(request, true)
      return answer
    },
    async open(request) {
      const [answer, response, timer] = await repeat(request, false)
      // The text of other answers was read already.
      return { ...answer, body: response.ok ? bodyOf(response, timer, patience.timeoutMs) : Readable.from([]) }
    },
  }
}

async function sha256(body: Uint8Array | undefined): Promise<string> {
  // Large bodies are hashed beside the event loop, small ones faster at once.
  if (!body || body.length < 64 * 1024)
    return createHash('sha256')
      .update(body ?? '')
      .digest('hex')
  const digest = await crypto.subtle.digest('SHA-256', body as Uint8Array<ArrayBuffer>)
  return Buffer.from(digest).toString('hex')
}

function unreachable(cause: unknown): StorageError {
  const timedOut = cause instanceof Error && cause.name === 'TimeoutError'
  return new StorageError('storage', `The object storage ${timedOut ? 'did not answer in time' : 'is not reachable'}`, {
    hint: 'Check the endpoint, the network and that the service runs.',
    cause,
  })
}

/** A signal that aborts when the caller's does, or when a time is up that can be set again and again. */
class Timer {
  readonly #controller = new AbortController()
  readonly #outer: AbortSignal | undefined
  #timer: NodeJS.Timeout | undefined

  constructor(outer: AbortSignal | undefined) {
    this.#outer = outer
    if (outer?.aborted) this.abort(outer.reason)
    outer?.addEventListener('abort', this.#follow, { once: true })
  }

  readonly #follow = () => this.abort(this.#outer?.reason)

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  start(ms: number): void {
    this.stop()
    this.#timer = setTimeout(() => this.abort(new DOMException(`Nothing came for ${ms} ms`, 'TimeoutError')), ms)
  }

  stop(): void {
    clearTimeout(this.#timer)
  }

  abort(reason: unknown): void {
    this.#controller.abort(reason)
  }

  end(): void {
    this.stop()
    this.#outer?.removeEventListener('abort', this.#follow)
  }
}

/** The bytes of an answer. Only waiting for the service counts as waiting: a slow reader is never cut off. */
function bodyOf(response: Response, timer: Timer, timeoutMs: number): Readable {
  const reader = response.body?.getReader()
  return new Readable({
    async read() {
      try {
        timer.start(timeoutMs)
        // An empty chunk would count as nothing read, and nobody would ask again.
        let next = await reader?.read()
        while (next && !next.done && next.value.length === 0) next = await reader?.read()
        timer.stop()
        this.push(next && !next.done ? next.value : null)
      } catch (error) {
        this.destroy(unreachable(error))
      }
    },
    destroy(error, done) {
      timer.end()
      // The rest of an answer that nobody reads would keep the connection.
      timer.abort(undefined)
      done(error)
    },
  })
}
