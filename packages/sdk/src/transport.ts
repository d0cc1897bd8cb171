// Transport: the one way to the server. Every call of the SDK passes `call`; what each is owed (repetition, time limit,
// abort, error) is seen to here, so that travelling in one request with others (coalesce.ts) changes nothing of it.
// Invariants: a call is repeated only while no usable answer comes (every route is safe to repeat); every try has a time limit; nothing (timer,
// listener, request) outlives the call; the API key appears in no error.
import { backoff, delay, onAbort } from './abort.ts'
import { coalescing } from './coalesce.ts'
import {
  type CallName,
  type CallOptions,
  type CallReply,
  type CallRequest,
  endpoints,
  type Query,
} from './endpoints.ts'
import { errorFromReply, TidebaseError, UnreachableError } from './errors.ts'
import { type Answer, type Fetch, type Outgoing, type Send, sender } from './send.ts'
import { property } from './thrown.ts'

export interface TransportOptions {
  /** Address of the server, with or without a path and trailing slash. */
  url: string
  apiKey?: string | undefined
  fetch?: Fetch | undefined
  /** How long a call is repeated during an outage, in milliseconds. */
  retryForMs: number
  /** How long one try may take, in milliseconds. */
  timeoutMs: number
  /** Whether calls that are made at once may leave as one request. */
  coalesce: boolean
}

// A server that never answered is more likely not there than restarting: say so soon.
const firstContactMs = 3_000
// A server that fails to answer may fail for this very request; it is not asked for as long as one that is away.
const internalErrorTries = 3

/** The calls that executions make again and again, and whose answers are short. */
const together: ReadonlySet<CallName> = new Set<CallName>([
  'heartbeatRun',
  'beginStep',
  'recordStep',
  'completeStep',
  'failStep',
  'completeRun',
])

/** Takes what is wanted of a good answer. */
type Read<T> = (got: { answer: Answer; cancel(): void }) => Promise<T>

/** Makes calls to one server. */
export class Transport {
  readonly url: string
  #options: TransportOptions
  #headers: Record<string, string>
  #send: Send
  #sendTogether: Send
  #reached = false

  constructor(options: TransportOptions) {
    this.url = serverUrl(options.url)
    this.#options = options
    const key = options.apiKey?.trim()
    if (key && !/^[\x21-\x7e]+$/.test(key))
      throw new TidebaseError('The API key has characters that no key has.', {
        code: 'invalid_api_key',
        hint: 'Check TIDEBASE_API_KEY: it must be one word without spaces or line breaks.',
      })
    this.#send = sender(this.url, options.fetch)
    this.#headers = { accept: 'application/json', ...(key ? { authorization: `Bearer ${key}` } : {}) }
    this.#sendTogether = options.coalesce ? coalescing(this.#send, this.url, this.#headers) : this.#send
  }

  /**
   * Calls a route.
   *
   * @param name the route's name in the contract
   * @param request path parameters, query and body, and how long to insist
   * @returns the reply
   * @throws TidebaseError (or the class for its code) when the server refuses; UnreachableError when no answer came in
   *   time; the signal's reason when it aborts
   */
  async call<N extends CallName>(name: N, request: CallRequest<N>): Promise<CallReply<N>> {
    const { status, reply } = await this.#insist(name, request, async ({ answer }) => ({
      status: answer.status,
      reply: await answer.json(),
    }))
    if (reply === undefined)
      throw new TidebaseError(`${this.url} answered ${status} with something that is not JSON.`, {
        status,
        code: 'bad_reply',
        hint: 'Check that TIDEBASE_URL is the address of a Tidebase server, not of a proxy’s page.',
      })
    // The server's replies are taken at their word: that they match the contract is the server's to prove.
    return reply.value as CallReply<N>
  }

  /**
   * Opens an event stream. The time limit covers the answer's head only; the signal too.
   *
   * @returns the pieces of the stream, and a way to leave it
   * @throws as `call`
   */
  stream<N extends 'streamEvents' | 'streamProjectEvents'>(name: N, request: CallRequest<N>): Promise<Chunks> {
    return this.#insist(name, request, async ({ answer, cancel }) => ({ chunks: answer.chunks(), cancel }))
  }

  async #insist<N extends CallName, T>(name: N, request: CallRequest<N>, read: Read<T>): Promise<T> {
    const [method, path] = endpoints[name]
    const params: unknown = 'params' in request ? request.params : undefined
    const body = 'body' in request && request.body !== undefined ? encode(name, request.body) : undefined
    const outgoing: Outgoing = {
      url: this.url + fill(path, params) + queryString(request.query),
      method,
      headers: {
        ...this.#headers,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...request.headers,
      },
      body,
    }
    const send = together.has(name) && request.headers === undefined ? this.#sendTogether : this.#send
    const runId = property(params, 'runId')
    const started = performance.now()
    for (let attempt = 0; ; attempt++) {
      request.signal?.throwIfAborted()
      const outcome = await this.#once(send, outgoing, request, typeof runId === 'string' ? runId : '', read)
      if ('value' in outcome) return outcome.value
      const { error, retryAfterMs } = outcome
      if (request.signal?.aborted) throw request.signal.reason
      if (!error.retryable || error.code === 'run_leased') throw error
      if (error.status === 500 && attempt + 1 >= internalErrorTries) throw error
      const patience = request.retryForMs ?? this.#patience()
      const pause = Math.max(backoff(attempt), retryAfterMs ?? 0)
      if (performance.now() - started + pause > patience) throw error
      await delay(pause, request.signal)
    }
  }

  async #once<T>(
    send: Send,
    outgoing: Outgoing,
    options: CallOptions,
    runId: string,
    read: Read<T>,
  ): Promise<{ value: T } | { error: TidebaseError; retryAfterMs?: number | undefined }> {
    const limit = options.timeoutMs ?? this.#options.timeoutMs
    let late = false
    let unwatch = () => {}
    let timer: ReturnType<typeof setTimeout> | undefined
    try {
      const sending = send(outgoing)
      unwatch = onAbort(options.signal, () => sending.cancel())
      timer = setTimeout(() => {
        late = true
        sending.cancel()
      }, limit)
      const answer = await sending.answer
      this.#reached = true
      const { status } = answer
      if (status >= 200 && status < 300) return { value: await read({ answer, cancel: sending.cancel }) }
      const reply = await answer.json()
      if (status < 400) return { error: redirected(this.url, status, answer.header('location')) }
      return {
        error: errorFromReply(status, reply?.value, runId),
        retryAfterMs: retryAfter(answer.header('retry-after')),
      }
    } catch (error) {
      return {
        error: new UnreachableError(this.url, late ? `no answer within ${limit} ms` : networkText(error), error),
      }
    } finally {
      clearTimeout(timer)
      unwatch()
    }
  }

  #patience(): number {
    return this.#reached ? this.#options.retryForMs : Math.min(this.#options.retryForMs, firstContactMs)
  }
}

/** The pieces of a stream, and a way to leave it. */
export interface Chunks {
  chunks: AsyncIterable<Uint8Array>
  cancel(): void
}

function serverUrl(given: string): string {
  const url = URL.canParse(given) ? new URL(given) : undefined
  if (!url || !/^https?:$/.test(url.protocol))
    throw new TidebaseError(`"${given}" is not the address of a server.`, {
      code: 'invalid_url',
      hint: 'Set TIDEBASE_URL to an http or https address, such as http://127.0.0.1:7373.',
    })
  return (url.origin + url.pathname).replace(/\/+$/, '')
}

function fill(path: string, params: unknown): string {
  return path.replace(/:(\w+)/g, (_, key: string) => {
    const value = property(params, key)
    // Dots alone would be taken for folders on the way, however they are written.
    if (typeof value === 'string' && value !== '' && !/^\.\.?$/.test(value) && value.isWellFormed())
      return encodeURIComponent(value)
    throw new TidebaseError(`${key} must not be ${JSON.stringify(value) ?? 'undefined'}.`, {
      code: 'invalid_name',
      hint: 'Give a name or id that is not empty, "." or "..".',
    })
  })
}

function queryString(query: Query | undefined): string {
  const search = new URLSearchParams()
  for (const [key, value] of Object.entries(query ?? {}))
    if (value !== undefined && value !== null) search.append(key, String(value))
  return search.size ? `?${search}` : ''
}

function encode(name: string, body: unknown): string {
  try {
    return JSON.stringify(body)
  } catch (cause) {
    throw new TidebaseError(`What was given to ${name} is not JSON: ${networkText(cause)}.`, {
      code: 'not_json',
      hint: 'Inputs, outputs, states and results are stored as JSON: no cycles, no BigInt.',
      cause,
    })
  }
}

function redirected(url: string, status: number, location: string | null): TidebaseError {
  return new TidebaseError(`${url} redirects to ${location ?? 'another address'}.`, {
    status,
    code: 'redirected',
    hint: 'Set TIDEBASE_URL to the address it redirects to, when you trust it: redirects are not followed.',
  })
}

/** Milliseconds from a Retry-After header: seconds or an HTTP date. */
function retryAfter(header: string | null): number | undefined {
  if (!header) return undefined
  const seconds = Number(header)
  const ms = Number.isFinite(seconds) ? seconds * 1_000 : Date.parse(header) - Date.now()
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined
}

function networkText(error: unknown): string {
  const cause = property(error, 'cause')
  const code = property(cause, 'code') ?? property(error, 'code')
  if (code === 'ECONNREFUSED') return 'connection refused'
  if (code === 'ECONNRESET' || code === 'UND_ERR_SOCKET') return 'connection lost'
  if (code === 'ENOTFOUND') return 'no such host'
  const message = property(cause, 'message') || property(error, 'message')
  return typeof message === 'string' && message ? message : String(code ?? 'failed')
}
