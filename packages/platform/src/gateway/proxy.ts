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
 * knows.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { type Dispatcher, Pool } from 'undici'
import { connectInside, insideConnector } from '../drivers/inside.ts'
import type { Fleet, Route } from '../fleet.ts'
import type { Replica, Replicas } from '../replicas.ts'
import { page, sendPage } from '../web/page.ts'
import { choose } from './balancer.ts'

export interface ProxyOptions {
  fleet: Fleet
  replicas: Replicas
  /** http or https, as clients see it. */
  protocol: string
  /** A proxy in front of this one tells who the client is. */
  trustProxy: boolean
}

/** How long a request waits for a replica, ms. */
const patienceMs = 10_000
/** Requests of one pod under way at once. */
const maxInFlight = 2_000
const connections = 128

const hopByHop = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'expect',
])
/** Told by this gateway, whatever the client says. */
const forwarded = new Set([
  'forwarded',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
  'x-forwarded-port',
  'x-real-ip',
])
const repeatable = new Set(['GET', 'HEAD', 'OPTIONS'])

/** Makes the proxy. */
export function createProxy({ fleet, replicas, protocol, trustProxy }: ProxyOptions) {
  const pools = new Map<string, Pool>()
  const inFlight = new Map<string, number>()
  /** Requests that wait for a replica of a pod. */
  const waiting = new Map<string, Set<() => void>>()

  function poolOf(replica: Replica): Pool {
    let pool = pools.get(replica.socket)
    if (!pool) {
      pool = new Pool('http://pod', {
        connections,
        pipelining: 1,
        // Answers may take as long as they like; the pod has its own limits, and streams have no end.
        headersTimeout: 0,
        bodyTimeout: 0,
        keepAliveTimeout: 30_000,
        connect: insideConnector(replica.socket),
      })
      pools.set(replica.socket, pool)
    }
    return pool
  }

  function headersOf(req: IncomingMessage): string[] {
    const raw = req.rawHeaders
    const headers: string[] = []
    const named = req.headers.connection
    const also = named && named !== 'keep-alive' ? named.toLowerCase().split(/\s*,\s*/) : undefined
    let client = req.socket.remoteAddress ?? ''
    for (let at = 0; at < raw.length; at += 2) {
      const name = raw[at] ?? ''
      const lower = name.toLowerCase()
      if (trustProxy && lower === 'x-forwarded-for') client = `${raw[at + 1]}, ${client}`
      if (hopByHop.has(lower) || forwarded.has(lower) || also?.includes(lower)) continue
      headers.push(name, raw[at + 1] ?? '')
    }
    headers.push('x-forwarded-for', client, 'x-forwarded-proto', protocol, 'x-forwarded-host', req.headers.host ?? '')
    return headers
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
      return sendPage(res, status, page(error, ['p', hint], ['p', { class: 'dim' }, `${status} ${code}`]), headers)
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

  function forward(req: IncomingMessage, res: ServerResponse, route: Route, replica: Replica, retries: number): void {
    const hasBody =
      req.headers['content-length'] !== undefined
        ? req.headers['content-length'] !== '0'
        : req.headers['transfer-encoding'] !== undefined
    let control: Dispatcher.DispatchController | undefined
    let sent = false
    let over = false
    take(replica, route.pod)
    const release = () => {
      if (over) return
      over = true
      res.off('close', gone)
      give(replica, route.pod)
    }
    const gone = () => {
      if (!over) control?.abort(new Error('the client went away'))
      release()
    }
    res.once('close', gone)

    const failed = (error: Error & { code?: string }) => {
      const wasOver = over
      release()
      if (wasOver) return
      if (res.headersSent) return void res.destroy()
      // The same anywhere, so not tried elsewhere.
      if (error.code === 'UND_ERR_INVALID_ARG')
        return refuse(req, res, 400, 'bad_request', 'The request cannot be passed on', 'Check its path and headers.')
      const never = !sent || ['ECONNREFUSED', 'ENOENT', 'UND_ERR_CONNECT_TIMEOUT'].includes(error.code ?? '')
      const again = !hasBody && (never || repeatable.has(req.method ?? ''))
      if (again && retries > 0) return start(req, res, route.name, retries - 1, replica)
      refuse(
        req,
        res,
        502,
        'bad_gateway',
        'The app ended before it answered',
        'It is being started again: try in a moment. The owner finds the reason with `tidepool logs`.',
      )
    }

    poolOf(replica).dispatch(
      {
        path: req.url ?? '/',
        method: (req.method ?? 'GET') as Dispatcher.HttpMethod,
        headers: headersOf(req),
        body: hasBody ? req : null,
      },
      {
        onRequestStart(controller) {
          control = controller
          sent = true
          if (over) controller.abort(new Error('the client went away'))
        },
        onResponseStart(controller, status, _headers, message) {
          if (status < 200) return
          const raw = controller.rawHeaders
          const headers: string[] = []
          if (Array.isArray(raw))
            for (let at = 0; at < raw.length; at += 2) {
              const name = String(raw[at])
              if (!hopByHop.has(name.toLowerCase())) headers.push(name, latin(raw[at + 1]))
            }
          res.writeHead(status, message, headers)
        },
        onResponseData(controller, chunk) {
          if (res.write(chunk)) return
          controller.pause()
          res.once('drain', () => controller.resume())
        },
        onResponseEnd() {
          release()
          res.end()
        },
        onResponseError(_controller, error) {
          failed(error)
        },
      },
    )
  }

  function start(req: IncomingMessage, res: ServerResponse, name: string, retries: number, except?: Replica): void {
    pick(name, except, (replica) => {
      const route = fleet.route(name)
      if (res.destroyed) return
      if (replica && route) return forward(req, res, route, replica, retries)
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
      if ((inFlight.get(route.pod) ?? 0) >= maxInFlight)
        return refuse(req, res, 503, 'busy', 'This app has too many requests under way', 'Try again in a moment.')
      start(req, res, name, 1)
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
        far.once('close', () => {
          give(replica, route.pod)
          client.destroy()
        })
        far.on('error', () => client.destroy())
        client.once('close', () => far.destroy())
        const headers = [...headersOf(req), 'connection', 'Upgrade', 'upgrade', req.headers.upgrade ?? 'websocket']
        let text = `${req.method} ${req.url} HTTP/1.1\r\n`
        for (let at = 0; at < headers.length; at += 2) text += `${headers[at]}: ${headers[at + 1]}\r\n`
        far.write(`${text}\r\n`, 'latin1')
        if (head.length > 0) far.write(head)
        far.pipe(client).pipe(far)
      })
    },
    /** A replica of the pod became healthy or ceased to be. */
    changed(pod: string): void {
      for (const look of waiting.get(pod) ?? []) look()
      const live = new Set(replicas.of(pod).map(({ socket }) => socket))
      for (const { pod: each, deployment } of replicas.groups())
        if (each !== pod) for (const { socket } of replicas.healthy(each, deployment)) live.add(socket)
      for (const [socket, pool] of pools)
        if (!live.has(socket) && pool.stats.running === 0) {
          pools.delete(socket)
          void pool.destroy().catch(() => {})
        }
    },
    async close(): Promise<void> {
      await Promise.all([...pools.values()].map((pool) => pool.destroy().catch(() => {})))
      pools.clear()
    },
  }
}

export type Proxy = ReturnType<typeof createProxy>

/** Headers are bytes; what a pod wrote as UTF-8 must come out so. */
function latin(value: Buffer | string | undefined): string {
  return Buffer.isBuffer(value) ? value.toString('latin1') : String(value ?? '')
}
