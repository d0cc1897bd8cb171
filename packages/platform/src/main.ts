/**
 * A platform: database, Tidebase, control plane, gateway and pods, started and stopped together in one process.
 * The only file that imports Tidebase itself, to embed it.
 *
 * Order at the start: database → tables → socket for pods → driver → ports → pods and the worker of deployments. A
 * request that comes early waits for its pod.
 */
import { setMaxListeners } from 'node:events'
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { Tidebase } from '@tidebase/sdk'
import { type ServerOptions, startServer, type TidebaseServer } from 'tidebase'
import { answerMalformed } from 'tidepool/kit'
import { createApi } from './api.ts'
import { startDataApi } from './data-api.ts'
import { openDatabase } from './db.ts'
import { endGivenUp, runDeploy } from './deploy-run.ts'
import { createDeploys } from './deploys.ts'
import { openProcessDriver } from './drivers/process.ts'
import { createEgress } from './egress.ts'
import { errorBody, messageOf, PlatformError } from './errors.ts'
import { createFleet } from './fleet.ts'
import { createProxy } from './gateway/proxy.ts'
import { createRouter, isPlain } from './gateway/router.ts'
import { createTraffic } from './gateway/traffic.ts'
import { hashSecret, newSecret } from './ids.ts'
import { drain, every, listen } from './lifecycle.ts'
import { sweepLimits } from './limits.ts'
import { createLogs } from './logs.ts'
import { createMailer } from './mail.ts'
import { createMaster, readMasterKey } from './master.ts'
import { migrate } from './migrate.ts'
import type { Log, Platform } from './platform.ts'
import { createPodFiles } from './pod-files.ts'
import { createCollector, sweepPods } from './pods.ts'
import { createProgress } from './progress.ts'
import { keyElsewhere, projectKey } from './project-keys.ts'
import { createReleases } from './releases.ts'
import { createReplicas } from './replicas.ts'
import { readSecrets } from './secrets.ts'
import { sweepSessions } from './sessions.ts'
import { sweepSnapshots } from './snapshots.ts'
import { openStorage, type StorageOptions } from './storage.ts'
import { createStore } from './store.ts'
import { hostPort, isLoopback, keep, npmRegistry, once } from './surroundings.ts'
import { createUploads } from './uploads.ts'

// For the command line: this file alone imports the Tidebase inside.
export { logLevels, serverOptions, usageError, variables } from 'tidebase'

export interface PlatformOptions {
  /** Folder of what the platform keeps on disk; ./.tidepool unless given. */
  dir?: string
  /** 8080 unless given; 0 takes any free port. */
  port?: number
  /** 127.0.0.1 unless given. */
  host?: string
  /** Pods are at <name>.<domain>; localhost unless given. */
  domain?: string
  /** Where it is reached; http://<domain>:<port> unless given. */
  publicUrl?: string
  /** Run pods without isolation. */
  unsandboxed?: boolean
  /** A proxy in front tells who the client is. */
  trustProxy?: boolean
  /** A Postgres of your own; the embedded one unless given. */
  databaseUrl?: string
  /** S3-compatible storage; the disk unless given. */
  s3?: Exclude<StorageOptions, { dir: string }>
  smtpUrl?: string
  mailFrom?: string
  /** 64 hex digits; kept in a file unless given. */
  masterKey?: string
  /** The operator's key; made and kept in a file unless given. */
  operatorKey?: string
  /** `host:port` that pods may reach although they are not public. */
  allowHosts?: readonly string[]
  /** A Tidebase elsewhere; embedded unless given. */
  tidebaseUrl?: string
  tidebaseKey?: string
  /** Of the embedded Tidebase. */
  tidebase?: Omit<ServerOptions, 'databaseUrl' | 'insecure' | 'log' | 'onFatal'>
  /** How long a worker of deployments that is gone keeps them, ms. */
  log?: Log
  onFatal?: (error: Error) => void
}

export interface RunningPlatform {
  url: string
  tidebaseUrl: string
  operatorKey: string
  /** What isolates pods. */
  isolation: string
  platform: Platform
  stop(graceMs?: number): Promise<void>
}

const silent: Log = { info() {}, warn() {}, error() {} }
const settleMs = 3_000
const sweepMs = 60_000

/**
 * Starts a platform. What it opened is closed again when it cannot.
 * @throws PlatformError `unavailable` (a port is taken, the database or storage does not answer)
 */
export async function startPlatform(options: PlatformOptions = {}): Promise<RunningPlatform> {
  const { port = 8080, host = '127.0.0.1', domain = 'localhost', log = silent } = options
  const dir = resolve(options.dir ?? '.tidepool')
  const closers: (() => Promise<unknown> | unknown)[] = []
  const closeAll = async () => {
    for (const close of closers.splice(0).reverse()) await close()
  }
  const stopping = new AbortController()
  setMaxListeners(0, stopping.signal)
  try {
    // Others may pass through to what is lent to pods; what is in here says itself who may read it.
    await mkdir(dir, { recursive: true, mode: 0o711 })
    await chmod(dir, 0o711)
    const master = createMaster(await readMasterKey(join(dir, 'master.key'), options.masterKey))
    const operatorKey = options.operatorKey ?? (await keep(join(dir, 'operator.key'), () => `tpo_${newSecret()}`))

    const embedded = await startTidebase(options, log)
    closers.push(() => embedded.server.stop())
    const db = openDatabase(embedded.server.connection)
    closers.push(() => db.close())
    await migrate(db)

    const storage = await openStorage(options.s3 ?? { dir: join(dir, 'storage') })
    closers.push(() => storage.close())
    const mailer = createMailer(db, { smtpUrl: options.smtpUrl, from: options.mailFrom ?? `tidepool@${domain}` })
    closers.push(() => mailer.close())
    const logs = createLogs(join(dir, 'logs'))
    closers.push(() => logs.close())

    const sockets = await mkdtemp(join(tmpdir(), 'tpp-'))
    closers.push(() => rm(sockets, { recursive: true, force: true }))
    await chmod(sockets, 0o711)
    const socket = join(sockets, 'platform.sock')
    const driver = openProcessDriver({ unsandboxed: options.unsandboxed ?? false, socket, dir })

    const store = createStore(db)
    const files = createPodFiles(db, storage)
    const fleet = createFleet(() => platform)
    const registry = once(() => npmRegistry())
    const allow = [...(options.allowHosts ?? [])]
    const egress = createEgress(allow, async () => [hostPort(await registry())])
    const releases = createReleases({ dir, driver, storage, master, registry })
    const replicas = createReplicas({ driver, logs, onChange: (pod) => proxy.changed(pod) })
    closers.push(() => replicas.close())
    const tidebaseKey = await projectKey(embedded, master, 'platform')
    const tide = new Tidebase({ url: embedded.url, ...(tidebaseKey && { apiKey: tidebaseKey }), retryForMs: 60_000 })

    const http = createServer({
      keepAliveTimeout: 65_000,
      headersTimeout: 20_000,
      requestTimeout: 0,
      maxHeaderSize: 32_768,
    })
    answerMalformed(http)
    const early: (() => void)[] = []
    let ready = false
    await listen(http, host, port)
    closers.push(() => drain(http, 5_000))
    const actual = (http.address() as AddressInfo).port
    const publicUrl = (options.publicUrl ?? `http://${domain}:${actual}`).replace(/\/+$/, '')
    const protocol = new URL(publicUrl).protocol.slice(0, -1)
    const traffic = createTraffic()
    const proxy = createProxy({ fleet, replicas, traffic, protocol, trustProxy: options.trustProxy ?? false })
    closers.push(() => proxy.close())

    const platform: Platform = {
      driver,
      db,
      storage,
      store,
      files,
      mailer,
      master,
      tide,
      logs,
      replicas,
      releases,
      fleet,
      uploads: createUploads(storage),
      progress: createProgress(),
      traffic,
      settings: { publicUrl, domain, dir, local: isLoopback(host), operatorHash: hashSecret(operatorKey) },
      log,
      get deploys() {
        return deploys
      },
    }
    const deploys = createDeploys(platform)

    const admitted = new Map<string, { ok: boolean; until: number }>()
    const dataApi = await startDataApi(socket, {
      store,
      files,
      mailer,
      master,
      egress,
      async admit(pod) {
        const known = admitted.get(pod)
        if (known && known.until > Date.now()) return known.ok
        const rows = await db.query("select 1 from platform.pods where id = $1 and status <> 'deleted'", [pod])
        admitted.set(pod, { ok: rows.length > 0, until: Date.now() + 5_000 })
        return rows.length > 0
      },
      async welcome(pod, deployment) {
        const [row] = await db.query<{ secrets_version: number }>(
          'select secrets_version from platform.deployments where pod = $1 and id = $2',
          [pod, deployment],
        )
        if (!row) throw new PlatformError('unauthorized', 'This deployment is gone.')
        return { secrets: await readSecrets(db, master, pod, row.secrets_version) }
      },
      report: (pod, message) => replicas.report(pod, message),
      tidebase: async (pod) => ({ url: embedded.url, key: await projectKey(embedded, master, `pod ${pod}`) }),
      onError: (error) => log.error({ err: error }, 'a call of a pod failed'),
    })
    closers.push(() => dataApi.close())

    const api = createApi(platform)
    const route = createRouter(domain)
    http.on('request', (req, res) => {
      if (!isPlain(req)) {
        res.writeHead(400, { 'content-type': 'application/json', connection: 'close' })
        res.end(JSON.stringify(errorBody(new PlatformError('invalid', 'A request has one Host and a path.')).body))
        return
      }
      const answer = () => {
        const destination = route(req.headers.host)
        if (destination.to === 'pod') proxy.web(req, res, destination.name)
        else if (destination.to === 'platform') api(req, res, stopping.signal)
        else
          res.writeHead(404, { 'content-type': 'application/json' }).end(
            JSON.stringify({
              error: 'Nothing here has this name.',
              code: 'no_pod',
              hint: `Apps are at <name>.${domain}.`,
            }),
          )
      }
      if (ready) answer()
      else early.push(answer)
    })
    http.on('upgrade', (req, client, head) => {
      const destination = route(req.headers.host)
      if (destination.to === 'pod' && isPlain(req)) proxy.upgrade(req, client, head, destination.name)
      else client.destroy()
    })

    await fleet.settle()
    ready = true
    for (const answer of early) answer()

    tide.workflow('deploy', (run, input: { deployment: string }) => runDeploy(platform, run, input))
    const resumed = await takeOver(platform, stopping.signal)
    closers.push(() => Promise.all(resumed))
    const working = tide
      .work({
        queues: ['deploys'],
        concurrency: 4,
        signal: stopping.signal,
        graceMs: 2_000,
        waitMs: 1_000,
        onError: (error) => log.warn({ err: messageOf(error) }, 'a deployment is tried again'),
      })
      .catch((error: unknown) => log.error({ err: error }, 'deployments are not executed'))
    closers.push(() => working)
    const background = every(log, [
      [settleMs, 'keeping pods running', () => fleet.settle()],
      [settleMs, 'enqueueing deployments', () => deploys.sweep()],
      [settleMs, 'ending deployments', () => endGivenUp(platform)],
      [sweepMs, 'collecting bytes', createCollector(platform)],
      [sweepMs, 'sweeping records', () => store.sweep()],
      [sweepMs, 'sweeping limits', () => sweepLimits(db)],
      [sweepMs, 'sweeping snapshots', () => sweepSnapshots(db)],
      [sweepMs, 'removing deleted pods', () => sweepPods(platform)],
      [sweepMs, 'sweeping sessions', () => sweepSessions(db)],
      [sweepMs, 'forgetting traffic', async () => traffic.sweep()],
    ])
    closers.push(background)

    return {
      url: publicUrl,
      tidebaseUrl: embedded.url,
      operatorKey,
      isolation: driver.describe(),
      platform,
      async stop() {
        stopping.abort()
        await closeAll()
      },
    }
  } catch (error) {
    stopping.abort()
    await closeAll()
    throw error
  }
}

interface Embedded {
  url: string
  server: Pick<TidebaseServer, 'connection' | 'stop'>
  /** Makes a key in a project, for which repeating it does no harm. */
  makeKey: (project: string, secret: string) => Promise<void>
}

async function startTidebase(options: PlatformOptions, log: Log): Promise<Embedded> {
  const { tidebase = {}, databaseUrl, tidebaseUrl } = options
  const server = await startServer({
    ...tidebase,
    ...(databaseUrl && { databaseUrl }),
    dataDir: tidebase.dataDir ?? '.tidebase',
    port: tidebaseUrl ? 0 : (tidebase.port ?? 7373),
    host: tidebaseUrl ? '127.0.0.1' : tidebase.host,
    // Those of pods too: inside the network there is more to protect than on somebody's laptop.
    allowPrivateWebhooks: tidebase.allowPrivateWebhooks ?? false,
    log,
    onFatal: options.onFatal,
  })
  if (tidebaseUrl)
    return {
      url: tidebaseUrl,
      server,
      makeKey: (project, secret) => keyElsewhere(tidebaseUrl, options.tidebaseKey, project, secret),
    }
  return {
    url: server.url,
    server,
    async makeKey(project, secret) {
      await server.createKey({ project, name: 'tidepool', scope: 'admin', secret })
    },
  }
}

/**
 * Goes on at once with the deployments that the last process of this platform had under way: under its lease, which
 * would otherwise have to run out first.
 */
async function takeOver({ db, tide, log }: Platform, signal: AbortSignal): Promise<Promise<unknown>[]> {
  const rows = await db.query<{ run: string }>(
    "select run from platform.deployments where status = 'running' or (status = 'live' and ended_at is null)",
  )
  const found = await Promise.all(
    rows.map(({ run }) => tide.runs.get(run, { include: ['run'] }).catch(() => undefined)),
  )
  return found.flatMap((each) => {
    const { id, status, leaseOwner } = each?.run ?? {}
    if (!id || status !== 'running' || !leaseOwner) return []
    const going = tide
      .run('deploy', { runId: id, leaseOwner, signal })
      .catch((error: unknown) => log.warn({ err: messageOf(error) }, 'a deployment is tried again'))
    return [going]
  })
}
