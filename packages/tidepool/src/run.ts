/**
 * Starts and stops a pod: storage, main.ts, features, server. `runPod` is what the process of a pod runs and the only
 * reader of its environment; `startPod` does the same for a pod object, without signals and environment.
 *
 * Order at the start: backend → main.ts (may use storage at once) → features (configuration is final) → listen →
 * start hooks. At the stop: listen no more → requests end → stop hooks → backend (folds its journal).
 */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import type { Backend } from './backend.ts'
import { openLocalBackend } from './backend-local.ts'
import { backgroundFeature } from './background.ts'
import { devFeature, printingMail } from './dev-pages.ts'
import { findPlace } from './error-page.ts'
import { errorBody, messageOf, TpError } from './errors.ts'
import { filesFeature } from './files.ts'
import { jsonLog, type Log, readableLog } from './log.ts'
import { joinPlatform } from './platform/join.ts'
import type { Feature, Pod, Setup } from './pod.ts'
import { type Listening, serve } from './serve.ts'
import { pod as podOfProcess } from './tp.ts'
import type { TidebaseAddress } from './workflows.ts'

/**
 * In this order: who a request comes from and whether it may pass is decided first. What brings large libraries along
 * is loaded by pods that use it only, so that the others start sooner.
 */
const features: readonly Feature[] = [
  async (pod) => pod.auth && (await import('./auth/auth.ts')).authFeature(pod),
  async (pod) => pod.payments && (await import('./payments/payments.ts')).paymentsFeature(pod),
  async (pod) => pod.admin && (await import('./admin/admin.ts')).adminFeature(pod),
  devFeature,
  filesFeature,
  backgroundFeature,
]

export interface StartOptions {
  /** The pod's folder. */
  dir: string
  /** Opens the storage. */
  open: () => Promise<Backend>
  where: { port: number; host?: string } | { socket: string }
  mode?: 'dev' | 'production'
  /** Default: http://localhost:<port>. */
  origin?: string
  aliases?: readonly string[]
  deployment?: string
  trustProxy?: boolean
  allowHosts?: readonly string[]
  tidebase?: (() => Promise<TidebaseAddress>) | undefined
  egress?: Setup['egress']
  log?: Log
}

export interface Running extends Listening {
  origin: string
  backend: Backend
}

/**
 * Starts a pod.
 * @param load runs main.ts, which registers everything
 * @throws TpError `main_failed` with file and line, `bad_data_file`, `locked`, `port_taken`, `bad_config`
 */
export async function startPod(pod: Pod, load: () => unknown, options: StartOptions): Promise<Running> {
  const { dir, mode = 'dev', where, aliases = [], trustProxy = false, allowHosts = [], tidebase, egress } = options
  const port = 'port' in where ? where.port : 0
  const origin = options.origin ?? `http://localhost:${port}`
  const deployment = options.deployment ?? randomBytes(6).toString('hex')
  const log = options.log ?? (mode === 'dev' ? readableLog() : jsonLog())
  const opened = await options.open()
  const backend = mode === 'dev' ? printingMail(opened, log) : opened
  try {
    const setup = { mode, dir, origin, aliases, deployment, trustProxy, allowHosts, backend, log, tidebase, egress }
    pod.bind(setup)
    await loadMain(load, dir)
    for (const feature of [...features, ...pod.features]) await feature(pod)
    const listening = await serve(pod, where)
    // A port that was left to the system is known only now; nothing has been answered yet.
    if (!options.origin && port === 0 && listening.port !== 0)
      pod.bind({ ...setup, origin: `http://localhost:${listening.port}` })
    for (const hook of pod.startHooks) await hook()
    return {
      port: listening.port,
      origin: pod.setup().origin,
      backend,
      async close() {
        await listening.close()
        for (const hook of pod.stopHooks) await hook()
        await backend.close()
      },
    }
  } catch (error) {
    await backend.close()
    throw error
  }
}

async function loadMain(load: () => unknown, dir: string): Promise<void> {
  try {
    await load()
  } catch (cause) {
    const place = findPlace(cause, dir)
    const known = cause instanceof TpError
    throw new TpError(known ? cause.code : 'main_failed', messageOf(cause), {
      cause,
      ...(known && { hint: cause.hint, ...cause.details }),
      ...(place && { file: place.file, line: place.line, column: place.column }),
    })
  }
}

/** What the process of a pod tells the dev server that started it. */
export type PodMessage =
  | { type: 'ready'; port: number }
  | { type: 'alive' }
  | { type: 'tidebase' }
  | { type: 'failed'; error: ReturnType<typeof errorBody>; stack: string }

/**
 * Runs this process as a pod, as the environment says:
 *   TIDEPOOL_DIR, TIDEPOOL_DATA     the pod's folder (default: here) and its data (default: tp_data in it)
 *   TIDEPOOL_MODE                   dev or production (default)
 *   TIDEPOOL_LISTEN                 a port or the path of a unix socket (default 8000)
 *   TIDEPOOL_URL, TIDEPOOL_ALIASES  the origin, and further ones separated by commas
 *   TIDEPOOL_DEPLOYMENT             id of this deployment
 *   TIDEPOOL_TRUST_PROXY=1          a proxy in front sets X-Forwarded-For
 *   TIDEPOOL_ALLOW_HOSTS            host:port,… that tp.http may call although they are not public
 *   TIDEPOOL_PLATFORM, _TOKEN, _REPLICA   the platform's socket, this pod's token and this process's id, see platform/
 *   TIDEBASE_URL, TIDEBASE_API_KEY  where durable runs are kept; while developing the dev server starts it
 *   TIDEPOOL_TAKE_OVER=1            wait for another process to leave the data folder instead of giving up
 */
export async function runPod(load: () => unknown): Promise<void> {
  const { env } = process
  const dir = env.TIDEPOOL_DIR ?? process.cwd()
  const mode = env.TIDEPOOL_MODE === 'dev' ? 'dev' : 'production'
  const listen = env.TIDEPOOL_LISTEN ?? '8000'
  const log = mode === 'dev' ? readableLog() : jsonLog(env.TIDEPOOL_PLATFORM ? '\x1e' : '')
  const platform = env.TIDEPOOL_PLATFORM
    ? joinPlatform({ socket: env.TIDEPOOL_PLATFORM, token: env.TIDEPOOL_TOKEN ?? '' }, env.TIDEPOOL_REPLICA ?? '')
    : undefined
  const tell = async (message: PodMessage) => (platform ? platform.report(message) : process.send?.(message))
  const list = (text: string | undefined) => (text ?? '').split(',').filter((each) => each !== '')
  const data = env.TIDEPOOL_DATA ?? join(dir, 'tp_data')
  let alive: NodeJS.Timeout | undefined

  try {
    if (platform) podOfProcess.use(platform.feature)
    const running = await startPod(podOfProcess, load, {
      dir,
      mode,
      log,
      open: platform?.open ?? (() => openPatiently(data, log, env.TIDEPOOL_TAKE_OVER === '1')),
      where: /^\d+$/.test(listen) ? { port: Number(listen), host: env.TIDEPOOL_HOST } : { socket: listen },
      origin: env.TIDEPOOL_URL,
      aliases: list(env.TIDEPOOL_ALIASES),
      deployment: env.TIDEPOOL_DEPLOYMENT,
      trustProxy: env.TIDEPOOL_TRUST_PROXY === '1',
      allowHosts: list(env.TIDEPOOL_ALLOW_HOSTS),
      tidebase: platform?.tidebase ?? tidebaseOf(env.TIDEBASE_URL, env.TIDEBASE_API_KEY),
      egress: platform?.egress,
    })
    const stop = () => {
      clearInterval(alive)
      running.close().then(
        () => process.exit(0),
        (error: unknown) => {
          log.error(`While stopping: ${messageOf(error)}`)
          process.exit(1)
        },
      )
    }
    process.once('SIGTERM', stop)
    process.once('SIGINT', stop)
    process.once('disconnect', stop)
    // What fails outside any request must not end everybody's requests.
    for (const event of ['uncaughtException', 'unhandledRejection'])
      process.on(event, (error: unknown) => {
        log.error(`Outside of any request: ${messageOf(error)}`, {
          ...errorBody(error),
          stack: error instanceof Error ? error.stack : undefined,
        })
      })
    if (process.send) alive = setInterval(() => void tell({ type: 'alive' }), 1000).unref()
    await tell({ type: 'ready', port: running.port })
  } catch (error) {
    const body = errorBody(error)
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
    const stack = cause instanceof Error ? (cause.stack ?? '') : String(cause)
    if (process.send || platform) await tell({ type: 'failed', error: body, stack })
    if (!process.send) log.error(`The pod did not start: ${body.error}`, { ...body, stack })
    process.exitCode = 1
    process.disconnect?.()
    // Whatever main.ts has left running would keep a pod alive that serves nothing.
    if (platform) process.exit(1)
  }
}

/** What the dev server answers to a `tidebase` message. */
export type TidebaseAnswer = { type: 'tidebase'; url: string } | { type: 'tidebase'; error: string }

const isAnswer = (value: unknown): value is TidebaseAnswer =>
  typeof value === 'object' && value !== null && 'type' in value && value.type === 'tidebase'

function tidebaseOf(url: string | undefined, apiKey: string | undefined) {
  if (url) return async () => ({ url, apiKey })
  if (!process.send) return undefined
  return () =>
    new Promise<TidebaseAddress>((resolve, reject) => {
      const answered = (message: unknown) => {
        if (!isAnswer(message)) return
        process.off('message', answered)
        if ('url' in message) resolve({ url: message.url })
        else reject(new TpError('no_tidebase', `Tidebase did not start: ${message.error}`))
      }
      process.on('message', answered)
      process.send?.({ type: 'tidebase' } satisfies PodMessage)
    })
}

async function openPatiently(data: string, log: Log, patient: boolean): Promise<Backend> {
  for (let tries = 0; ; tries++) {
    try {
      return await openLocalBackend({
        dir: data,
        onProblem: (problem) =>
          problem ? log.error(problem.message, { hint: problem.hint }) : log.info('db.json is valid again'),
        onEdit: (keys) => log.info(`db.json was edited: ${keys.slice(0, 5).join(', ')}${keys.length > 5 ? ' …' : ''}`),
      })
    } catch (error) {
      if (!patient || tries > 400 || !(error instanceof TpError) || error.code !== 'locked') throw error
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
}
