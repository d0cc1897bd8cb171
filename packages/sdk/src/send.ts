// The two ways a request leaves: what carries Node's own fetch (its dispatcher, undici), `fetch` itself everywhere else
// and when the caller brings one. With one call a step, the way is what a worker spends itself on: the dispatcher
// costs a third of Node's http and a tenth of its fetch (docs/notes/0007), and what a program sets up for its fetch, such as a
// proxy, holds for it too.
// Invariant: after `cancel` or the end of the answer nothing is left behind but an idle, unreferenced connection.
import { property } from './thrown.ts'

/** The part of `fetch` that is used. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>

/** A request as it goes out; its body is JSON. */
export interface Outgoing {
  url: string
  method: string
  headers: Record<string, string>
  body: string | undefined
}

/** The head of an answer, and its body to be read once: whole or in pieces. */
export interface Answer {
  status: number
  header(name: string): string | null
  /** The body's JSON; undefined when it is none. */
  json(): Promise<{ value: unknown } | undefined>
  chunks(): AsyncIterable<Uint8Array>
}

/** A request under way. */
export interface Sending {
  /** Rejects when the connection fails or the request is cancelled. */
  answer: Promise<Answer>
  /** Breaks the request, or the reading of its answer, off. */
  cancel(): void
}

export type Send = (request: Outgoing) => Sending

/**
 * The way requests leave from here.
 *
 * @param fetch the caller's own
 */
export function sender(fetch: Fetch | undefined): Send {
  if (fetch) return viaFetch(fetch)
  let dispatcher: Dispatcher | undefined
  // With the first request and not before: loading it takes a moment.
  return (request) => {
    dispatcher ??= nodesDispatcher()
    return dispatcher ? new Exchange(dispatcher, request) : viaFetch(globalThis.fetch)(request)
  }
}

function viaFetch(fetch: Fetch): Send {
  return ({ url, method, headers, body }) => {
    const controller = new AbortController()
    const answer = fetch(url, { method, headers, body, redirect: 'manual', signal: controller.signal })
    return {
      answer: answer.then((response) => ({
        status: response.status,
        header: (name) => response.headers.get(name),
        json: async () => parse(await response.text()),
        chunks: () => pieces(response.body),
      })),
      cancel: () => controller.abort(),
    }
  }
}

// Streams are not iterable everywhere yet.
async function* pieces(body: ReadableStream<Uint8Array> | null): AsyncGenerator<Uint8Array> {
  const reader = body?.getReader()
  if (!reader) return
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      yield value
    }
  } finally {
    reader.cancel().catch(() => undefined)
  }
}

/** The part of undici's Dispatcher that is used. */
interface Dispatcher {
  dispatch(
    request: Omit<Outgoing, 'url'> & { origin: string; path: string; headersTimeout: number; bodyTimeout: number },
    handler: Handler,
  ): boolean
}

/** How a dispatcher tells of an exchange: in the form that all of its versions under this symbol take. */
interface Handler {
  onConnect(abort: (error: Error) => void): void
  onHeaders(status: number, headers: Buffer[], resume: () => void): boolean
  onData(piece: Buffer): boolean
  onComplete(): void
  onError(error: Error): void
}

const isDispatcher = (value: unknown): value is Dispatcher => typeof property(value, 'dispatch') === 'function'

/** Undefined where there is none: in browsers, and on platforms with a fetch of their own. */
function nodesDispatcher(): Dispatcher | undefined {
  if (typeof process === 'undefined' || process.versions?.bun || process.versions?.deno) return undefined
  if ('WebSocketPair' in globalThis) return undefined
  // Node loads its fetch, and what carries it, when one of its classes is first looked at.
  void globalThis.Response
  const found = property(globalThis, Symbol.for('undici.globalDispatcher.1'))
  return isDispatcher(found) ? found : undefined
}

/** How much of a stream may wait for its reader, bytes. */
const maxWaiting = 65_536

/** One request by a dispatcher, with its answer. */
class Exchange implements Sending, Answer, Handler {
  readonly answer: Promise<Answer>
  status = 0
  #headers: Buffer[] = []
  #pieces: Buffer[] = []
  #waiting = 0
  #streamed = false
  #over = false
  #error: Error | undefined
  #abort: ((error: Error) => void) | undefined
  #resume = () => {}
  #tell = () => {}
  #started: (answer: Answer) => void = () => {}
  #failed: (error: Error) => void = () => {}

  constructor(dispatcher: Dispatcher, { url, method, headers, body }: Outgoing) {
    this.answer = new Promise((resolve, reject) => {
      this.#started = resolve
      this.#failed = reject
    })
    const path = url.indexOf('/', 'https://'.length)
    // Limits of time are the caller's: a long-poll may be silent for long.
    const limits = { headersTimeout: 0, bodyTimeout: 0 }
    try {
      dispatcher.dispatch({ origin: url.slice(0, path), path: url.slice(path), method, headers, body, ...limits }, this)
    } catch (error) {
      this.onError(error instanceof Error ? error : new Error(String(error)))
    }
  }

  cancel(): void {
    const error = new Error('the request was given up')
    if (this.#abort) this.#abort(error)
    this.onError(error)
  }

  header(name: string): string | null {
    for (let n = 0; n < this.#headers.length; n += 2) {
      if (this.#headers[n]?.toString().toLowerCase() === name) return this.#headers[n + 1]?.toString() ?? null
    }
    return null
  }

  async json(): Promise<{ value: unknown } | undefined> {
    while (!this.#over) await this.#news()
    if (this.#error) throw this.#error
    return parse(Buffer.concat(this.#pieces).toString())
  }

  async *chunks(): AsyncGenerator<Uint8Array> {
    this.#streamed = true
    try {
      for (;;) {
        const pieces = this.#pieces
        this.#pieces = []
        yield* pieces
        if (this.#error) throw this.#error
        if (this.#pieces.length > 0) continue
        if (this.#over) return
        this.#waiting = 0
        this.#resume()
        await this.#news()
      }
    } finally {
      this.cancel()
    }
  }

  #news(): Promise<void> {
    return new Promise((resolve) => {
      this.#tell = resolve
    })
  }

  onConnect(abort: (error: Error) => void): void {
    this.#abort = abort
    if (this.#error) abort(this.#error)
  }

  onHeaders(status: number, headers: Buffer[], resume: () => void): boolean {
    // Such as 103: the answer itself follows.
    if (status < 200) return true
    this.status = status
    this.#headers = headers
    this.#resume = resume
    this.#started(this)
    return true
  }

  onData(piece: Buffer): boolean {
    this.#pieces.push(piece)
    this.#waiting += piece.length
    this.#tell()
    return !this.#streamed || this.#waiting < maxWaiting
  }

  onComplete(): void {
    this.#over = true
    this.#tell()
  }

  onError(error: Error): void {
    if (this.#over) return
    this.#over = true
    this.#error = error
    this.#failed(error)
    this.#tell()
  }
}

function parse(text: string): { value: unknown } | undefined {
  try {
    return { value: JSON.parse(text) }
  } catch {
    return undefined
  }
}
