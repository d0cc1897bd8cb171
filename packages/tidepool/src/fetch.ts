/**
 * `tp.http`: an HTTP client that cannot be talked into calling addresses inside the network (SSRF).
 *
 * Invariants: the address that is connected to is the address that was checked (the name is resolved once, here, and
 * the connection goes to the number; rebinding has no second look-up to win); literals, every address of a name and
 * the far end after connecting are checked; each hop of a redirect opens its connection through the same check.
 */
import { lookup } from 'node:dns/promises'
import { createRequire } from 'node:module'
import { isIP, type Socket } from 'node:net'
import ipaddr from 'ipaddr.js'
import type { buildConnector as BuildConnector } from 'undici'
import { TpError } from './errors.ts'

const require = createRequire(import.meta.url)
const requestsPerWindow = 200
const windowMs = 60_000

export interface HttpOptions {
  /** Added to the query of the address. */
  params?: Record<string, string | number | boolean>
  headers?: Record<string, string>
  /** Sent as JSON. */
  json?: unknown
  /** Sent as a form. */
  form?: Record<string, string | number | boolean>
  /** Sent as it is. */
  body?: string | Uint8Array
  /** Seconds until the request is given up, default 30. */
  timeout?: number
}

/** The HTTP client of a pod: 200 requests in 60 seconds. */
export type Http = ReturnType<typeof createHttp>

/** Whether an address belongs to the public internet. */
export function isPublicAddress(address: string): boolean {
  if (!ipaddr.isValid(address)) return false
  const parsed = ipaddr.parse(address)
  if (parsed instanceof ipaddr.IPv4) return parsed.range() === 'unicast'
  if (parsed.isIPv4MappedAddress()) return parsed.toIPv4Address().range() === 'unicast'
  // ::/96 holds IPv4 addresses in their oldest spelling and counts as ordinary unicast to the library.
  if (parsed.parts.slice(0, 6).every((part) => part === 0)) return false
  return parsed.range() === 'unicast'
}

function blocked(host: string, address: string): TpError {
  return new TpError('blocked_address', `${host} is not a public address${address === host ? '' : ` (${address})`}`)
}

async function resolveHost(host: string): Promise<string[]> {
  if (isIP(host)) return [host]
  const found = await lookup(host, { all: true, verbatim: true })
  return found.map(({ address }) => address)
}

/**
 * Connects to a host if all of its addresses are public: to a number that was checked, looked at once more when connected.
 * @param dial connects to an address
 * @throws TpError `blocked_address`; what `dial` throws, of the last address
 */
export async function connectPublic(host: string, dial: (address: string) => Promise<Socket>): Promise<Socket> {
  const addresses = await resolveHost(host)
  for (const address of addresses) if (!isPublicAddress(address)) throw blocked(host, address)
  let failure: unknown = new Error(`${host} has no address`)
  for (const address of addresses) {
    try {
      const socket = await dial(address)
      if (isPublicAddress(socket.remoteAddress ?? '')) return socket
      socket.destroy()
      throw blocked(host, socket.remoteAddress ?? 'unknown')
    } catch (error) {
      if (error instanceof TpError) throw error
      failure = error
    }
  }
  throw failure
}

type Connector = ReturnType<typeof BuildConnector>

/** A connector for undici that connects to checked addresses only; `allow` lists `host:port` exceptions. */
export function guardedConnector(base: Connector, allow: readonly string[]): Connector {
  type Options = Parameters<Connector>[0]
  const connectTo = (options: Options) =>
    new Promise<Socket>((resolve, reject) => {
      base(options, (error, socket) => {
        if (socket) resolve(socket)
        else reject(error ?? new Error('no connection'))
      })
    })

  async function connect(options: Options): Promise<Socket> {
    const host = options.hostname.replace(/^\[|\]$/g, '')
    const port = options.port || (options.protocol === 'https:' ? '443' : '80')
    if (allow.includes(`${host}:${port}`)) return connectTo(options)
    return connectPublic(host, (address) => {
      const servername = options.servername ?? (isIP(host) ? undefined : host)
      return connectTo({ ...options, hostname: address, servername })
    })
  }

  return (options, callback) => {
    connect(options).then(
      (socket) => callback(null, socket),
      (error: unknown) => callback(error instanceof Error ? error : new Error(String(error)), null),
    )
  }
}

/** What lies at the bottom of an error of fetch. */
function causeOf(error: unknown): unknown {
  return error instanceof Error && error.cause !== undefined ? causeOf(error.cause) : error
}

/** Makes `tp.http`. `allow` gives the `host:port` exceptions, `egress` a way out that checks addresses itself. */
export function createHttp(allow: () => readonly string[], egress: () => Connector | undefined = () => undefined) {
  let client: { fetch: typeof import('undici').fetch; dispatcher: import('undici').Agent } | undefined
  let windowStart = 0
  let used = 0

  function start() {
    const { Agent, buildConnector, fetch }: typeof import('undici') = require('undici')
    const connect = egress() ?? guardedConnector(buildConnector({ timeout: 10_000 }), allow())
    return { fetch, dispatcher: new Agent({ connect, connections: 20 }) }
  }

  function count(): void {
    const now = Date.now()
    if (now - windowStart >= windowMs) {
      windowStart = now
      used = 0
    }
    if (used >= requestsPerWindow) {
      const retryAfter = Math.ceil((windowStart + windowMs - now) / 1000)
      throw new TpError('http_limit', `More than ${requestsPerWindow} requests by tp.http in 60 seconds`, {
        retryAfter,
      })
    }
    used += 1
  }

  /**
   * Sends a request. Redirects are followed; a status like 404 is an answer, not an error.
   * @returns a standard Response
   * @throws TpError `blocked_address` (not a public address), `http_limit` (201st in 60 s), `http_failed` (no answer)
   * @example const answer = await tp.http.request('HEAD', 'https://example.com/')
   */
  async function request(method: string, url: string, options: HttpOptions = {}): Promise<Response> {
    const { params = {}, headers = {}, json, form, body, timeout = 30 } = options
    const target = URL.canParse(url) ? new URL(url) : undefined
    if (!target || !/^https?:$/.test(target.protocol))
      throw new TpError('http_failed', `"${url}" is not an http or https address`)
    for (const [name, value] of Object.entries(params)) target.searchParams.append(name, String(value))
    count()
    const sent = new Headers(headers)
    let payload = body
    if (json !== undefined) {
      payload = JSON.stringify(json)
      if (!sent.has('content-type')) sent.set('content-type', 'application/json')
    } else if (form) {
      const fields = new URLSearchParams()
      for (const [name, value] of Object.entries(form)) fields.append(name, String(value))
      payload = fields.toString()
      if (!sent.has('content-type')) sent.set('content-type', 'application/x-www-form-urlencoded')
    }
    client ??= start()
    try {
      return await client.fetch(target, {
        method: method.toUpperCase(),
        headers: Object.fromEntries(sent),
        ...(payload !== undefined && { body: payload }),
        dispatcher: client.dispatcher,
        signal: AbortSignal.timeout(timeout * 1000),
      })
    } catch (error) {
      const cause = causeOf(error)
      if (cause instanceof TpError) throw cause
      const reason = cause instanceof Error ? cause.message : String(cause)
      throw new TpError('http_failed', `${target.origin} did not answer: ${reason}`, { cause: error })
    }
  }

  const by = (method: string) => (url: string, options?: HttpOptions) => request(method, url, options)
  return {
    /**
     * GET; see `request`.
     * @example const found = await tp.http.get('https://api.example.com/x', { params: { q: 1 } })
     */
    get: by('GET'),
    /**
     * POST; see `request`.
     * @example await tp.http.post('https://api.example.com/x', { json: { a: 1 } })
     */
    post: by('POST'),
    /**
     * PUT; see `request`.
     * @example await tp.http.put('https://api.example.com/x/1', { json: { a: 2 } })
     */
    put: by('PUT'),
    /**
     * PATCH; see `request`.
     * @example await tp.http.patch('https://api.example.com/x/1', { json: { a: 3 } })
     */
    patch: by('PATCH'),
    /**
     * DELETE; see `request`.
     * @example await tp.http.delete('https://api.example.com/x/1')
     */
    delete: by('DELETE'),
    request,
    /** Closes idle connections. */
    async close(): Promise<void> {
      await client?.dispatcher.destroy()
      client = undefined
    },
  }
}
