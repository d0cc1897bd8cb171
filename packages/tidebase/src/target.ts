// Where webhooks may go. A public address only, unless the operator allows private ones: otherwise anybody who may
// create a run could make this server call its own network.
//
// Three looks, because each alone can be got around: at a literal in the URL (no name is looked up for those), at every
// address that a name resolves to, and at the address the socket was really connected to.
import dns from 'node:dns'
import type { LookupFunction } from 'node:net'
import ipaddr from 'ipaddr.js'
import { Agent, buildConnector } from 'undici'
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
    // ::/96, the old IPv4-compatible addresses, counts as unicast to the library.
    if (parsed.parts.slice(0, 6).every((part) => part === 0)) return false
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
  const refuse = (message: string) => {
    throw new ApiError('webhook_target_refused', `${path}: ${message}.`, { issues: [{ path, message }] })
  }
  // The URL parser writes every spelling of an IPv4 address (decimal, octal, hex) in the usual way.
  const { hostname, username, password } = new URL(url)
  if (username || password) refuse('the URL may not carry a user name or password')
  if (settings.allowPrivateWebhooks) return
  const host = hostname.replace(/^\[|\]$/g, '')
  if (ipaddr.isValid(host) ? !isPublic(host) : localNames.test(host)) refuse('the address is not public')
}

/**
 * An HTTP client that connects to public addresses only.
 *
 * @param allowPrivate connects to any
 * @param lookup resolves names; the system's resolver unless given
 * @param timeoutMs to connect, ms
 */
export function guardedAgent(
  allowPrivate: boolean,
  { lookup = dns.lookup as LookupFunction, timeoutMs }: { lookup?: LookupFunction; timeoutMs: number },
): Agent {
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
    connections: 8,
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
