// Transport: the one way to the server. Every call of the SDK passes `call`; what each is owed (repetition, time limit,
// abort, error) is seen to here, so that travelling in one request with others (coalesce.ts) changes nothing of it.
// Invariants: a call is repeated only while no usable answer comes (every route is safe to repeat); every try has a time limit; nothing (timer,
// listener, request) outlives the call; the API key appears in no error.
import { backoff, delay, onAbort } from './abort.ts'
import { type Alone, type Answered, Batches } from './coalesce.ts'
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

/** The calls that are made again and again, and whose answers are short. */
const together: ReadonlySet<CallName> = new Set<CallName>([
  'createRun',
  'enqueue',
  'heartbeatRun',
  'beginStep',
  'recordStep',
  'completeStep',
  'failStep',
  'completeRun',
])

/** What one try came to. */
type Outcome<T> = { value: T } | { error: TidebaseError; retryAfterMs?: number | undefined }

/** Makes calls to one server. */
export class Transport {
  readonly url: string
  readonly #options: TransportOptions
  readonly #headers: Record<string, string>
  readonly #send: Send
  readonly #batches: Batches | undefined
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
    this.#send = sender(options.fetch)
    this.#headers = { accept: 'application/json', ...(key ? { authorization: `Bearer ${key}` } : {}) }
    if (options.coalesce) this.#batches = new Batches(this.#send, this.url, this.#headers, options.timeoutMs)
  }

  /**
   * Calls a route.
   *
   * @param name the route's name in the contract
   * @param request path parameters, query and body, and how long to insist
   * @param signal gives the call up, as the request's own does
   * @returns the reply
   * @throws TidebaseError (or the class for its code) when the server refuses; UnreachableError when no answer came in
   *   time; the signal's reason when it aborts
   */
  async call<N extends CallName>(
    name: N,
    request: CallRequest<N>,
    signal: AbortSignal | undefined = request.signal,
  ): Promise<CallReply<N>> {
    const call = new Call(this.url, this.#headers, name, request, signal)
    const batches =
      together.has(name) && !request.headers && this.#batches?.takes(call.body) ? this.#batches : undefined
    const { status, json } = await this.#insist(call, () =>
      batches ? this.#together(batches, call) : this.#alone(call, answered),
    )
    if (json === undefined)
      throw new TidebaseError(`${this.url} answered ${status} with something that is not JSON.`, {
        status,
        code: 'bad_reply',
        hint: 'Check that TIDEBASE_URL is the address of a Tidebase server, not of a proxy’s page.',
      })
    // The server's replies are taken at their word: that they match the contract is the server's to prove.
    return json.value as CallReply<N>
  }

  /**
   * Opens an event stream. The time limit covers the answer's head only; the signal too.
   *
   * @returns the pieces of the stream, and a way to leave it
   * @throws as `call`
   */
  async stream<N extends 'streamEvents' | 'streamProjectEvents'>(name: N, request: CallRequest<N>): Promise<Chunks> {
    const call = new Call(this.url, this.#headers, name, request, request.signal)
    return await this.#insist(call, () =>
      this.#alone(call, async (answer, cancel) => ({ chunks: answer.chunks(), cancel })),
    )
  }

  /** Tries until an answer can be used, the patience ends, or the signal aborts. */
  async #insist<T>({ signal, retryForMs }: Call, once: () => Promise<Outcome<T>>): Promise<T> {
    const started = performance.now()
    for (let attempt = 0; ; attempt++) {
      signal?.throwIfAborted()
      const outcome = await once()
      if ('value' in outcome) return outcome.value
      const { error, retryAfterMs } = outcome
      signal?.throwIfAborted()
      if (!error.retryable || error.code === 'run_leased') throw error
      if (error.status === 500 && attempt + 1 >= internalErrorTries) throw error
      const patience = retryForMs ?? this.#patience()
      const pause = Math.max(backoff(attempt), retryAfterMs ?? 0)
      if (performance.now() - started + pause > patience) throw error
      await delay(pause, signal)
    }
  }

  /** One try in the company of others. */
  async #together(batches: Batches, call: Call): Promise<Outcome<Answered>> {
    const joined = batches.join(call)
    const { timeoutMs } = call
    const unwatch = onAbort(call.signal, () => joined.cancel(new Error('the call was given up')))
    // The usual time limit is the request's.
    const timer =
      timeoutMs === undefined
        ? undefined
        : setTimeout(() => joined.cancel(new Error(noAnswerWithin(timeoutMs))), timeoutMs)
    let got: Answered | Alone
    try {
      got = await joined.outcome
    } catch (error) {
      return { error: new UnreachableError(this.url, networkText(error), error) }
    } finally {
      clearTimeout(timer)
      unwatch()
    }
    if ('over' in got) return this.#alone(call, answered).finally(got.over)
    this.#reached = true
    return isGood(got.status) ? { value: got } : this.#refusal(call, got, null)
  }

  /** One try as a request of its own. @param read takes what is wanted of a good answer */
  async #alone<T>(call: Call, read: (answer: Answer, cancel: () => void) => Promise<T>): Promise<Outcome<T>> {
    const limit = call.timeoutMs ?? this.#options.timeoutMs
    let late = false
    let unwatch = () => {}
    let timer: ReturnType<typeof setTimeout> | undefined
    try {
      const sending = this.#send(call)
      unwatch = onAbort(call.signal, () => sending.cancel())
      timer = setTimeout(() => {
        late = true
        sending.cancel()
      }, limit)
      const answer = await sending.answer
      this.#reached = true
      if (isGood(answer.status)) return { value: await read(answer, () => sending.cancel()) }
      return this.#refusal(call, await answered(answer), answer.header('location'))
    } catch (error) {
      return { error: new UnreachableError(this.url, late ? noAnswerWithin(limit) : networkText(error), error) }
    } finally {
      clearTimeout(timer)
      unwatch()
    }
  }

  #refusal(call: Call, { status, json, retryAfter }: Answered, location: string | null) {
    if (status < 400) return { error: redirected(this.url, status, location) }
    return { error: errorFromReply(status, json?.value, call.runId), retryAfterMs: retryAfterMs(retryAfter) }
  }

  #patience(): number {
    return this.#reached ? this.#options.retryForMs : Math.min(this.#options.retryForMs, firstContactMs)
  }
}

const isGood = (status: number) => status >= 200 && status < 300

async function answered(answer: Answer): Promise<Answered> {
  return { status: answer.status, retryAfter: answer.header('retry-after'), json: await answer.json() }
}

/** A call, checked and encoded. What only a request of its own needs is made when it is asked for: most travel together. */
class Call implements Outgoing {
  readonly name: CallName
  readonly params: unknown
  readonly body: string | undefined
  readonly signal: AbortSignal | undefined
  readonly #server: string
  readonly #headers: Record<string, string>
  readonly #request: CallOptions & { query?: Query }

  /** @throws TidebaseError `invalid_name`, `not_json` */
  constructor(
    server: string,
    headers: Record<string, string>,
    name: CallName,
    request: CallOptions & { query?: Query },
    signal: AbortSignal | undefined,
  ) {
    this.name = name
    this.signal = signal
    this.#server = server
    this.#headers = headers
    this.#request = request
    this.params = 'params' in request ? request.params : undefined
    checkParams(this.params)
    this.body = 'body' in request && request.body !== undefined ? encode(name, request.body) : undefined
  }

  get timeoutMs(): number | undefined {
    return this.#request.timeoutMs
  }

  get retryForMs(): number | undefined {
    return this.#request.retryForMs
  }

  get method(): string {
    return endpoints[this.name][0]
  }

  get url(): string {
    return this.#server + fill(endpoints[this.name][1], this.params) + queryString(this.#request.query)
  }

  get headers(): Record<string, string> {
    const headers = { ...this.#headers, ...this.#request.headers }
    return this.body === undefined ? headers : { 'content-type': 'application/json', ...headers }
  }

  get runId(): string {
    const runId = property(this.params, 'runId')
    return typeof runId === 'string' ? runId : ''
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
    // Not shown: there may be a password in it.
    throw new TidebaseError('The given URL is not the address of a server.', {
      code: 'invalid_url',
      hint: 'Set TIDEBASE_URL to an http or https address, such as http://127.0.0.1:7373.',
    })
  return (url.origin + url.pathname).replace(/\/+$/, '')
}

/** @throws TidebaseError `invalid_name` */
function checkParams(params: unknown): void {
  if (typeof params !== 'object' || params === null) return
  for (const [key, value] of Object.entries(params)) {
    if (typeof value === 'string' && /^[\w-]+$/.test(value)) continue
    // Dots alone would be taken for folders on the way, however they are written.
    if (typeof value === 'string' && value !== '' && !/^\.\.?$/.test(value) && value.isWellFormed()) continue
    throw new TidebaseError(`${key} must not be ${JSON.stringify(value) ?? 'undefined'}.`, {
      code: 'invalid_name',
      hint: 'Give a name or id that is not empty, "." or "..".',
    })
  }
}

const fill = (path: string, params: unknown) =>
  path.replace(/:(\w+)/g, (_, key: string) => encodeURIComponent(String(property(params, key))))

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
function retryAfterMs(header: string | null): number | undefined {
  if (!header) return undefined
  const seconds = Number(header)
  const ms = Number.isFinite(seconds) ? seconds * 1_000 : Date.parse(header) - Date.now()
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined
}

const noAnswerWithin = (ms: number) => `no answer within ${ms} ms`

function networkText(error: unknown): string {
  const cause = property(error, 'cause')
  const code = property(cause, 'code') ?? property(error, 'code')
  if (code === 'ECONNREFUSED') return 'connection refused'
  if (code === 'ECONNRESET' || code === 'UND_ERR_SOCKET') return 'connection lost'
  if (code === 'ENOTFOUND') return 'no such host'
  const message = property(cause, 'message') || property(error, 'message')
  return typeof message === 'string' && message ? message : String(code ?? 'failed')
}
