/**
 * The gateway: a request to `<name>.<domain>` → the pod's replica with the fewest requests → its answer.
 *
 *   no replica is healthy      wait for one (a restart takes half a second), then 503
 *   the replica dies before    a request without a body that may be repeated goes to another, once; what never left
 *   it answered                here goes to another too; anything else is 502
 *   the client goes away       the replica's request is ended
 *
 * Invariants: forwarded headers are ours, never the client's; hop-by-hop headers stay on their hop; a slow reader slows
 * the pod's answer instead of filling memory; a request is counted on its replica until its last byte, so that draining
 * knows. The HTTP spoken to pods is in pod-client.ts.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { connectInside } from '../drivers/inside.ts'
import type { Fleet, Route } from '../fleet.ts'
import type { Replica, Replicas } from '../replicas.ts'
import { sendNotice } from '../web/page.ts'
import { hopByHop } from './answer.ts'
import { choose } from './balancer.ts'
import { createPodClient, type PodCall, type PodClient } from './pod-client.ts'
import type { Traffic } from './traffic.ts'
import { tunnel } from './tunnel.ts'

export interface ProxyOptions {
  fleet: Pick<Fleet, 'route'>
  replicas: Pick<Replicas, 'healthy' | 'of' | 'groups' | 'released'>
  traffic: Pick<Traffic, 'count'>
  /** http or https, as clients see it. */
  protocol: string
  /** A proxy in front of this one tells who the client is. */
  trustProxy: boolean
}

/** How long a request waits for a replica, ms. */
const patienceMs = 10_000
/** Requests of one pod under way at once. */
const maxInFlight = 2_000

/** Not passed on as the client says them: told by this gateway, or by the framing of the body. */
const ours = new Set([
  ...hopByHop,
  'content-length',
  'forwarded',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
  'x-forwarded-port',
  'x-real-ip',
])
/** Bodies up to this many bytes travel with their head, in one write. */
const smallBody = 16_384
const harmless = new Set(['GET', 'HEAD', 'OPTIONS'])

/** Makes the proxy. */
export function createProxy({ fleet, replicas, traffic, protocol, trustProxy }: ProxyOptions) {
  const clients = new Map<string, PodClient>()
  const inFlight = new Map<string, number>()
  /** Requests that wait for a replica of a pod. */
  const waiting = new Map<string, Set<() => void>>()

  function clientOf(replica: Replica): PodClient {
    let client = clients.get(replica.socket)
    if (!client) {
      client = createPodClient(replica.socket)
      clients.set(replica.socket, client)
    }
    return client
  }

  /** Request line and headers as the pod gets them. */
  function headOf(req: IncomingMessage): string {
    const raw = req.rawHeaders
    const named = req.headers.connection
    const also = named && named !== 'keep-alive' ? named.toLowerCase().split(/\s*,\s*/) : undefined
    let client = req.socket.remoteAddress ?? ''
    let head = `${req.method} ${req.url} HTTP/1.1\r\n`
    for (let at = 0; at < raw.length; at += 2) {
      const name = raw[at] ?? ''
      const lower = name.toLowerCase()
      if (trustProxy && lower === 'x-forwarded-for') client = `${raw[at + 1]}, ${client}`
      if (ours.has(lower) || also?.includes(lower)) continue
      head += `${name}: ${raw[at + 1]}\r\n`
    }
    return `${head}x-forwarded-for: ${client}\r\nx-forwarded-proto: ${protocol}\r\nx-forwarded-host: ${req.headers.host ?? ''}\r\n`
  }

  function refuse(
    req: IncomingMessage,
    res: ServerResponse,
    status: number,
    code: string,
    error: string,
    hint: string,
  ) {
    if (res.headersSent || res.destroyed) return void res.destroy()
    const headers: Record<string, string> = status === 503 ? { 'retry-after': '2' } : {}
    // What is still coming of a body that nobody reads would be taken for the next request.
    if (!req.complete) headers.connection = 'close'
    if (req.headers.accept?.includes('text/html'))
      return sendNotice(res, status, { title: error, text: hint, code }, headers)
    const body = JSON.stringify({ error, code, hint })
    res.writeHead(status, {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
      'cache-control': 'no-store',
      ...headers,
    })
    res.end(body)
  }

  const candidates = (route: Route) => (route.deployment ? replicas.healthy(route.pod, route.deployment) : [])

  /** A replica for a pod, waited for if need be. The route is looked up anew: it may change meanwhile. */
  function pick(name: string, except: Replica | undefined, then: (replica: Replica | undefined) => void) {
    const route = fleet.route(name)
    const found = route && choose(candidates(route), except)
    if (found || !route || route.status !== 'running') return then(found)
    const mine = waiting.get(route.pod) ?? new Set()
    waiting.set(route.pod, mine)
    const end = (replica: Replica | undefined) => {
      clearTimeout(timer)
      mine.delete(look)
      if (mine.size === 0) waiting.delete(route.pod)
      then(replica)
    }
    const look = () => {
      const now = fleet.route(name)
      const replica = now && choose(candidates(now))
      if (replica || now?.status !== 'running') end(replica)
    }
    const timer = setTimeout(() => end(undefined), patienceMs)
    mine.add(look)
  }

  function take(replica: Replica, pod: string): void {
    replica.inFlight += 1
    inFlight.set(pod, (inFlight.get(pod) ?? 0) + 1)
  }

  function give(replica: Replica, pod: string): void {
    replica.inFlight -= 1
    inFlight.set(pod, (inFlight.get(pod) ?? 1) - 1)
    if (replica.state === 'draining') replicas.released()
  }

  /** @param at when the request came, as `performance.now()` tells it */
  function forward(
    req: IncomingMessage,
    res: ServerResponse,
    route: Route,
    replica: Replica,
    retries: number,
    at: number,
  ): void {
    const { 'content-length': length, 'transfer-encoding': coding } = req.headers
    const hasBody = length !== undefined ? length !== '0' : coding !== undefined
    const method = req.method ?? 'GET'
    const repeatable = !hasBody && harmless.has(method)
    let over = false
    /** The client reads slower than the pod writes. */
    let held = false
    take(replica, route.pod)
    const release = () => {
      if (over) return
      over = true
      res.off('close', gone)
      give(replica, route.pod)
    }
    const gone = () => {
      if (!over) call.abort()
      release()
    }
    res.once('close', gone)

    const call: PodCall = clientOf(replica).send(
      {
        method,
        // An empty body is no body, but the client has said so.
        head: length === '0' ? `${headOf(req)}content-length: 0\r\n` : headOf(req),
        body: hasBody ? req : undefined,
        length,
        repeatable,
      },
      {
        head(status, message, headers) {
          res.writeHead(status, message, headers)
          traffic.count(route.pod, status, performance.now() - at)
        },
        waiting() {
          res.flushHeaders()
        },
        data(chunk) {
          if (res.write(chunk) || held) return
          held = true
          call.pause()
          res.once('drain', () => {
            held = false
            call.resume()
          })
        },
        end(last) {
          release()
          if (!last) res.end()
          else if (last.length <= smallBody) res.end(last.toString('latin1'), 'latin1')
          else res.end(last)
        },
        failed(_error, stage) {
          const wasOver = over
          release()
          if (wasOver) return
          if (res.headersSent) return void res.destroy()
          // An answer that cannot be written down may have left its reason phrase.
          res.statusMessage = ''
          const again = stage === 'unsent' || (stage === 'sent' && repeatable)
          if (again && retries > 0) return start(req, res, route.name, retries - 1, at, replica)
          traffic.count(route.pod, 502, performance.now() - at)
          refuse(
            req,
            res,
            502,
            'bad_gateway',
            'The app ended before it answered',
            'It is being started again: try in a moment. The owner finds the reason with `tidepool logs`.',
          )
        },
      },
    )
  }

  function start(
    req: IncomingMessage,
    res: ServerResponse,
    name: string,
    retries: number,
    at: number,
    except?: Replica,
  ): void {
    pick(name, except, (replica) => {
      const route = fleet.route(name)
      if (res.destroyed) return
      if (replica && route) return forward(req, res, route, replica, retries, at)
      if (route?.status === 'running') traffic.count(route.pod, 503, performance.now() - at)
      unserved(req, res, name, route)
    })
  }

  function unserved(req: IncomingMessage, res: ServerResponse, name: string, route: Route | undefined) {
    if (!route) return refuse(req, res, 404, 'no_pod', `There is no app called ${name} here`, 'Check the address.')
    if (route.status === 'new')
      return refuse(req, res, 503, 'not_deployed', 'This app has no version yet', 'Deploy one: `tidepool deploy`.')
    if (route.status === 'stopped')
      return refuse(req, res, 503, 'stopped', 'This app is stopped', 'Its owner starts it with `tidepool activate`.')
    refuse(
      req,
      res,
      503,
      'not_running',
      'This app does not run at the moment',
      'It is started again by itself. The owner finds the reason with `tidepool logs`.',
    )
  }

  return {
    /** Answers a request to the pod `name`. */
    web(req: IncomingMessage, res: ServerResponse, name: string) {
      const route = fleet.route(name)
      if (!route) return unserved(req, res, name, undefined)
      if ((inFlight.get(route.pod) ?? 0) >= maxInFlight) {
        traffic.count(route.pod, 503, 0)
        return refuse(req, res, 503, 'busy', 'This app has too many requests under way', 'Try again in a moment.')
      }
      start(req, res, name, 1, performance.now())
    },
    /** Passes a connection that changes its protocol (WebSocket) through. */
    upgrade(req: IncomingMessage, client: Duplex, head: Buffer, name: string): void {
      client.on('error', () => client.destroy())
      pick(name, undefined, (replica) => {
        const route = fleet.route(name)
        if (!replica || !route || client.destroyed) {
          client.end('HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n')
          return
        }
        take(replica, route.pod)
        const far = connectInside(replica.socket)
        far.once('close', () => give(replica, route.pod))
        tunnel(req, client, far, headOf(req), head)
      })
    },
    /** A replica of the pod became healthy or ceased to be. */
    changed(pod: string): void {
      for (const look of waiting.get(pod) ?? []) look()
      const live = new Set(replicas.of(pod).map(({ socket }) => socket))
      for (const { pod: each, deployment } of replicas.groups())
        if (each !== pod) for (const { socket } of replicas.healthy(each, deployment)) live.add(socket)
      for (const [socket, client] of clients)
        if (!live.has(socket) && !client.busy) {
          clients.delete(socket)
          client.close()
        }
    },
    async close(): Promise<void> {
      for (const client of clients.values()) client.close()
      clients.clear()
    },
  }
}

export type Proxy = ReturnType<typeof createProxy>
