// The two ways a request leaves: Node's own http where there is one, `fetch` everywhere else and when the caller
// brings one. Node's fetch costs about three times the processor time of its http (docs in bench/): with one call per
// step that is what a worker spends itself on.
// Invariant: after `cancel` or the end of the answer nothing is left behind but an idle, unreferenced connection.
import type { IncomingMessage } from 'node:http'

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
 * @param url the server, for the choice between http and https
 * @param fetch the caller's own
 */
export function sender(url: string, fetch: Fetch | undefined): Send {
  return (fetch ? undefined : viaHttp(new URL(url).protocol)) ?? viaFetch(fetch)
}

function viaFetch(own: Fetch | undefined): Send {
  return ({ url, method, headers, body }) => {
    const controller = new AbortController()
    const fetch = own ?? globalThis.fetch
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

function viaHttp(protocol: string): Send | undefined {
  // Asked for at run time, so that bundles for other platforms need not have it.
  if (typeof process === 'undefined' || process.versions?.bun || process.versions?.deno) return undefined
  if ('WebSocketPair' in globalThis) return undefined
  const http = process.getBuiltinModule?.(protocol === 'https:' ? 'node:https' : 'node:http')
  if (!http) return undefined
  // No limit of connections: long-polls hold theirs, and must not keep checkpoints waiting.
  const agent = new http.Agent({ keepAlive: true })
  return ({ url, method, headers, body }) => {
    const length = body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) }
    const request = http.request(url, { agent, method, headers: { ...headers, ...length } })
    const answer = new Promise<Answer>((resolve, reject) => {
      // Stays on: a connection that breaks after the head reports it here too.
      request.on('error', reject)
      request.on('response', (response) => {
        resolve({
          status: response.statusCode ?? 0,
          header: (name) => [response.headers[name] ?? null].flat()[0] ?? null,
          json: async () => parse(await whole(response)),
          chunks: () => response,
        })
      })
    })
    request.end(body)
    return { answer, cancel: () => void request.destroy() }
  }
}

function whole(response: IncomingMessage): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ''
    response.setEncoding('utf8')
    response.on('data', (piece: string) => {
      text += piece
    })
    response.on('end', () => resolve(text))
    response.on('error', reject)
    response.on('close', () => reject(new Error('the connection was closed')))
  })
}

function parse(text: string): { value: unknown } | undefined {
  try {
    return { value: JSON.parse(text) }
  } catch {
    return undefined
  }
}
