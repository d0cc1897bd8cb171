// The HTTP edge: authenticate, validate, dispatch, map errors. No SQL, no logic of any noun.
import { randomUUID } from 'node:crypto'
import { type ErrorBody, type Route, type RouteName, routes } from '@tidebase/wire'
import { type Context, Hono } from 'hono'
import { check, readJson } from './body.ts'
import type { Caller, Engine } from './engine.ts'
import { ApiError } from './errors.ts'
import { type Handlers, handlersOf } from './handlers.ts'
import { authenticator } from './keys.ts'
import type { LiveEvents } from './live.ts'

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

/** The server's fetch function with its routes. `app.request()` calls it without a port. */
export function createApp(engine: Engine, live: LiveEvents, options: AppOptions): Hono {
  const app = new Hono()
  const authenticate = authenticator(engine.db.hot, options.apiKey)
  const handlers = handlersOf(engine, live)
  const open = options.apiKey === undefined && !options.insecure
  const trustedHosts = new Set([hostOf(engine.settings.publicUrl)])

  /** @returns headers that let the page read the answer */
  const crossOrigin = (request: Request): Record<string, string> => {
    const origin = request.headers.get('origin')
    if (open) {
      // Against DNS rebinding: a page of another site that resolves to this machine still names its own host.
      const host = hostOf(request.url)
      if (!isLoopback(host) && !trustedHosts.has(host)) {
        throw new ApiError('cross_site', `The host ${JSON.stringify(host.slice(0, 100))} is not this server’s.`)
      }
    }
    if (origin === null || hostPort(origin) === hostPort(request.url)) return {}
    if (options.corsOrigins.includes('*') || options.corsOrigins.includes(origin)) {
      return { 'access-control-allow-origin': origin, vary: 'origin' }
    }
    if (open) throw new ApiError('cross_site')
    return {}
  }

  const answer = async (name: RouteName, route: Route, context: Context): Promise<Response> => {
    const request = context.req.raw
    const headers = crossOrigin(request)
    const caller = name === 'health' ? anonymous : await admit(name, route, context)
    const query = route.query ? check(route.query, context.req.query(), 'invalid_query') : undefined
    const body = route.body ? check(route.body, await readJson(request, options.maxBody), 'invalid_body') : undefined
    const input = {
      caller,
      params: params(context),
      query,
      body,
      headers: request.headers,
      get signals() {
        return [request.signal, options.stopping]
      },
    }
    const reply = await call(handlers, name, input)
    if (reply instanceof Response) {
      for (const [header, value] of Object.entries(headers)) reply.headers.set(header, value)
      return reply
    }
    return context.body(JSON.stringify(reply), 200, { ...headers, 'content-type': 'application/json' })
  }

  const admit = async (name: RouteName, route: Route, context: Context): Promise<Caller> => {
    const header = context.req.header('authorization')
    const bearer = header === undefined ? undefined : /^bearer +(.*)$/i.exec(header)?.[1]?.trim()
    // EventSource cannot send headers. No other route takes a key in its address.
    const presented = bearer ?? (name === 'streamEvents' ? context.req.query('token') : undefined)
    const caller = await authenticate(presented)
    if (!caller) throw new ApiError('unauthorized')
    if (caller.scope !== 'admin' && !route.scopes.includes(caller.scope)) {
      throw new ApiError('forbidden', `A key of scope ${caller.scope} may not call ${name}.`, {
        hint: `Use a key of scope ${['admin', ...route.scopes].join(' or ')}; \`tidebase keys list\` shows them.`,
      })
    }
    return caller
  }

  const methods = new Map<string, Set<string>>()
  for (const [name, route] of Object.entries(routes)) {
    app.on(route.method, route.path, (context) => answer(name as RouteName, route, context))
    const taken = methods.get(route.path) ?? new Set()
    methods.set(route.path, taken.add(route.method))
  }
  for (const [path, taken] of methods) {
    const allow = [...taken, 'OPTIONS'].join(', ')
    app.options(path, (context) => {
      const headers = crossOrigin(context.req.raw)
      return context.body(null, 204, {
        ...headers,
        allow,
        'access-control-allow-methods': allow,
        'access-control-allow-headers': 'authorization, content-type, last-event-id, x-tidebase-worker',
        'access-control-max-age': '600',
      })
    })
    app.all(path, (context) => {
      throw new ApiError('method_not_allowed', `${context.req.path} does not take ${context.req.method}.`, { allow })
    })
  }
  app.notFound((context) => {
    const error = new ApiError(
      'route_not_found',
      `There is no route ${context.req.method} ${context.req.path.slice(0, 200)}.`,
    )
    return context.json(error.body(), 404)
  })
  app.onError((error, context) => {
    const { body, status, headers } = explain(error, options)
    const origin = context.req.header('origin')
    const allowed = origin && (options.corsOrigins.includes('*') || options.corsOrigins.includes(origin))
    const cors: Record<string, string> = allowed ? { 'access-control-allow-origin': origin, vary: 'origin' } : {}
    return new Response(JSON.stringify(body), {
      status,
      headers: { ...cors, ...headers, 'content-type': 'application/json' },
    })
  })
  return app
}

const anonymous: Caller = { project: 0, scope: 'read', keyId: null }

/**
 * The one place where a route's name and its input part ways in the types: the route's own schemas have just made them
 * agree.
 */
function call(handlers: Handlers, name: RouteName, input: unknown): Promise<unknown> {
  const handler: (input: never) => Promise<unknown> = handlers[name]
  return handler(input as never)
}

function params(context: Context): Record<string, string> {
  const all = context.req.param() as Record<string, string>
  for (const [name, value] of Object.entries(all)) {
    if (value.includes('\0') || !value.isWellFormed() || value.length > 300) {
      throw new ApiError('invalid_query', `The path parameter ${name} is not a name: at most 300 characters, no NUL.`, {
        issues: [{ path: name, message: 'must be at most 300 characters, without NUL' }],
      })
    }
  }
  return all
}

function explain(
  error: unknown,
  options: AppOptions,
): { body: ErrorBody; status: number; headers: Record<string, string> } {
  if (error instanceof ApiError) {
    const { allow } = error.details
    return {
      body: error.body(),
      status: error.status,
      headers: {
        ...(error.status === 503 ? { 'retry-after': '1' } : {}),
        ...(error.status === 401 ? { 'www-authenticate': 'Bearer' } : {}),
        ...(typeof allow === 'string' ? { allow } : {}),
      },
    }
  }
  const requestId = randomUUID()
  options.onError(error, requestId)
  const failure = new ApiError('internal', undefined, { requestId })
  return { body: failure.body(), status: 500, headers: {} }
}

function hostOf(url: string): string {
  try {
    return new URL(url).hostname
  } catch {
    return ''
  }
}

function hostPort(url: string): string {
  try {
    return new URL(url).host
  } catch {
    return url
  }
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host.endsWith('.localhost') || host === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(host)
}
