/**
 * The request as handlers and features see it.
 *
 * Invariants: nothing is parsed before it is asked for (the hot path reads method and path only); the body was read
 * and parsed before the handler runs, so that all of it is plain values, not promises.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { parse as parseCookies } from 'hono/utils/cookie'
import type { Json } from './backend.ts'

/** A file that was uploaded with a form. It lies in `tp.files` already. */
export interface UploadedFile {
  /** Its name in `tp.files`. */
  name: string
  /** What the browser called it. */
  filename: string
  contentType: string
  /** bytes */
  size: number
  /** Where it is served: /_files/… */
  url: string
}

/** A user as handlers see them: never with a password hash. */
export interface User {
  id: string
  email: string
  name: string | null
  avatarUrl: string | null
  /** Ids of products with a running subscription. */
  subscriptions: string[]
  /** Ids of products bought once. */
  purchased: string[]
  /** Whether the address is proven. */
  confirmed: boolean
  /** ms since 1970 */
  createdAt: number
  /** Further fields given to `tp.createUser`. */
  data: { [key: string]: Json }
}

/** A request. */
export interface Request {
  /** 'GET', 'POST', … */
  readonly method: string
  /** Decoded, without the query, e.g. '/post/hello'. */
  readonly path: string
  /** The query: `?page=2` → `{page: '2'}`. Of repeated names the last counts. */
  readonly query: Readonly<Record<string, string | undefined>>
  /** By lower-case name. */
  readonly headers: Readonly<Record<string, string | undefined>>
  readonly cookies: Readonly<Record<string, string | undefined>>
  /** The caller's address. */
  readonly ip: string
  /** Who is logged in, or null. */
  readonly user: User | null
  /** The fields of a form or of a JSON object; `{}` when there is no such body. Repeated form fields are arrays. */
  readonly body: Readonly<Record<string, unknown>>
  /** Uploaded files by form field; further files of one field are `photo[1]`, `photo[2]`, … */
  readonly files: Readonly<Record<string, UploadedFile | undefined>>
  /** The JSON body, whatever it is; undefined when the request has none. */
  readonly json: unknown
  /** The body as text; '' when there is none or for uploads. */
  readonly text: string
  /** The body as it came, e.g. to check a signature; empty for uploads. */
  readonly raw: Buffer
  /** Aborted when the client is gone or the handler's time is over. */
  readonly signal: AbortSignal
}

const nothing = Buffer.alloc(0)

/** Parses `a=1&b=2`; of repeated names the last counts. */
function parseQuery(text: string): Record<string, string> {
  // fromEntries defines properties, so a field called __proto__ is only a field.
  return Object.fromEntries(new URLSearchParams(text))
}

/** Parses the fields of a form; repeated ones become arrays. */
export function collectFields(pairs: Iterable<[string, string]>): Record<string, string | string[]> {
  const fields = new Map<string, string | string[]>()
  for (const [name, value] of pairs) {
    const before = fields.get(name)
    fields.set(name, before === undefined ? value : Array.isArray(before) ? [...before, value] : [before, value])
  }
  return Object.fromEntries(fields)
}

/** The request with what the server needs besides. Features get it as `Request`. */
export class PodRequest implements Request {
  readonly im: IncomingMessage
  readonly res: ServerResponse
  readonly method: string
  readonly path: string
  /** Without the question mark. */
  readonly search: string
  user: User | null = null
  body: Readonly<Record<string, unknown>> = {}
  files: Readonly<Record<string, UploadedFile | undefined>> = {}
  json: unknown = undefined
  raw: Buffer = nothing
  /** When the handler's time is over, ms since 1970; 0 while it has none. */
  deadline = 0
  readonly #trustProxy: boolean
  #query: Readonly<Record<string, string | undefined>> | undefined
  #headers: Readonly<Record<string, string | undefined>> | undefined
  #cookies: Readonly<Record<string, string | undefined>> | undefined
  #abort: AbortController | undefined

  constructor(im: IncomingMessage, res: ServerResponse, method: string, path: string, search: string, trust: boolean) {
    this.im = im
    this.res = res
    this.method = method
    this.path = path
    this.search = search
    this.#trustProxy = trust
  }

  get query(): Readonly<Record<string, string | undefined>> {
    this.#query ??= this.search === '' ? {} : parseQuery(this.search)
    return this.#query
  }

  get headers(): Readonly<Record<string, string | undefined>> {
    if (!this.#headers) {
      const headers: Record<string, string | undefined> = {}
      for (const [name, value] of Object.entries(this.im.headers))
        headers[name] = Array.isArray(value) ? value.join(', ') : value
      this.#headers = headers
    }
    return this.#headers
  }

  get cookies(): Readonly<Record<string, string | undefined>> {
    this.#cookies ??= parseCookies(this.im.headers.cookie ?? '')
    return this.#cookies
  }

  get ip(): string {
    if (this.#trustProxy) {
      // The proxy in front appends the address it saw; what stands before it is the client's word.
      const forwarded = this.im.headers['x-forwarded-for']
      const last = (Array.isArray(forwarded) ? forwarded.join(',') : forwarded)?.split(',').at(-1)?.trim()
      if (last) return last
    }
    return (this.im.socket.remoteAddress ?? '').replace(/^::ffff:/, '')
  }

  get text(): string {
    return this.raw.toString('utf8')
  }

  get signal(): AbortSignal {
    if (!this.#abort) {
      this.#abort = new AbortController()
      if (this.res.closed || this.res.destroyed) this.#abort.abort()
      else this.res.once('close', () => this.#abort?.abort())
    }
    return this.#abort.signal
  }

  /** Ends whatever the handler still does for a client that got its answer. */
  cancel(): void {
    this.#abort?.abort()
  }
}
