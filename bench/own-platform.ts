// A platform for measuring: the program as a user starts it, in a folder of its own, and what is done with it over its
// API. Processes of pods are found by the environment they were started with.
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const program = fileURLToPath(new URL('../packages/platform/bin/tidepool-platform.mjs', import.meta.url))

export interface Pod {
  id: string
  /** Name and port, as requests name it. */
  host: string
  key: string
}

/** One process of a pod. */
export interface PodProcess {
  pid: number
  /** Where it listens, as others on this machine open it. */
  socket: string
  rssMb: number
  /** What its control group counts; undefined without one. */
  cgroupMb: number | undefined
}

interface ReplicaInfo {
  id: string
  state: string
  memoryBytes: number | null
}

export type OwnPlatform = Awaited<ReturnType<typeof startOwnPlatform>>

/** Starts a platform, isolated if this machine can. */
export async function startOwnPlatform() {
  const folder = await mkdtemp(join(tmpdir(), 'tidepool-bench-'))
  // Pods run as another user, who must be able to pass through.
  await chmod(folder, 0o711)
  const begun = (await launch(folder, [])) ?? (await launch(folder, ['--unsandboxed']))
  if (!begun) throw new Error('the platform did not start')
  const { child, url, isolation } = begun
  const port = Number(new URL(url).port)

  async function call<Reply>(method: string, path: string, key?: string, body?: unknown): Promise<Reply> {
    const bytes = body instanceof Uint8Array ? new Uint8Array(body) : undefined
    const answer = await fetch(`http://127.0.0.1:${port}${path}`, {
      method,
      headers: {
        ...(key && { authorization: `Bearer ${key}` }),
        ...(!bytes && { 'content-type': 'application/json' }),
      },
      ...(body !== undefined && { body: bytes ?? JSON.stringify(body) }),
    })
    const text = await answer.text()
    // What is missing is the answer to a question here.
    if (!answer.ok && !text.includes('"missing_files"')) throw new Error(`${method} ${path}: ${answer.status} ${text}`)
    return JSON.parse(text)
  }

  async function processes({ id, key }: Pod): Promise<PodProcess[]> {
    const { replicas } = await call<{ replicas: ReplicaInfo[] }>('GET', `/api/pods/${id}`, key)
    const found = await Promise.all(
      replicas
        .filter(({ state }) => state === 'healthy')
        .map(async ({ id: replica, memoryBytes }) => {
          const running = await findProcess(replica)
          return running && { ...running, cgroupMb: memoryBytes === null ? undefined : memoryBytes / 1024 / 1024 }
        }),
    )
    return found.filter((each) => each !== undefined)
  }

  return {
    url,
    port,
    isolation,
    processes,
    /** An agent whose address is proven. @returns its key */
    async agent(): Promise<string> {
      const email = `bench-${Date.now()}-${Math.random().toString(36).slice(2)}@example.com`
      const { key, verifyUrl } = await call<{ key: string; verifyUrl?: string }>('POST', '/api/agents', undefined, {
        email,
      })
      const token = verifyUrl && new URL(verifyUrl).searchParams.get('token')
      if (!token) throw new Error('the platform did not tell the link')
      await call('POST', '/api/agents/verify', undefined, { token })
      return key
    },
    async create(key: string, name: string): Promise<Pod> {
      const { pod } = await call<{ pod: { id: string; url: string } }>('POST', '/api/pods', key, { name })
      return { id: pod.id, host: new URL(pod.url).host, key }
    },
    /** Deploys files and waits until they are live. @returns how long that took, ms */
    async deploy({ id, key }: Pod, files: Record<string, string>): Promise<number> {
      const began = performance.now()
      const known = Object.entries(files).map(([path, text]) => {
        const bytes = Buffer.from(text)
        return { path, bytes, sha256: createHash('sha256').update(bytes).digest('hex') }
      })
      const body = { files: known.map(({ path, bytes, sha256 }) => [path, sha256, bytes.length]) }
      const begin = () =>
        call<{ missing?: string[]; deployment?: { id: string } }>('POST', `/api/pods/${id}/deployments`, key, body)
      let { missing = [], deployment } = await begin()
      for (const { bytes, sha256 } of known)
        if (missing.includes(sha256)) await call('PUT', `/api/pods/${id}/source/${sha256}`, key, bytes)
      if (!deployment) ({ deployment } = await begin())
      for (;;) {
        const path = `/api/pods/${id}/deployments/${deployment?.id}`
        const now = await call<{ deployment: { status: string; error: unknown } }>('GET', path, key)
        const { status, error } = now.deployment
        if (status === 'live') return performance.now() - began
        if (status !== 'queued' && status !== 'running')
          throw new Error(`the deployment is ${status}: ${JSON.stringify(error)}`)
        await sleep(20)
      }
    },
    /** A request through the gateway. Status 0: no answer. */
    ask({ host }: Pod, path: string, body?: unknown): Promise<{ status: number; text: string }> {
      return new Promise((resolve) => {
        const method = body === undefined ? 'GET' : 'POST'
        const headers = { host, ...(body !== undefined && { 'content-type': 'application/json' }) }
        const sent = request({ host: '127.0.0.1', port, path, method, headers, agent: false }, (answer) => {
          let text = ''
          answer.setEncoding('utf8')
          answer.on('data', (chunk: string) => {
            text += chunk
          })
          answer.on('end', () => resolve({ status: answer.statusCode ?? 0, text }))
          answer.on('error', () => resolve({ status: 0, text: '' }))
        })
        sent.on('error', () => resolve({ status: 0, text: '' }))
        sent.end(body === undefined ? undefined : JSON.stringify(body))
      })
    },
    /** Changes how many processes a pod has, and waits for them. */
    async scale(pod: Pod, replicas: number): Promise<void> {
      await call('PATCH', `/api/pods/${pod.id}`, pod.key, { replicas })
      while ((await processes(pod)).length !== replicas) await sleep(50)
    },
    async stop(): Promise<void> {
      const exited = new Promise((resolve) => child.once('exit', resolve))
      child.kill('SIGTERM')
      await exited
      await rm(folder, { recursive: true, force: true })
    },
  }
}

interface Launched {
  child: ChildProcess
  url: string
  isolation: string
}

async function launch(folder: string, flags: string[]): Promise<Launched | undefined> {
  const child = spawn(process.execPath, [program, 'start', '--json', ...flags], {
    cwd: folder,
    env: { ...process.env, PORT: '0', TIDEBASE_PORT: '0', LOG_LEVEL: 'error', HOST: '127.0.0.1' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  for await (const line of createInterface({ input: child.stdout })) {
    const said: { url?: string; isolation?: string; code?: string } = JSON.parse(line)
    if (said.url) return { child, url: said.url, isolation: said.isolation ?? '' }
    if (said.code !== 'no_sandbox') throw new Error(`the platform did not start: ${line}`)
  }
  return undefined
}

/** The process that was started as this replica. */
async function findProcess(replica: string): Promise<Omit<PodProcess, 'cgroupMb'> | undefined> {
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    const environment = (await readFile(`/proc/${pid}/environ`, 'utf8').catch(() => '')).split('\0')
    if (!environment.includes(`TIDEPOOL_REPLICA=${replica}`)) continue
    const listen = environment.find((each) => each.startsWith('TIDEPOOL_LISTEN='))?.slice('TIDEPOOL_LISTEN='.length)
    const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
    const rss = /VmRSS:\s+(\d+)/.exec(status)?.[1]
    if (listen && rss) return { pid: Number(pid), socket: `/proc/${pid}/root${listen}`, rssMb: Number(rss) / 1024 }
  }
  return undefined
}

export const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
