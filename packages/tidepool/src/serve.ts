/**
 * HTTP: from a request on the socket to a handler and back. The life of a request:
 *
 *   path normalised → route found → cross-site check → identify (req.user) → before hooks → body read → handler →
 *   respond.ts. Whatever throws on the way ends in `fail`, which answers, logs and remembers it.
 *
 * Features (auth, payments, admin, …) plug in through the pod, see the header of pod.ts: `pod.mount` for their own
 * paths, `pod.identify` for req.user, `pod.before` to stop or redirect requests. Order of hooks is the order of the
 * features in run.ts. Hooks run for unknown paths too, so that a guard does not tell what exists.
 *
 * Invariants
 * - One route, no awaits, no timers of its own: a GET whose handler is synchronous and that has no hooks is answered
 *   in the same tick. Keep it so; this path is what the benchmark measures.
 * - Every request gets an answer: handlers that throw, hang (a sweep enforces deadlines) or return what cannot be
 *   sent get an error in the one shape, as a page for browsers and as JSON for everybody else.
 */
import { randomBytes } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { hasBody, readBody } from './body.ts'
import { errorPage, findPlace } from './error-page.ts'
import { codes, errorBody, messageOf, TpError } from './errors.ts'
import { answerMalformed } from './malformed.ts'
import type { Pod, Target } from './pod.ts'
import { PodRequest } from './request.ts'
import { type Answering, respond, sendPage, sendText } from './respond.ts'
import { normalisePath, type Routed } from './router.ts'
import { inHandler } from './scope.ts'
import { createStreams } from './streams.ts'

const safeMethods = new Set(['GET', 'HEAD', 'OPTIONS'])
const sweepMs = 500
/** How long requests may take to end after the server was told to stop. */
const drainMs = 5000

export interface Listening {
  /** The port, or 0 on a unix socket. */
  port: number
  /** Stops accepting, ends streams, waits for running requests, then closes what is left. */
  close(): Promise<void>
}

type Match = ReturnType<Pod['match']>

function isThenable<T>(value: T | PromiseLike<T>): value is PromiseLike<T> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}

/** Makes the request listener of a pod and what closes its streams and timers. */
export function createDispatch(pod: Pod) {
  const setup = pod.setup()
  const { hooks } = pod
  const streams = createStreams((req, error) => publicBody(req, error).body)
  const answering: Answering = { https: () => pod.https, streams }
  /** Requests whose handler has not answered yet. */
  const running = new Set<PodRequest>()

  const sweep = setInterval(() => {
    const now = Date.now()
    for (const req of running) {
      if (req.deadline === 0 || req.deadline > now) continue
      fail(req, new TpError('handler_timeout', 'The handler took too long to answer'))
      req.cancel()
    }
  }, sweepMs).unref()

  function settle(req: PodRequest): void {
    req.deadline = 0
    running.delete(req)
  }

  /** Logs and remembers what is the server's fault; returns what may be told. */
  function publicBody(
    req: PodRequest,
    thrown: unknown,
  ): { status: number; body: ReturnType<typeof errorBody>; place: ReturnType<typeof findPlace> } {
    const known = thrown instanceof TpError
    const status = known ? thrown.status : 500
    if (known && status < 500) return { status, body: errorBody(thrown), place: undefined }
    const id = randomBytes(4).toString('hex')
    const place = findPlace(thrown, setup.dir)
    const where = place && { file: place.file, line: place.line, column: place.column }
    const dev = setup.mode === 'dev'
    const message = messageOf(thrown)
    const body = dev
      ? errorBody(known ? thrown : new TpError('internal', message, { hint: hintFor(message) }), { ...where, id })
      : errorBody(thrown, { id })
    const stack = thrown instanceof Error ? (thrown.stack ?? message) : message
    pod.remember({ id, at: Date.now(), method: req.method, path: req.path, body, stack })
    setup.log.error(`${req.method} ${req.path}: ${message}`, { id, code: body.code, ...where, stack })
    return { status, body, place }
  }

  function fail(req: PodRequest, thrown: unknown): void {
    settle(req)
    const { res, im } = req
    const { status, body, place } = publicBody(req, thrown)
    if (res.closed) return
    if (res.headersSent) {
      res.destroy()
      return
    }
    const extra: string[] = ['cache-control', 'no-store']
    if (thrown instanceof TpError && thrown.details.retryAfter !== undefined)
      extra.push('retry-after', String(thrown.details.retryAfter))
    // What is still coming of a body that nobody reads would be taken for the next request's head.
    if (!im.complete) extra.push('connection', 'close')
    if (im.headers.accept?.includes('text/html')) {
      const detail =
        setup.mode === 'dev' && status >= 500
          ? {
              place,
              stack: thrown instanceof Error ? (thrown.stack ?? '') : String(thrown),
              request: { method: req.method, path: req.path, query: req.query, body: req.body },
            }
          : undefined
      sendText(res, status, 'text/html; charset=utf-8', errorPage(status, body, detail), extra)
    } else sendText(res, status, 'application/json; charset=utf-8', JSON.stringify(body), extra)
  }

  /** Refuses changes that a page of another site sent. Clients that are no browsers send neither header. */
  function checkSite(req: PodRequest): void {
    const { headers } = req.im
    const site = headers['sec-fetch-site']
    if (site !== undefined) {
      if (site === 'same-origin' || site === 'none') return
    } else if (headers.origin === undefined) return
    const { origin, aliases } = pod.setup()
    if (headers.origin !== undefined && (headers.origin === origin || aliases.includes(headers.origin))) return
    throw new TpError('cross_site')
  }

  function finish(req: PodRequest, value: unknown): void {
    settle(req)
    try {
      const sending = respond(req, value, answering)
      if (sending)
        sending.catch((error: unknown) => {
          // A client that went away in the middle is nobody's fault.
          if (!req.res.closed) fail(req, error)
        })
    } catch (error) {
      fail(req, error)
    }
  }

  function call(req: PodRequest, route: Routed<Target>, params: Record<string, string>) {
    const { target } = route
    if (target.page !== undefined) return sendPage(req, target)
    let value: unknown
    try {
      value = inHandler(() => target.handler(req, params))
    } catch (error) {
      return fail(req, error)
    }
    if (!isThenable(value)) return finish(req, value)
    req.deadline = Date.now() + target.timeout * 1000
    running.add(req)
    value.then(
      (result) => req.deadline !== 0 && finish(req, result),
      (error: unknown) => req.deadline !== 0 && fail(req, error),
    )
  }

  function noRoute(req: PodRequest, allow: readonly string[] | undefined) {
    if (!allow) return fail(req, new TpError('not_found', `Nothing answers at ${req.path}`))
    const methods = [...new Set([...allow, ...(allow.includes('GET') ? ['HEAD'] : []), 'OPTIONS'])].join(', ')
    req.res.setHeader('allow', methods)
    if (req.method === 'OPTIONS') return finish(req, 204)
    fail(req, new TpError('method_not_allowed', `${req.path} does not answer ${req.method}, only ${allow.join(', ')}`))
  }

  /** Who it is, then the hooks; in the same tick as long as nobody has to wait for anything. */
  function enter(req: PodRequest, found: Match) {
    const user = hooks.identify?.(req) ?? null
    if (!isThenable(user)) {
      req.user = user
      return pass(req, found, 0)
    }
    user.then(
      (known) => {
        req.user = known
        guarded(req, () => pass(req, found, 0))
      },
      (error: unknown) => fail(req, error),
    )
  }

  function pass(req: PodRequest, found: Match, from: number) {
    for (let at = from; at < hooks.before.length; at++) {
      const answer = hooks.before[at]?.(req)
      if (isThenable(answer)) {
        answer.then(
          (value) => (value === undefined ? guarded(req, () => pass(req, found, at + 1)) : finish(req, value)),
          (error: unknown) => fail(req, error),
        )
        return
      }
      if (answer !== undefined) return finish(req, answer)
    }
    arrive(req, found)
  }

  function arrive(req: PodRequest, found: Match) {
    if (!found || !('route' in found)) return noRoute(req, found?.allow)
    const { route, params } = found
    if (route.target.page !== undefined || !hasBody(req)) return call(req, route, params)
    readBody(req, route.target, () => setup.backend.files).then(
      () => !req.res.closed && call(req, route, params),
      (error: unknown) => fail(req, error),
    )
  }

  function guarded(req: PodRequest, step: () => void) {
    try {
      step()
    } catch (error) {
      fail(req, error)
    }
  }

  function dispatch(im: IncomingMessage, res: ServerResponse) {
    const url = im.url ?? '/'
    const method = im.method ?? 'GET'
    const mark = url.indexOf('?')
    const raw = mark < 0 ? url : url.slice(0, mark)
    // `GET http://host/path` is allowed to clients of proxies; the host in it is as little to be trusted as any.
    const path = normalisePath(raw.startsWith('/') ? raw : raw.replace(/^https?:\/\/[^/]*/i, '') || '/')
    const req = new PodRequest(im, res, method, path ?? '/', mark < 0 ? '' : url.slice(mark + 1), setup.trustProxy)
    if (path === undefined || !path.startsWith('/'))
      return fail(req, new TpError('bad_request', 'The path is not valid UTF-8 or has control characters'))
    const found = pod.match(method, path)
    guarded(req, () => {
      if (!safeMethods.has(method)) {
        const target = found && 'route' in found ? found.route.target : undefined
        if (!(target && target.page === undefined && target.crossSite)) checkSite(req)
      }
      enter(req, found)
    })
  }

  return {
    dispatch,
    running,
    streams,
    close(): void {
      clearInterval(sweep)
      streams.close()
    },
  }
}

/** What most often goes wrong, told from the message. */
function hintFor(message: string): string {
  const field = /req\.(json|text|body|query|headers|cookies|files|raw) is not a function/.exec(message)?.[1]
  if (field) return `req.${field} is a value, not a function: write req.${field} without brackets.`
  if (/Cannot read properties of (undefined|null)/.test(message))
    return 'Something is missing that the code takes for granted: check it, or use ?. and a fallback.'
  if (/is not defined/.test(message)) return 'Declare or import the name first.'
  return codes.internal[2]
}

/**
 * Serves a pod that is bound to its setup.
 * @param where a port (0 for any free one) on an address, default 127.0.0.1, or the path of a unix socket
 * @throws TpError `port_taken`
 */
export async function serve(pod: Pod, where: { port: number; host?: string } | { socket: string }): Promise<Listening> {
  const { dispatch, running, close } = createDispatch(pod)
  const server: Server = createServer(
    { keepAliveTimeout: 65_000, headersTimeout: 15_000, requestTimeout: 600_000 },
    dispatch,
  )
  answerMalformed(server)
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const taken = error.code === 'EADDRINUSE'
      const port = 'port' in where ? where.port : where.socket
      reject(taken ? new TpError('port_taken', `Port ${port} is taken`, { cause: error }) : error)
    })
    if ('socket' in where) server.listen(where.socket, resolve)
    else server.listen(where.port, where.host ?? '127.0.0.1', resolve)
  })
  const address: AddressInfo | string | null = server.address()
  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      close()
      server.closeIdleConnections()
      const deadline = setTimeout(() => server.closeAllConnections(), running.size > 0 ? drainMs : 500)
      await closed
      clearTimeout(deadline)
    },
  }
}
