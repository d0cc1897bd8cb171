/**
 * One pod: what main.ts registered, what it runs on, and where features hook in.
 *
 * A feature (auth, payments, admin, files, state, …) is a function `(pod) => void` in the list of run.ts. It is called
 * once, after main.ts has run (so its configuration is final) and before the first request. It may:
 *   pod.mount(path, options, handler)   answer paths of its own; they come before the pod's, and may start with "/_"
 *   pod.identify(fn)                    say who a request comes from: sets req.user (one feature only)
 *   pod.before(fn)                      look at every request after identify and before its route; whatever it
 *                                       returns other than undefined is the answer (as from a handler)
 *   pod.onStart(fn) / pod.onStop(fn)    run when the server listens / when it stops (in reverse order)
 * and read pod.auth, pod.payments, pod.admin (null when not configured) and pod.setup() (backend, origin, mode, log).
 * Requests to features pass the same body parsing, limits and cross-site check as the pod's own.
 */
import type { buildConnector } from 'undici'
import type { Backend } from './backend.ts'
import type { AdminConfig, AuthConfig, PaymentsConfig } from './config.ts'
import { type ErrorBody, TpError } from './errors.ts'
import type { Html } from './html.ts'
import type { Log } from './log.ts'
import type { Request, User } from './request.ts'
import { createRouter, type Found, type Params } from './router.ts'
import type { TidebaseAddress } from './workflows.ts'

/** HTTP methods a route may answer. HEAD and OPTIONS are answered by the server. */
export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'

export interface RouteOptions {
  /** Default `['GET']`. */
  methods?: readonly Method[]
  /** Seconds the handler may take, default 30. Streams may stay open. */
  timeout?: number
  /** Largest body in bytes, default 10 MB. Uploaded files do not count. */
  maxBody?: number
  /** Largest uploaded file in bytes, default 100 MB. */
  maxUpload?: number
  /** Accept changes sent by pages of other sites. Only for routes that check their callers themselves. */
  crossSite?: boolean
}

/** A handler: gets the request and the path's parameters, returns the answer (see "Return values" in the docs). */
export type Handler<P extends string = string> = (req: Request, params: Params<P>) => unknown

/** What a route carries: a finished page or a handler with its limits. */
export type Target =
  | { page: string; length: string; etag: string }
  | { page?: undefined; handler: Handler; timeout: number; maxBody: number; maxUpload: number; crossSite: boolean }

/** Who a request comes from. Should return without a promise when nothing must be looked up. */
export type Identify = (req: Request) => User | null | Promise<User | null>
/** A look at a request before its route. */
export type Before = (req: Request) => unknown
export type Feature = (pod: Pod) => unknown

/** What a pod runs on. */
export interface Setup {
  mode: 'dev' | 'production'
  /** The pod's folder. */
  dir: string
  /** Where the pod is reached, e.g. `https://blog.example.com`: the only source of links in mails. */
  origin: string
  /** Further origins that serve this pod, e.g. custom domains. */
  aliases: readonly string[]
  /** Id of this deployment; the same on all replicas. */
  deployment: string
  /** Whether a proxy in front sets X-Forwarded-For. */
  trustProxy: boolean
  /** `host:port` of inner addresses that tp.http may call nevertheless. */
  allowHosts: readonly string[]
  backend: Backend
  log: Log
  /** How tp.http connects where the pod itself cannot: in a sandbox. */
  egress?: buildConnector.connector | undefined
  /** Where Tidebase is, for durable runs; undefined when there is none. */
  tidebase?: (() => Promise<TidebaseAddress>) | undefined
}

/** An error that a request met, for /_dev and the error page. */
export interface RecentError {
  id: string
  at: number
  method: string
  path: string
  body: ErrorBody
  stack: string
}

export interface BackgroundTask {
  name: string
  /** 0: once per deployment. */
  seconds: number
  run: () => unknown
}

export type Pod = ReturnType<typeof createPod>

const defaults = { timeout: 30, maxBody: 10 * 1024 * 1024, maxUpload: 100 * 1024 * 1024, crossSite: false }
const maxTasks = 5
const maxRecent = 50

function target(handler: Handler, options: RouteOptions): Target {
  const { timeout, maxBody, maxUpload, crossSite } = { ...defaults, ...options }
  return { handler, timeout, maxBody, maxUpload, crossSite }
}

/** Makes a pod with nothing registered and nothing to run on. */
export function createPod() {
  const ours = createRouter<Target>()
  const theirs = createRouter<Target>()
  const listed: { path: string; methods: readonly string[]; feature: boolean }[] = []
  const startHooks: (() => void | Promise<void>)[] = []
  const stopHooks: (() => void | Promise<void>)[] = []
  const recent: RecentError[] = []
  const tasks: BackgroundTask[] = []
  const features: Feature[] = []
  const hooks: { identify: Identify | undefined; before: Before[] } = { identify: undefined, before: [] }
  let setup: Setup | undefined

  const pod = {
    auth: null as AuthConfig | null,
    payments: null as PaymentsConfig | null,
    admin: null as AdminConfig | null,

    /** Gives the pod what it runs on. Done before main.ts runs. */
    bind(given: Setup): void {
      setup = given
    },
    /** @throws TpError `not_started` outside a running pod */
    setup(): Setup {
      if (!setup) throw new TpError('not_started')
      return setup
    },
    /** The address of a path on this pod, from the configured origin. */
    url(path: string): string {
      return new URL(path, pod.setup().origin).href
    },
    get https(): boolean {
      return pod.setup().origin.startsWith('https:')
    },

    /** Registers a route of the pod's author. */
    route(path: string, options: RouteOptions, handler: Handler): void {
      if (typeof handler !== 'function') throw new TpError('bad_route', `The handler of ${path} is not a function`)
      if (/^\/(_(auth|pay|admin|files|dev|tidepool)|static)(\/|$)/.test(path))
        throw new TpError('bad_route', `${path} belongs to the runtime`, {
          hint: 'Choose a path without a leading "_".',
        })
      const methods = options.methods ?? ['GET']
      theirs.add({ path, methods, target: target(handler, options) })
      listed.push({ path, methods, feature: false })
    },
    /** Registers a finished page. */
    page(path: string, content: string | Html, etag: string): void {
      const page = String(content)
      theirs.add({ path, methods: ['GET'], target: { page, length: String(Buffer.byteLength(page)), etag } })
      listed.push({ path, methods: ['GET'], feature: false })
    },
    /** Registers a route of a feature. */
    mount(path: string, options: RouteOptions, handler: Handler): void {
      const methods = options.methods ?? ['GET']
      ours.add({ path, methods, target: target(handler, options) })
      listed.push({ path, methods, feature: true })
    },
    /** Adds a feature, see the header. */
    use(feature: Feature): void {
      features.push(feature)
    },
    identify(fn: Identify): void {
      if (hooks.identify) throw new Error('Only one feature can identify users')
      hooks.identify = fn
    },
    before(fn: Before): void {
      hooks.before.push(fn)
    },
    onStart(fn: () => void | Promise<void>): void {
      startHooks.push(fn)
    },
    onStop(fn: () => void | Promise<void>): void {
      stopHooks.unshift(fn)
    },
    /** @throws TpError `task_limit` for the sixth */
    addTask(task: BackgroundTask): void {
      if (tasks.length >= maxTasks) throw new TpError('task_limit', `A pod has at most ${maxTasks} background tasks`)
      tasks.push(task)
    },

    // What the server needs.
    match: (method: string, path: string): Found<Target> | undefined => {
      const own = ours.match(method, path)
      return own && 'route' in own ? own : (theirs.match(method, path) ?? own)
    },
    hooks,
    features: features as readonly Feature[],
    startHooks: startHooks as readonly (() => void | Promise<void>)[],
    stopHooks: stopHooks as readonly (() => void | Promise<void>)[],
    routes: listed as readonly { path: string; methods: readonly string[]; feature: boolean }[],
    tasks: tasks as readonly BackgroundTask[],
    /** Newest first. */
    recentErrors: recent as readonly RecentError[],
    remember(error: RecentError): void {
      recent.unshift(error)
      recent.length = Math.min(recent.length, maxRecent)
    },
  }
  return pod
}
