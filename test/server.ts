// What tests start: databases, servers within the test's process, and servers as processes of their own.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { type ErrorBody, type ReplyOf, type Route, type RouteName, type Routes, routes } from '@tidebase/wire'
import { inject } from 'vitest'
import { openDatabase } from '../packages/tidebase/src/db.ts'
import { type ServerOptions, startServer as start, type TidebaseServer } from '../packages/tidebase/src/server.ts'

let databases = 0

/** A migrated database of its own. `drop` closes whatever is still connected. */
export async function createDatabase(): Promise<{ url: string; drop(): Promise<void> }> {
  const base = inject('postgres')
  const query = inject('postgresQuery')
  const admin = openDatabase({ connectionString: `${base}postgres${query}` }, { hot: 1, cold: 1, timeoutMs: 30_000 })
  const name = `test_${process.pid}_${Date.now()}_${databases++}`
  await admin.cold.query(`create database ${name} template ${inject('template')}`)
  await admin.close()
  return {
    url: `${base}${name}${query}`,
    async drop() {
      const admin = openDatabase({ connectionString: `${base}postgres${query}` }, { hot: 1, cold: 1 })
      await admin.cold.query(`drop database if exists ${name} with (force)`)
      await admin.close()
    },
  }
}

/** An answer with its JSON read. */
export interface Reply {
  status: number
  headers: Headers
  body: Partial<ErrorBody> & { [field: string]: unknown }
}

/** What a route takes. */
export interface Request {
  params?: Record<string, string>
  query?: Record<string, string | number>
  body?: unknown
  headers?: Record<string, string>
}

/** A client for tests: raw calls, and calls that must succeed with a reply of the contract's form. */
export interface Client {
  /** JSON in, JSON out, whatever the status. */
  call(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Reply>
  /** Calls a route by name, whatever the status. */
  send(name: RouteName, request?: Request): Promise<Reply>
  /** Calls a route by name; anything but 200 with a reply that its schema accepts is a failure. */
  ok<Name extends RouteName>(name: Name, request?: Request): Promise<ReplyOf<Routes[Name]>>
}

/** A client for the server at `url`. */
export function client(url: string, apiKey?: string): Client {
  const call: Client['call'] = async (method, path, body, headers = {}) => {
    const response = await fetch(url + path, {
      method,
      headers: {
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    let parsed: unknown
    try {
      parsed = JSON.parse(text)
    } catch {
      parsed = { text }
    }
    return { status: response.status, headers: response.headers, body: { ...(parsed as object) } }
  }
  const send: Client['send'] = (name, { params = {}, query = {}, body, headers } = {}) => {
    const route: Route = routes[name]
    const path = route.path.replace(/:(\w+)/g, (_, param: string) => encodeURIComponent(params[param] ?? ''))
    const search = new URLSearchParams()
    for (const [key, value] of Object.entries(query)) search.set(key, String(value))
    return call(route.method, search.size ? `${path}?${search}` : path, body, headers)
  }
  return {
    call,
    send,
    async ok<Name extends RouteName>(name: Name, request?: Request) {
      const { status, body } = await send(name, request)
      if (status !== 200) throw new Error(`${name} answered ${status}: ${JSON.stringify(body)}`)
      const route: Route = routes[name]
      const { error } = route.reply?.safeParse(body) ?? {}
      if (error) throw new Error(`${name} answered ${JSON.stringify(body)}: ${error.message}`)
      // The route's own schema has just accepted it.
      return body as ReplyOf<Routes[Name]>
    },
  }
}

type Run = ReplyOf<Routes['createRun']>['run']

/** A run of a reply that can be brief, where it was not asked to be. */
export function whole(run: Run | { id: string }): Run {
  if ('status' in run) return run
  throw new Error(`only the id of ${run.id} was answered`)
}

/** A server in this process, on a database of its own unless `databaseUrl` names one. */
export async function startServer(
  options: ServerOptions = {},
): Promise<TidebaseServer & Client & { databaseUrl: string }> {
  const database = options.databaseUrl === undefined ? await createDatabase() : undefined
  const databaseUrl = options.databaseUrl ?? database?.url ?? ''
  const server = await start({ port: 0, reconcileMs: 100, ...options, databaseUrl })
  return {
    ...server,
    ...client(server.url, options.apiKey),
    databaseUrl,
    async stop(graceMs) {
      await server.stop(graceMs)
      await database?.drop()
    },
  }
}

const bin = fileURLToPath(new URL('../packages/tidebase/bin/tidebase.mjs', import.meta.url))

/** A server as a process of its own, as a user starts it. */
export async function spawnServer(
  args: string[],
  env: Record<string, string> = {},
): Promise<Client & { process: ChildProcess; url: string; kill(signal: NodeJS.Signals): Promise<number | null> }> {
  const child = spawn(process.execPath, [bin, 'start', '--json', ...args], {
    env: { ...process.env, LOG_LEVEL: 'error', PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  let errors = ''
  child.stderr.on('data', (chunk) => {
    errors += chunk
  })
  const url = await new Promise<string>((resolve, reject) => {
    child.stdout.on('data', (chunk) => {
      output += chunk
      for (const line of output.split('\n')) {
        const found = /"url":"([^"]+)"/.exec(line)?.[1]
        if (found) resolve(found)
      }
    })
    child.once('exit', (code) => reject(new Error(`the server exited with ${code}: ${output}${errors}`)))
  })
  return {
    process: child,
    url,
    ...client(url, env.TIDEBASE_API_KEY),
    async kill(signal) {
      if (child.exitCode !== null || child.signalCode !== null) return child.exitCode
      const exited = once(child, 'exit')
      child.kill(signal)
      await exited
      return child.exitCode
    },
  }
}
