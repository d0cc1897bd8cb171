/**
 * Calls of the platform's API: JSON in and out, repeated while the platform is away, errors as the platform says them.
 */
import { createHash } from 'node:crypto'
import { type ErrorBody, messageOf, TpError } from '../src/errors.ts'
import { findCredentials } from './credentials.ts'

/** An error that the platform answered with. */
export class ApiFailure extends Error {
  readonly status: number
  readonly body: ErrorBody & Record<string, unknown>

  constructor(status: number, body: ErrorBody & Record<string, unknown>) {
    super(body.error)
    this.name = 'ApiFailure'
    this.status = status
    this.body = body
  }
}

/** How long calls are repeated while the platform does not answer, ms. */
const patienceMs = 30_000
/** A platform that never answered is given up sooner. */
const firstPatienceMs = 3_000

export interface CallOptions {
  body?: unknown
  /** Sent as they are. */
  bytes?: Uint8Array | ReadableStream
  /** Asked without a key. */
  keyless?: boolean
  /** Not repeated after it may have arrived. */
  once?: boolean
  signal?: AbortSignal
}

export type Api = Awaited<ReturnType<typeof connect>>

/** The client for the platform of `--url`, the environment or the last login. */
export async function connect(given?: string) {
  const { url, key, email } = await findCredentials(given)
  let answered = false

  async function send(
    method: string,
    path: string,
    { body, bytes, keyless, once, signal }: CallOptions,
  ): Promise<Response> {
    if (!key && !keyless)
      throw new TpError('unauthorized', `There is no key for ${url}`, {
        hint: 'Register an address, or log in with a key that you have.',
        next: [`tidepool --url ${url} register --email you@example.com`, `tidepool --url ${url} login --key <key>`],
      })
    const start = Date.now()
    for (let tries = 0; ; tries++) {
      let failure: unknown
      try {
        const response = await fetch(url + path, {
          method,
          headers: {
            ...(key && { authorization: `Bearer ${key}` }),
            ...(body !== undefined && { 'content-type': 'application/json' }),
          },
          ...(body !== undefined && { body: JSON.stringify(body) }),
          ...(bytes !== undefined && {
            body: bytes instanceof Uint8Array ? new Blob([new Uint8Array(bytes)]) : bytes,
            duplex: 'half',
          }),
          redirect: 'manual',
          ...(signal && { signal }),
        })
        answered = true
        if (response.status !== 503 || once) return response
        const said: ErrorBody & Record<string, unknown> = JSON.parse(await response.clone().text())
        if (said.code !== 'unavailable') return response
        failure = new ApiFailure(503, said)
      } catch (error) {
        if (signal?.aborted) throw error
        failure = error
        const code =
          error instanceof Error && error.cause instanceof Error && 'code' in error.cause ? error.cause.code : ''
        if (once && code !== 'ECONNREFUSED') throw lost(failure)
        // A stream that was read cannot be sent again.
        if (bytes !== undefined && !(bytes instanceof Uint8Array)) throw lost(failure)
      }
      if (Date.now() - start > (answered ? patienceMs : firstPatienceMs))
        throw failure instanceof ApiFailure ? failure : lost(failure)
      await new Promise((done) => setTimeout(done, Math.min(1_000, 100 * 2 ** tries)))
    }
  }

  function lost(error: unknown): TpError {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
    return new TpError(
      'unavailable',
      `The platform at ${url} does not answer: ${messageOf(cause) || 'no connection'}`,
      {
        cause: error,
        hint: 'Check --url, and that the platform runs.',
        next: ['tidepool platform start'],
      },
    )
  }

  async function checked(response: Response): Promise<Response> {
    if (response.ok) return response
    const text = await response.text()
    let body: ErrorBody & Record<string, unknown>
    try {
      body = JSON.parse(text)
    } catch {
      throw new TpError('unavailable', `${url} answered ${response.status} and is perhaps no Tidepool platform`, {
        hint: 'Check --url.',
      })
    }
    throw new ApiFailure(response.status, body)
  }

  return {
    url,
    key,
    email,
    /** Calls an endpoint. @throws ApiFailure, TpError `unavailable`, `unauthorized` */
    async call<T>(method: string, path: string, options: CallOptions = {}): Promise<T> {
      const reply: T = JSON.parse(await (await checked(await send(method, path, options))).text())
      return reply
    },
    /** Calls an endpoint that answers bytes or a stream. */
    open: async (path: string, options: CallOptions = {}) => checked(await send('GET', path, options)),
    /** The events of a stream, until it ends. */
    async *events<T>(path: string, signal?: AbortSignal): AsyncGenerator<T> {
      const response = await checked(await send('GET', path, { ...(signal && { signal }) }))
      let rest = ''
      const decoder = new TextDecoder()
      for await (const chunk of response.body ?? []) {
        const frames = (rest + decoder.decode(chunk, { stream: true })).split('\n\n')
        rest = frames.pop() ?? ''
        for (const frame of frames) {
          if (!frame.startsWith('data: ')) continue
          const event: T = JSON.parse(frame.slice(6))
          yield event
        }
      }
    },
  }
}

/** SHA-256 in hex. */
export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

export interface PodInfo {
  id: string
  name: string
  url: string
  status: 'new' | 'running' | 'stopped' | 'deleted'
  replicas: number
  deployment: string | null
  environment: string
  restorableUntil: string | null
}

export interface DeploymentInfo {
  id: string
  number: number
  status: 'queued' | 'running' | 'live' | 'superseded' | 'failed' | 'cancelled'
  steps: {
    name: string
    status: 'running' | 'completed' | 'failed'
    startedAt: string
    endedAt: string | null
    detail: Record<string, unknown> | null
  }[]
  error: (ErrorBody & Record<string, unknown>) | null
  files: number
  bytes: number
  message: string | null
  url: string
  createdAt: string
  liveAt: string | null
}
