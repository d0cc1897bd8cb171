// The HTTP edge: authenticate, validate, dispatch, map errors. No SQL, no logic of any noun.
import { randomUUID } from 'node:crypto'
import { type Route, type RouteName, routes } from '@tidebase/wire'
import { answerBatch, type Failure } from './batch.ts'
import { check, checkStorable, readForm, readJson } from './body.ts'
import { textOf } from './encoded.ts'
import type { Caller, Engine } from './engine.ts'
import { ApiError } from './errors.ts'
import { type Handlers, handlersOf } from './handlers.ts'
import { authenticator } from './keys.ts'
import type { Streams } from './live.ts'
import { createMetrics } from './metrics.ts'
import { createRouter, type Match } from './router.ts'
import { studio } from './studio.ts'

/** What the edge may be told. */
export interface AppOptions {
  /** TIDEBASE_API_KEY; unset: nobody needs a key, and only pages and hosts of this machine are served. */
  apiKey: string | undefined
  /** Serve any host without a key. */
  insecure: boolean
  /** Origins of web pages that may call, `*` for any. */
  corsOrigins: string[]
  /** Largest body, bytes. */
  maxBody: number
  /** Told of errors that are our fault, with the id that the client was given. */
  onError: (error: unknown, requestId: string) => void
  /** Aborts when the server stops: long-polls answer at once. */
  stopping: AbortSignal
}

/** A request's address, taken apart. */
interface Address {
  /** Host and port. */
  host: string
  /** Still encoded. */
  path: string
  query: URLSearchParams | undefined
}

/** The server as a function from request to response. It never rejects. */
export function createApp(
  engine: Engine,
  streams: Streams,
  options: AppOptions,
): (request: Request) => Promise<Response> {
  const find = createRouter<RouteName>(routes)
  const authenticate = authenticator(engine.db.hot, options.apiKey)
  const metrics = createMetrics()
  const handlers = handlersOf(engine, streams, metrics, (request) => app(request))
  const guard = originGuard(engine.settings.publicUrl, options)

  const callerOf = async ({ name }: Match<RouteName>, request: Request, { query }: Address): Promise<Caller> => {
    const header = request.headers.get('authorization')
    const bearer = header === null ? undefined : /^bearer +(.*)$/i.exec(header)?.[1]?.trim()
    const presented = bearer ?? (keyInAddress.has(name) ? (query?.get('token') ?? undefined) : undefined)
    const caller = await authenticate(presented)
    if (!caller) throw new ApiError('unauthorized')
    return caller
  }

  /** Does a call of a route for a caller whose key was found: the scope, the schemas, the handler. */
  const perform = async (
    { name, route, params }: Match<RouteName>,
    caller: Caller,
    request: Request,
    given: { query: object; body(): unknown },
  ): Promise<unknown> => {
    admit(caller, name, route)
    if (name === 'batch') throw new ApiError('not_in_batch')
    if (route.query) checkStorable(given.query, 'invalid_query')
    const query = route.query ? check(route.query, given.query, 'invalid_query') : undefined
    const body = route.body ? check(route.body, await given.body(), 'invalid_body') : undefined
    return call(handlers, name, new Admitted({ caller, params, query, body }, request, options.stopping))
  }

  const answer = async (match: Match<RouteName>, request: Request, address: Address): Promise<Response> => {
    const { name, route } = match
    const caller = route.keyless ? anonymous : await callerOf(match, request, address)
    if (name === 'batch') {
      admit(caller, name, route)
      const edge = {
        find,
        perform: (inside: Match<RouteName>, query: object, body: unknown) =>
          perform(inside, caller, request, { query, body: () => body }),
        failure: (error: unknown) => failure(error, options),
        observe: metrics.observe,
        maxBody: options.maxBody,
      }
      return answerBatch(edge, request)
    }
    const reply = await perform(match, caller, request, {
      query: Object.fromEntries(address.query ?? []),
      body: () => (route.form ? readForm : readJson)(request, options.maxBody),
    })
    return reply instanceof Response ? reply : json(200, reply)
  }

  const app = async (request: Request): Promise<Response> => {
    const began = performance.now()
    let route = 'none'
    let cors: Record<string, string> = {}
    let response: Response
    try {
      const address = takeApart(request.url)
      cors = guard(request, address.host)
      const page = await studio(request, address.path)
      const match = page ? null : find(request.method, address.path)
      if (page) {
        route = 'studio'
        response = page
      } else if (match === null) {
        throw new ApiError('route_not_found', `There is no route ${request.method} ${address.path.slice(0, 200)}.`)
      } else if ('allowed' in match) {
        const allow = [...match.allowed, 'OPTIONS'].join(', ')
        if (request.method !== 'OPTIONS') {
          throw new ApiError('method_not_allowed', `This path does not take ${request.method}.`, { allow })
        }
        response = new Response(null, { status: 204, headers: preflight(allow) })
      } else {
        route = match.name
        response = await answer(match, request, address)
      }
    } catch (error) {
      const { status, body, headers } = failure(error, options)
      response = json(status, body, headers)
    }
    for (const [header, value] of Object.entries(cors)) response.headers.set(header, value)
    metrics.observe(route, response.status, performance.now() - began)
    return response
  }
  return app
}

/** A call as its handler gets it. What few handlers look at is made when they do. */
class Admitted {
  readonly caller: Caller
  readonly params: Record<string, string>
  readonly query: unknown
  readonly body: unknown
  readonly request: Request
  readonly #stopping: AbortSignal

  constructor(
    { caller, params, query, body }: Pick<Admitted, 'caller' | 'params' | 'query' | 'body'>,
    request: Request,
    stopping: AbortSignal,
  ) {
    this.caller = caller
    this.params = params
    this.query = query
    this.body = body
    this.request = request
    this.#stopping = stopping
  }

  get headers(): Headers {
    return this.request.headers
  }

  get signals(): readonly AbortSignal[] {
    return [this.request.signal, this.#stopping]
  }
}

/** EventSource cannot send headers. No other route takes a key in its address. */
const keyInAddress: ReadonlySet<RouteName> = new Set(['streamEvents', 'streamProjectEvents'] as const)

/** @throws ApiError `forbidden` */
function admit(caller: Caller, name: RouteName, route: Route): void {
  if (route.keyless || caller.scope === 'admin' || route.scopes.includes(caller.scope)) return
  throw new ApiError('forbidden', `A key of scope ${caller.scope} may not call ${name}.`, {
    hint: `Use a key of scope ${['admin', ...route.scopes].join(' or ')}; \`tidebase keys list\` shows them.`,
  })
}

const anonymous: Caller = { project: 0, scope: 'read', keyId: null }

/**
 * The one place where a route's name and its input part ways in the types: the route's own schemas have just made them
 * agree.
 */
function call(handlers: Handlers, name: keyof Handlers, input: object): Promise<unknown> {
  const handler: (input: never) => Promise<unknown> = handlers[name]
  return handler(input as never)
}

function json(status: number, body: unknown, headers?: Record<string, string>): Response {
  return new Response(textOf(body), { status, headers: { 'content-type': 'application/json', ...headers } })
}

/** What an error is answered with. Those that are our fault are reported. */
function failure(error: unknown, options: AppOptions): Failure {
  if (!(error instanceof ApiError)) {
    const requestId = randomUUID()
    options.onError(error, requestId)
    return { status: 500, headers: {}, body: new ApiError('internal', undefined, { requestId }).body() }
  }
  const { allow } = error.details
  return {
    status: error.status,
    headers: {
      ...(error.status === 503 ? { 'retry-after': '1' } : {}),
      ...(error.status === 401 ? { 'www-authenticate': 'Bearer' } : {}),
      ...(typeof allow === 'string' ? { allow } : {}),
    },
    body: error.body(),
  }
}

function preflight(allow: string): Record<string, string> {
  return {
    allow,
    'access-control-allow-methods': allow,
    'access-control-allow-headers': 'authorization, content-type, last-event-id, x-tidebase-worker',
    'access-control-max-age': '600',
  }
}

/** Takes an absolute URL apart without the cost of parsing what nobody looks at. */
function takeApart(url: string): Address {
  const start = url.indexOf('//') + 2
  const slash = url.indexOf('/', start)
  const end = slash < 0 ? url.length : slash
  const mark = url.indexOf('?', end)
  return {
    host: url.slice(start, end).toLowerCase(),
    path: url.slice(end, mark < 0 ? undefined : mark) || '/',
    query: mark < 0 ? undefined : new URLSearchParams(url.slice(mark + 1)),
  }
}

/**
 * Decides about pages of other sites.
 *
 * @returns a function that gives the headers which let the calling page read the answer
 * @throws ApiError (the returned function) `cross_site`
 */
function originGuard(
  publicUrl: string,
  options: AppOptions,
): (request: Request, host: string) => Record<string, string> {
  const { corsOrigins } = options
  const open = options.apiKey === undefined && !options.insecure
  const own = new URL(publicUrl).hostname
  return (request, host): Record<string, string> => {
    // Against DNS rebinding: a page of another site whose name leads to this machine still sends that name.
    if (open && !isLoopback(host) && nameOf(host) !== own) {
      throw new ApiError('cross_site', `The host ${JSON.stringify(host.slice(0, 100))} is not this server’s.`)
    }
    const origin = request.headers.get('origin')
    if (origin === null || origin.replace(/^https?:\/\//, '').toLowerCase() === host) return {}
    if (corsOrigins.includes('*') || corsOrigins.includes(origin)) {
      return { 'access-control-allow-origin': origin, vary: 'origin' }
    }
    if (open) throw new ApiError('cross_site')
    return {}
  }
}

const nameOf = (host: string) => host.replace(/:\d+$/, '')

function isLoopback(host: string): boolean {
  return /^(?:(?:[\w-]+\.)*localhost|127\.\d+\.\d+\.\d+|\[::1\])(?::\d+)?$/.test(host)
}
