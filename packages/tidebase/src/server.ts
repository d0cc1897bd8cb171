// A run server: database, engine, HTTP, reconciler, outbox; started and stopped together.
import { setMaxListeners } from 'node:events'
import { createServer, type RequestListener, type Server } from 'node:http'
import { type AddressInfo, isIP, type Socket } from 'node:net'
import { getRequestListener } from '@hono/node-server'
import type { Scope } from '@tidebase/wire'
import { createApp } from './app.ts'
import { Coalescers } from './coalesce.ts'
import { type Connection, type Database, openDatabase } from './db.ts'
import { type Embedded, startEmbedded } from './embedded.ts'
import type { Engine } from './engine.ts'
import { ApiError, StartError } from './errors.ts'
import { EventFeed } from './feed.ts'
import { type ApiKey, createKey } from './keys.ts'
import { LiveEvents } from './live.ts'
import { answerMalformed } from './malformed.ts'
import { migrate, pendingMigrations } from './migrate.ts'
import { startOutbox } from './outbox.ts'
import { startReconciler } from './reconcile.ts'
import { Wakeups } from './wakeups.ts'

/** What a server may be told; every field has a default that suits one machine. */
export interface ServerOptions {
  /** A Postgres of your own. Unset: the embedded one. */
  databaseUrl?: string
  /** Folder of the embedded database. */
  dataDir?: string
  host?: string
  /** 0 takes any free port. */
  port?: number
  apiKey?: string
  webhookSecret?: string
  /** Where people reach this server, for links in webhooks; its own address unless given. */
  publicUrl?: string
  leaseMs?: number
  reconcileMs?: number
  /** For how many days ended runs are kept where a project says nothing; for ever unless given. */
  retentionDays?: number
  /** false: leave the reconciler and the outbox to other servers on the same database. */
  reconciler?: boolean
  /** false: refuse to start while migrations are pending. */
  autoMigrate?: boolean
  corsOrigins?: string[]
  maxBody?: number
  /** Unset: allowed while there is no API key. */
  allowPrivateWebhooks?: boolean
  /** Listen beyond this machine without an API key. */
  insecure?: boolean
  log?: Log
  /** Called when the server cannot go on: its own Postgres dies again and again. */
  onFatal?: (error: Error) => void
}

/** Where a server reports. */
export interface Log {
  info(message: string): void
  warn(details: object, message: string): void
  error(details: object, message: string): void
}

/** A running server. */
export interface TidebaseServer {
  /** Its address, such as http://127.0.0.1:7373 */
  url: string
  /** Whether it runs its own Postgres. */
  embedded: boolean
  /** The Postgres the embedded database listens on, for other users of the same cluster; null with a database of your own. */
  connection: Connection
  /** Makes a key, as `tidebase keys create` does; see createKey. */
  createKey(key: {
    project: string
    name: string
    scope: Scope
    secret?: string
  }): Promise<{ key: ApiKey; secret: string }>
  /**
   * Stops accepting, answers what is under way, ends streams, stops the embedded database.
   *
   * @param graceMs how long requests under way may take, ms
   */
  stop(graceMs?: number): Promise<void>
}

const silent: Log = { info() {}, warn() {}, error() {} }
const defaultPort = 7373
const bodyLimit = 4 * 1024 * 1024

/**
 * Starts a server. What it opened is closed again when it cannot.
 *
 * @throws StartError `insecure_listen`, `migrations_pending`, `port_in_use`, `cannot_listen`, `database_unavailable`
 * @throws EmbeddedError when the embedded database cannot run
 */
export async function startServer(options: ServerOptions = {}): Promise<TidebaseServer> {
  const { host = '127.0.0.1', port = defaultPort, log = silent, apiKey, reconciler = true } = options
  if (!apiKey && !options.insecure && !isLoopback(host)) {
    throw new StartError(
      'insecure_listen',
      `Refusing to listen on ${host} without an API key: anybody who reaches it could run and read everything.`,
      'Set TIDEBASE_API_KEY, or listen on 127.0.0.1, or pass --insecure if the network is trusted.',
    )
  }
  const closers: (() => Promise<unknown> | unknown)[] = []
  const closeAll = async () => {
    for (const close of closers.splice(0).reverse()) await close()
  }
  try {
    const { connection, embedded } = await connect(options, log)
    if (embedded) closers.push(() => embedded.stop())
    const db = openDatabase(connection)
    closers.push(() => db.close())
    await prepare(db, options.autoMigrate ?? true, log)

    const http = createServer()
    answerMalformed(http)
    const silentSockets = watchSockets(http)
    let serve: (listener: RequestListener) => void = () => {}
    const ready = new Promise<RequestListener>((resolve) => {
      serve = resolve
    })
    // A request that comes in before the parts below are put together waits for them.
    http.on('request', (request, response) => void ready.then((listener) => listener(request, response)))
    await listen(http, host, port)
    closers.push(() => http.close())
    const address = `http://${isIP(host) === 6 ? `[${host}]` : host}:${(http.address() as AddressInfo).port}`
    const wakeups = new Wakeups(db)
    const engine: Engine = {
      db,
      wakeups,
      coalescers: new Coalescers(db),
      settings: {
        leaseMs: options.leaseMs ?? 60_000,
        reconcileMs: options.reconcileMs ?? 1_000,
        retentionDays: options.retentionDays,
        publicUrl: (options.publicUrl ?? address).replace(/\/+$/, ''),
        webhookSecret: options.webhookSecret,
        allowPrivateWebhooks: options.allowPrivateWebhooks ?? !apiKey,
        keyless: !apiKey,
      },
    }
    wakeups.listen()
    await wakeups.seePeers()
    const streams = { run: new LiveEvents(db, wakeups), project: new EventFeed(db, wakeups) }
    const stopping = new AbortController()
    // One listener per waiting request.
    setMaxListeners(0, stopping.signal)
    const app = createApp(engine, streams, {
      apiKey,
      insecure: options.insecure ?? false,
      corsOrigins: options.corsOrigins ?? [],
      maxBody: options.maxBody ?? bodyLimit,
      onError: (error, requestId) => log.error({ err: error, requestId }, 'a request failed'),
      stopping: stopping.signal,
    })
    serve(getRequestListener(app))

    const background = reconciler
      ? [
          startOutbox(engine, { log: (message) => log.warn({}, message) }),
          startReconciler(engine, { warn: (err) => log.warn({ err: cause(err) }, 'the reconciler could not work') }),
        ]
      : []
    return {
      url: address,
      embedded: embedded !== undefined,
      connection,
      createKey: (key) => createKey(db.cold, key),
      async stop(graceMs = 7_000) {
        stopping.abort()
        streams.run.close()
        streams.project.close()
        await drain(http, silentSockets, graceMs)
        await Promise.all(background.map((each) => each.close()))
        await wakeups.close()
        await closeAll()
      },
    }
  } catch (error) {
    await closeAll()
    throw error
  }
}

async function connect(
  { databaseUrl, dataDir = '.tidebase', onFatal }: ServerOptions,
  log: Log,
): Promise<{ connection: Connection; embedded: Embedded | undefined }> {
  if (databaseUrl) return { connection: { connectionString: databaseUrl }, embedded: undefined }
  const embedded = await startEmbedded({ dataDir, log: (message) => log.info(message), onGiveUp: onFatal })
  return { connection: embedded.connection, embedded }
}

async function prepare(db: Database, autoMigrate: boolean, log: Log): Promise<void> {
  try {
    if (autoMigrate) {
      for (const name of await migrate(db)) log.info(`applied the migration ${name}`)
      return
    }
    const pending = await pendingMigrations(db.cold)
    if (pending.length === 0) return
    throw new StartError(
      'migrations_pending',
      `The database lacks ${pending.length} migration(s): ${pending.join(', ')}.`,
      'Run `tidebase migrate`, or start without TIDEBASE_AUTO_MIGRATE=0.',
    )
  } catch (error) {
    if (!(error instanceof ApiError)) throw error
    throw new StartError(
      'database_unavailable',
      `The database does not answer: ${cause(error)}.`,
      'Check DATABASE_URL and that Postgres runs; unset DATABASE_URL to use the embedded database.',
    )
  }
}

function cause(error: unknown): string {
  if (error instanceof ApiError && error.cause instanceof Error) return error.cause.message || error.cause.name
  return error instanceof Error ? error.message : String(error)
}

function listen(http: Server, host: string, port: number): Promise<void> {
  // A client that sends its headers drop by drop is cut off; a long-poll or a stream has sent its request long before.
  http.headersTimeout = 20_000
  http.requestTimeout = 60_000
  http.keepAliveTimeout = 65_000
  return new Promise((resolve, reject) => {
    http.once('error', ({ code, message }: NodeJS.ErrnoException) => {
      reject(
        code === 'EADDRINUSE'
          ? new StartError(
              'port_in_use',
              `Port ${port} on ${host} is taken, perhaps by another Tidebase.`,
              'Stop the other program, or choose a port with --port N or PORT.',
            )
          : new StartError(
              'cannot_listen',
              `Cannot listen on port ${port} of ${host}: ${message}.`,
              'Choose an address of this machine with --host or HOST, and a port that you may use with --port or PORT.',
            ),
      )
    })
    http.listen(port, host, () => resolve())
  })
}

/** Keeps the connections on which no request was ever completed: Node does not count them as idle. */
function watchSockets(http: Server): Set<Socket> {
  const silent = new Set<Socket>()
  http.on('connection', (socket) => {
    silent.add(socket)
    socket.once('close', () => silent.delete(socket))
  })
  http.on('request', ({ socket }) => silent.delete(socket))
  return silent
}

/** Stops accepting and waits until the requests under way are answered. */
async function drain(http: Server, silent: Set<Socket>, graceMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => http.close(() => resolve()))
  for (const socket of silent) socket.destroy()
  http.closeIdleConnections()
  const idle = setInterval(() => http.closeIdleConnections(), 50)
  const late = setTimeout(() => http.closeAllConnections(), graceMs)
  await closed
  clearInterval(idle)
  clearTimeout(late)
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host)
}
