/**
 * Test helpers: a platform in this process on a database of its own, agents with keys, pods deployed over the API, and
 * requests to pods by their host names.
 */

import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { buildIfStale } from '../../../scripts/build.mjs'
import { createDatabase } from '../../../test/server.ts'
import { type PlatformOptions, type RunningPlatform, startPlatform } from '../src/main.ts'

/** A log that keeps all it is told. */
export const logTo = (told: string[]): NonNullable<PlatformOptions['log']> => ({
  info: (message) => void told.push(message),
  warn: (details, message) => void told.push(message, JSON.stringify(details)),
  error: (details, message) => void told.push(message, JSON.stringify(details)),
})

/** Whether pods can be run in sandboxes here. */
export const sandboxed = spawnSync('bwrap', ['--version']).status === 0
if (!sandboxed) console.warn('SKIPPED: tests of sandboxes. Install bubblewrap (apt-get install bubblewrap).')

/** An answer with its JSON read. */
export interface Reply {
  status: number
  headers: Record<string, string | string[] | undefined>
  text: string
  // What an endpoint answers is asserted by the tests.
  body: Record<string, never> & { [field: string]: never }
}

export interface PodRequest {
  method?: string
  headers?: Record<string, string>
  body?: string
}

export interface Agent {
  id: string
  email: string
  key: string
  /** Calls the API with the agent's key. */
  call(method: string, path: string, body?: unknown): Promise<Reply>
}

export interface Live {
  id: string
  name: string
  deployment: string
}

let emails = 0

function send(url: string, path: string, { method = 'GET', headers = {}, body }: PodRequest): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(url)
    const sent = request({ host: hostname, port, path, method, headers, agent: false }, (answer) => {
      text(answer).then((content) => {
        let parsed: Reply['body'] = {}
        try {
          parsed = JSON.parse(content)
        } catch {
          // A page.
        }
        resolve({ status: answer.statusCode ?? 0, headers: answer.headers, text: content, body: parsed })
      }, reject)
    })
    sent.on('error', reject)
    sent.end(body)
  })
}

export type TestPlatform = Awaited<ReturnType<typeof startTestPlatform>>

/** Starts a platform on a free port. Without `dir` and `databaseUrl` it gets its own, which go when it stops. */
export async function startTestPlatform(options: PlatformOptions = {}) {
  for (const name of ['tidebase', 'sdk', 'tidepool']) await buildIfStale(name)
  const database = options.databaseUrl ? undefined : await createDatabase()
  const dir = options.dir ?? (await mkdtemp(join(tmpdir(), 'tpt-')))
  const running: RunningPlatform = await startPlatform({
    port: 0,
    unsandboxed: !sandboxed,
    ...options,
    dir,
    databaseUrl: options.databaseUrl ?? database?.url,
    tidebase: { port: 0, reconcileMs: 100, ...options.tidebase },
  })
  const { url } = running
  // Of a platform behind a proxy the address says nothing of the port.
  const port = options.port ?? Number(new URL(url).port)
  // The name itself is looked up by the system; addresses need no resolver.
  const at = `http://127.0.0.1:${port}`

  function call(key: string | undefined, method: string, path: string, body?: unknown, bytes = false): Promise<Reply> {
    return send(at, path, {
      method,
      headers: {
        ...(key && { authorization: `Bearer ${key}` }),
        ...(body !== undefined && !bytes && { 'content-type': 'application/json' }),
      },
      ...(body !== undefined && { body: bytes ? String(body) : JSON.stringify(body) }),
    })
  }

  /** A verified agent. */
  async function agent(email = `agent${++emails}@example.com`): Promise<Agent> {
    const made = await call(undefined, 'POST', '/api/agents', { email })
    const registered: { agent: { id: string }; key: string; verifyUrl: string } = JSON.parse(made.text)
    const token = new URL(registered.verifyUrl).searchParams.get('token')
    const verified = await call(undefined, 'POST', '/api/agents/verify', { token })
    if (verified.status !== 200) throw new Error(verified.text)
    const { key } = registered
    return { id: registered.agent.id, email, key, call: (method, path, body) => call(key, method, path, body) }
  }

  /** Creates the pod if need be, uploads its files and begins a deployment. */
  async function begin(owner: Agent, name: string, files: Record<string, string>, extra: object = {}) {
    const { pod }: { pod: { id: string } } = JSON.parse((await owner.call('POST', '/api/pods', { name })).text)
    const listed = Object.entries(files).map(([path, content]) => {
      const sha256 = createHash('sha256').update(content).digest('hex')
      return { path, content, sha256, size: Buffer.byteLength(content) }
    })
    for (const { sha256, content } of listed) {
      const put = await call(owner.key, 'PUT', `/api/pods/${pod.id}/source/${sha256}`, content, true)
      if (put.status !== 200) throw new Error(put.text)
    }
    const body = { files: listed.map(({ path, sha256, size }) => [path, sha256, size]), ...extra }
    const begun = await owner.call('POST', `/api/pods/${pod.id}/deployments`, body)
    if (begun.status !== 200) throw new Error(begun.text)
    const { deployment }: { deployment: { id: string } } = JSON.parse(begun.text)
    return { id: pod.id, name, deployment: deployment.id }
  }

  /** Waits until a deployment is over. */
  async function ended(owner: Agent, { id, deployment }: Pick<Live, 'id' | 'deployment'>) {
    for (;;) {
      const found = await owner.call('GET', `/api/pods/${id}/deployments/${deployment}`)
      const row: { deployment: { status: string; error: Record<string, unknown> | null } } = JSON.parse(found.text)
      if (!['queued', 'running'].includes(row.deployment.status)) return row.deployment
      await new Promise((done) => setTimeout(done, 50))
    }
  }

  /** Deploys and waits until it is live. */
  async function deploy(owner: Agent, name: string, files: Record<string, string>, extra: object = {}): Promise<Live> {
    const live = await begin(owner, name, files, extra)
    const { status, error } = await ended(owner, live)
    if (status !== 'live') throw new Error(`${name} became ${status}: ${JSON.stringify(error)}`)
    return live
  }

  return {
    ...running,
    dir,
    port,
    /** Calls the API. */
    call: (method: string, path: string, { key, body }: { key?: string; body?: unknown } = {}) =>
      call(key, method, path, body),
    /** Sends bytes to the API. */
    put: (path: string, key: string, bytes: string) => call(key, 'PUT', path, bytes, true),
    agent,
    begin,
    ended,
    deploy,
    /** A request to a pod, as the gateway gets it. */
    fetchPod: (name: string, path = '/', init: PodRequest = {}) =>
      send(at, path, { ...init, headers: { host: `${name}.localhost:${port}`, ...init.headers } }),
    async stop(): Promise<void> {
      await running.stop()
      await database?.drop()
      if (!options.dir) await rm(dir, { recursive: true, force: true })
    },
  }
}
