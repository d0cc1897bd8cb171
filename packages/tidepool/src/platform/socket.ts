/**
 * How a pod on the platform talks to it: HTTP on one unix socket, with the pod's token. The socket is all that a
 * sandbox has of the outside.
 *
 * Invariant: a call is repeated for as long as the platform restarts, so every call that changes something must carry
 * an id by which the platform knows it again.
 */
import { Agent, type IncomingMessage, request } from 'node:http'
import { text } from 'node:stream/consumers'
import { type Code, codes, messageOf, TpError } from '../errors.ts'

/** Where the platform is and who this pod is to it. */
export interface PlatformAddress {
  /** Path of the unix socket. */
  socket: string
  token: string
}

export interface CallOptions {
  method?: string
  headers?: Record<string, string>
  body?: string | AsyncIterable<Uint8Array>
  signal?: AbortSignal
}

/** How long calls wait for a platform that is away, ms. */
const patienceMs = 20_000
const lost = new Set(['ECONNREFUSED', 'ENOENT', 'ECONNRESET', 'EPIPE', 'EAGAIN'])

const isCode = (code: unknown): code is Code => typeof code === 'string' && code in codes

/** The error that an answer of the platform stands for. */
export async function refusal(answer: IncomingMessage): Promise<TpError> {
  let body: { error?: string; code?: string; hint?: string; retryAfter?: number } = {}
  try {
    body = JSON.parse(await text(answer))
  } catch {
    // An answer cut short says nothing more than its status.
  }
  const code = isCode(body.code) ? body.code : answer.statusCode === 503 ? 'unavailable' : 'storage'
  return new TpError(code, body.error ?? `The platform answered ${answer.statusCode}`, {
    ...(body.hint && { hint: body.hint }),
    ...(body.retryAfter !== undefined && { retryAfter: body.retryAfter }),
    ...(answer.statusCode && isCode(body.code) && { status: answer.statusCode }),
  })
}

/** Makes the client. `close` ends its idle connections. */
export function platformSocket({ socket, token }: PlatformAddress) {
  const agent = new Agent({ keepAlive: true, maxSockets: 64 })

  /** One try; resolves with the answer whatever its status. */
  function send(path: string, { method = 'GET', headers, body, signal }: CallOptions = {}): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const sent = request(
        {
          socketPath: socket,
          agent,
          path,
          method,
          headers: {
            host: 'platform',
            authorization: `Bearer ${token}`,
            ...(typeof body === 'string' && {
              'content-type': 'application/json',
              'content-length': Buffer.byteLength(body),
            }),
            ...headers,
          },
          signal,
        },
        resolve,
      )
      sent.on('error', reject)
      if (body === undefined || typeof body === 'string') {
        sent.end(body)
        return
      }
      const pump = async () => {
        for await (const chunk of body) {
          if (!sent.write(chunk))
            await new Promise<void>((drained) => sent.once('drain', drained).once('close', drained))
          if (sent.destroyed) return
        }
        sent.end()
      }
      pump().catch((error: unknown) => {
        reject(error)
        sent.destroy()
      })
    })
  }

  const gone = (error: unknown) => error instanceof Error && 'code' in error && lost.has(String(error.code))

  /** JSON in, JSON out, repeated while the platform is away. @throws TpError */
  async function call<T>(path: string, body?: unknown, options: CallOptions = {}): Promise<T> {
    const until = performance.now() + patienceMs
    for (let tries = 0; ; tries++) {
      let failure: TpError
      try {
        const answer = await send(path, {
          ...(body !== undefined && { method: 'POST', body: JSON.stringify(body) }),
          ...options,
          ...(tries > 0 && { headers: { ...options.headers, 'x-tidepool-retry': '1' } }),
        })
        if (answer.statusCode === 200) {
          const reply: T = JSON.parse(await text(answer))
          return reply
        }
        failure = await refusal(answer)
        if (answer.statusCode !== 503) throw failure
      } catch (error) {
        if (error instanceof TpError || !gone(error)) throw error
        failure = new TpError('unavailable', `The platform does not answer: ${messageOf(error)}`, { cause: error })
      }
      if (performance.now() > until) throw failure
      await new Promise((done) => setTimeout(done, Math.min(1000, 20 * 2 ** tries)))
    }
  }

  return { call, send, close: () => agent.destroy() }
}

export type PlatformSocket = ReturnType<typeof platformSocket>
