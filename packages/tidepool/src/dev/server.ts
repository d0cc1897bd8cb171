/**
 * The dev server: owns the port, builds the pod, runs it in a process of its own and passes requests on to it. A save
 * builds and replaces the process; requests that come meanwhile wait. While the source does not build or main.ts
 * throws, every request is answered with that error, and the next save is waited for.
 *
 * Invariants: one per folder (tp_data/dev.lock); whatever the pod does (blocks, crashes), the port answers.
 */

import { mkdirSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join, relative, resolve } from 'node:path'
import { watch } from 'chokidar'
import type { BuildFailure } from 'esbuild'
import { createProxyServer } from 'httpxy'
import { errorPage, findPlace, type Place, sourceAround } from '../error-page.ts'
import { type ErrorBody, errorBody, TpError } from '../errors.ts'
import { takeLock } from '../local/lock.ts'
import { answerMalformed } from '../malformed.ts'
import { buildError, createBuild } from './build.ts'
import { type PodProcess, startPodProcess } from './pod-process.ts'
import { devTidebase } from './tidebase.ts'

/** A save often touches several files. */
const settleMs = 25
/** How long requests wait for a pod that is being replaced. */
const patienceMs = 20_000
const crashPauseMs = 1000

export interface DevOptions {
  dir: string
  port: number
  host?: string
  /** Told what happens, for the terminal. */
  say: (event: DevEvent) => void
}

export type DevEvent =
  | { type: 'ready'; ms: number; restart: boolean }
  | { type: 'error'; error: ErrorBody; place: Place | undefined; stack?: string }

export interface DevServer {
  url: string
  port: number
  close(): Promise<void>
}

type Status =
  | { is: 'starting' }
  | { is: 'up' }
  | { is: 'broken'; error: ErrorBody; place: Place | undefined; stack?: string }

function isBuildFailure(error: unknown): error is BuildFailure {
  return error instanceof Error && 'errors' in error && Array.isArray(error.errors)
}

/**
 * Starts the dev server of a pod.
 * @throws TpError `no_main`, `locked` (another dev server has this folder), `port_taken`
 */
export async function startDevServer(options: DevOptions): Promise<DevServer> {
  const { host = '127.0.0.1', say } = options
  const dir = resolve(options.dir)
  const build = await createBuild(dir)
  mkdirSync(join(dir, 'tp_data'), { recursive: true, mode: 0o700 })
  let unlock: () => void
  try {
    unlock = takeLock(join(dir, 'tp_data', 'dev.lock'), `http://localhost:${options.port}`)
  } catch (error) {
    await build.dispose()
    throw error
  }
  const tidebase = devTidebase(dir)
  const runDir = await mkdtemp(join(tmpdir(), 'tidepool-'))
  let generation = 0
  let socket = ''
  let current: PodProcess | undefined
  let status: Status = { is: 'starting' }
  let waiting: (() => void)[] = []
  let closed = false

  function become(next: Status): void {
    status = next
    if (next.is === 'starting') return
    for (const wake of waiting) wake()
    waiting = []
  }

  function breakDown(error: ErrorBody, place: Place | undefined, stack?: string): void {
    become({ is: 'broken', error, place, ...(stack && { stack }) })
    say({ type: 'error', error, place, ...(stack && { stack }) })
  }

  const proxy = createProxyServer({ xfwd: true })
  const server = createServer((req, res) => {
    answer(req, res).catch(() => res.destroy())
  })
  answerMalformed(server)

  async function settled(): Promise<void> {
    if (status.is !== 'starting') return
    await new Promise<void>((wake) => {
      const timer = setTimeout(wake, patienceMs)
      waiting.push(() => {
        clearTimeout(timer)
        wake()
      })
    })
  }

  function refuse(
    req: IncomingMessage,
    res: ServerResponse,
    code: number,
    body: ErrorBody,
    place?: Place,
    stack?: string,
  ) {
    if (res.headersSent) {
      res.destroy()
      return
    }
    const page = req.headers.accept?.includes('text/html')
    const text = page ? errorPage(code, body, { place, ...(stack && { stack }) }) : JSON.stringify(body)
    const type = page ? 'text/html; charset=utf-8' : 'application/json; charset=utf-8'
    res.writeHead(code, {
      'content-type': type,
      'content-length': Buffer.byteLength(text),
      'cache-control': 'no-store',
    })
    res.end(text)
  }

  async function answer(req: IncomingMessage, res: ServerResponse): Promise<void> {
    await settled()
    if (status.is === 'broken') return refuse(req, res, 500, status.error, status.place, status.stack)
    if (status.is === 'starting') return refuse(req, res, 503, errorBody(new TpError('unavailable')))
    const target = socket
    try {
      await proxy.web(req, res, { target: { socketPath: target }, xfwd: true })
    } catch {
      if (res.closed) return
      // Nothing of the answer has come, and asking again does no harm: the pod was being replaced.
      const body = errorBody(
        new TpError('unavailable', 'The process of the pod ended before it answered', {
          hint: 'See the terminal. A handler that computes without end, or process.exit(), ends the process.',
        }),
      )
      refuse(req, res, 500, body)
    }
  }

  // ---- building and replacing ----

  let work: Promise<void> = Promise.resolve()
  let pending = false
  function change(): void {
    if (pending || closed) return
    pending = true
    work = work.then(async () => {
      await new Promise((done) => setTimeout(done, settleMs))
      pending = false
      if (!closed) await replace()
    })
  }

  async function replace(): Promise<void> {
    const startedAt = performance.now()
    const restart = generation > 0
    try {
      await build.rebuild()
    } catch (failure) {
      if (!isBuildFailure(failure)) throw failure
      const { error, place } = buildError(dir, failure.errors)
      breakDown(errorBody(error), place)
      return
    }
    become({ is: 'starting' })
    generation += 1
    const mine = generation
    socket = join(runDir, `${mine}.sock`)
    const previous = current
    // Both at once: the new process loads its code while the old one finishes and leaves the data folder.
    const stopped = previous?.stop()
    current = startPodProcess(
      dir,
      socket,
      {
        TIDEPOOL_MODE: 'dev',
        TIDEPOOL_URL: url(),
        TIDEPOOL_TRUST_PROXY: '1',
        TIDEPOOL_TAKE_OVER: '1',
        FORCE_COLOR: process.stderr.isTTY ? '1' : '0',
      },
      {
        onReady: () => {
          if (mine !== generation) return
          become({ is: 'up' })
          say({ type: 'ready', ms: Math.round(performance.now() - startedAt), restart })
        },
        onFailed: (error, stack) => {
          if (mine !== generation) return
          const place = error.file && error.line ? placeOf(dir, error) : findPlace({ stack }, dir)
          breakDown(error, place, stack)
        },
        onTidebase: () => tidebase.address(),
        onCrash: (reason, code) => {
          if (mine !== generation || closed) return
          const why = reason === 'hang' ? 'stopped answering (its event loop was blocked)' : `ended with code ${code}`
          breakDown(
            errorBody(new TpError('unavailable', `The process of the pod ${why}; it is started again`)),
            undefined,
          )
          setTimeout(change, crashPauseMs)
        },
      },
    )
    await stopped
  }

  let port = options.port
  const url = () => `http://localhost:${port}`
  try {
    await new Promise<void>((done, reject) => {
      server.once('error', (error: NodeJS.ErrnoException) => {
        const taken = error.code === 'EADDRINUSE'
        const hint = `Another program listens there; use --port ${options.port + 1}.`
        reject(taken ? new TpError('port_taken', `Port ${options.port} is taken`, { hint, cause: error }) : error)
      })
      server.listen(options.port, host, done)
    })
  } catch (error) {
    await build.dispose()
    await rm(runDir, { recursive: true, force: true })
    unlock()
    throw error
  }
  const address = server.address()
  if (typeof address === 'object' && address) port = address.port

  const watcher = watch(dir, {
    ignoreInitial: true,
    ignored: (path) => {
      const inside = relative(dir, path)
      // Templates and static files are read anew by each request.
      return /(^|[\\/])(node_modules|\.[^\\/]+)([\\/]|$)|^(static|templates)([\\/]|$)|^tp_data[\\/](?!secrets\.json$)/.test(
        inside,
      )
    },
  })
  watcher.on('all', (_event, path) => {
    if (/\.([cm]?[jt]sx?|json)$/.test(path)) change()
  })
  change()

  return {
    get url() {
      return url()
    },
    get port() {
      return port
    },
    async close() {
      closed = true
      await watcher.close()
      await work
      await current?.stop()
      await tidebase.stop()
      server.close()
      server.closeAllConnections()
      await build.dispose()
      await rm(runDir, { recursive: true, force: true })
      unlock()
    },
  }
}

function placeOf(dir: string, { file = '', line = 1, column = 1 }: ErrorBody): Place {
  return { file: relative(dir, join(dir, file)), line, column, source: sourceAround(resolve(dir, file), line) }
}
