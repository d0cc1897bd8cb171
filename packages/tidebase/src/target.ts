// Where webhooks may go. A public address only, unless the operator allows private ones: otherwise anybody who may
// create a run could make this server call its own network.
//
// Three looks, because each alone can be got around: at a literal in the URL (no name is looked up for those), at every
// address that a name resolves to, and at the address the socket was really connected to.
// A call has one time limit for everything. Redirects are not followed: they would lead past the first look.
import dns from 'node:dns'
import type { LookupFunction } from 'node:net'
import ipaddr from 'ipaddr.js'
import type { Agent, Dispatcher } from 'undici'
import type { Settings } from './engine.ts'
import { ApiError } from './errors.ts'

/** A webhook's target that may not be called. */
export class TargetRefused extends Error {
  constructor(what: string) {
    super(`${what} is not a public address`)
    this.name = 'TargetRefused'
  }
}

/** Whether an address is reachable from anywhere: unicast, and not a way of writing an IPv4 address in IPv6. */
export function isPublic(address: string): boolean {
  if (!ipaddr.isValid(address)) return false
  const parsed = ipaddr.parse(address)
  if (parsed instanceof ipaddr.IPv6) {
    if (parsed.isIPv4MappedAddress()) return parsed.toIPv4Address().range() === 'unicast'
    // Only 2000::/3 is given out (RFC 4291). To the library all else without a name is unicast, the old
    // IPv4-compatible addresses (::/96) included.
    if ((parsed.parts[0] ?? 0) >> 13 !== 1) return false
  }
  return parsed.range() === 'unicast'
}

const localNames = /(^|\.)(localhost|local|internal|home\.arpa)\.?$/i

/**
 * Refuses a target that is private by its spelling. Names are looked at again when they are connected to.
 *
 * @param path where the URL stands in the request, for the issue
 * @throws ApiError `webhook_target_refused`
 */
export function checkWebhookTarget(settings: Settings, url: string, path: string): void {
  const refuse = (message: string, hint?: string) => {
    throw new ApiError('webhook_target_refused', `${path}: ${message}.`, { issues: [{ path, message }], hint })
  }
  // The URL parser writes every spelling of an IPv4 address (decimal, octal, hex) in the usual way.
  const { hostname, username, password } = new URL(url)
  // Also where private targets are allowed: they would not be sent, and the URL is shown to whoever reads the run.
  if (username || password) {
    refuse(
      'the URL may not carry a user name or password',
      'Leave them out; the target can check x-tidebase-signature.',
    )
  }
  if (settings.allowPrivateWebhooks) return
  const host = hostname.replace(/^\[|\]$/g, '')
  if (ipaddr.isValid(host) ? !isPublic(host) : localNames.test(host)) refuse('the address is not public')
}

/** Loaded with the first delivery: it is a fifth of what a server would load to start. */
const undici = () => import('undici')

/**
 * An HTTP client that connects to public addresses only.
 *
 * @param allowPrivate connects to any
 * @param options.lookup resolves names; the system's resolver unless given
 * @param options.timeoutMs to connect, ms
 * @param options.connections to one target at most; further calls would wait, at the cost of their own time
 */
export async function guardedAgent(
  allowPrivate: boolean,
  {
    lookup = dns.lookup as LookupFunction,
    timeoutMs,
    connections = 16,
  }: { lookup?: LookupFunction; timeoutMs: number; connections?: number },
): Promise<Agent> {
  const { Agent, buildConnector } = await undici()
  const guarded: LookupFunction = (hostname, options, callback) => {
    lookup(hostname, { ...options, all: true }, (error, found) => {
      if (error) return callback(error, '', 0)
      const addresses = Array.isArray(found) ? found : [{ address: found, family: 4 }]
      const [first] = addresses
      if (!first) return callback(new TargetRefused(hostname), '', 0)
      if (!allowPrivate && !addresses.every(({ address }) => isPublic(address))) {
        return callback(new TargetRefused(hostname), '', 0)
      }
      if (options.all) callback(null, addresses)
      else callback(null, first.address, first.family)
    })
  }
  const connect = buildConnector({ timeout: timeoutMs, lookup: guarded })
  return new Agent({
    connections,
    keepAliveTimeout: 5_000,
    connect: (options, callback) => {
      const host = options.hostname.replace(/^\[|\]$/g, '')
      if (!allowPrivate && ipaddr.isValid(host) && !isPublic(host)) {
        return callback(new TargetRefused(host), null)
      }
      connect(options, (error, socket) => {
        if (error) return callback(error, null)
        const remote = socket.remoteAddress ?? ''
        if (!allowPrivate && !isPublic(remote)) {
          socket.destroy()
          return callback(new TargetRefused(remote), null)
        }
        callback(null, socket)
      })
    },
  })
}

/** What became of a call. */
export interface Outcome {
  ok: boolean
  /** Another try would end alike. */
  final?: boolean
  httpStatus?: number
  /** The start of the answer. */
  body?: string
  /** Why it is not `ok`. */
  error?: string
}

/** How much of an answer is kept, characters. */
const maxText = 8_000

/**
 * Posts JSON to a target. The status decides: what follows it is kept as far as it comes in time.
 *
 * @param options.timeoutMs for everything together: name, connection, answer; ms
 * @param options.conceal what the outcome must not carry although the target was told it
 * @returns never rejects
 */
export async function callTarget(
  dispatcher: Dispatcher,
  url: string,
  body: string,
  headers: Record<string, string>,
  { timeoutMs, conceal }: { timeoutMs: number; conceal?: string },
): Promise<Outcome> {
  try {
    const { request } = await undici()
    const signal = AbortSignal.timeout(timeoutMs)
    const answer = await request(url, { method: 'POST', body, headers, dispatcher, signal })
    const { statusCode: httpStatus } = answer
    const kept = { httpStatus, body: storable(await readStart(answer.body), conceal) }
    if (httpStatus >= 200 && httpStatus < 300) return { ok: true, ...kept }
    return { ok: false, ...kept, error: `the target answered ${httpStatus}` }
  } catch (error) {
    if (error instanceof TargetRefused) return { ok: false, final: true, error: storable(error.message) }
    const timedOut = error instanceof Error && error.name === 'TimeoutError'
    const message = error instanceof Error ? error.message || error.name : String(error)
    return { ok: false, error: timedOut ? `no answer within ${timeoutMs / 1_000} s` : storable(message) }
  }
}

async function readStart(body: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = []
  let size = 0
  try {
    for await (const chunk of body) {
      chunks.push(chunk)
      size += chunk.length
      // A character takes four bytes at most. Leaving the loop ends the connection.
      if (size >= maxText * 4) break
    }
  } catch {
    // It ended too soon or not in time.
  }
  return Buffer.concat(chunks).toString('utf8')
}

/** Text as Postgres takes it: without NUL, and without the half of a character that the cut may have left. */
function storable(text: string, conceal?: string): string {
  const open = conceal ? text.replaceAll(conceal, '[concealed]') : text
  return open.replaceAll('\0', '').slice(0, maxText).toWellFormed()
}
