/**
 * Test helpers: a pod on a real socket with storage in a temporary folder, and a client for it.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { onTestFinished } from 'vitest'
import type { Backend } from '../src/backend.ts'
import { openLocalBackend } from '../src/backend-local.ts'
import { createPod, type Feature, type Pod } from '../src/pod.ts'
import { type StartOptions, startPod } from '../src/run.ts'
import { createTp, type Tp } from '../src/tp.ts'

export interface TestPod {
  tp: Tp
  pod: Pod
  backend: Backend
  dir: string
  /** Lines of the pod's log. */
  logged: { level: string; message: string; fields: Record<string, unknown> }[]
  origin: string
  port: number
  /** `fetch` on the pod, not following redirects. */
  fetch: (path: string, init?: RequestInit) => Promise<Response>
  /** Posts a form as the app's own page would. */
  post: (path: string, fields: Record<string, string>, init?: RequestInit) => Promise<Response>
  /** GET as a browser asks for a page. */
  page: (path: string, init?: RequestInit) => Promise<Response>
  close: () => Promise<void>
}

/** Starts a pod that `main` registers; it is stopped and its folder removed when the test ends. */
export async function startTestPod(
  main: (tp: Tp) => unknown,
  options: Partial<StartOptions> & { features?: Feature[]; secrets?: Record<string, string> } = {},
): Promise<TestPod> {
  const dir = options.dir ?? (await mkdtemp(join(tmpdir(), 'tidepool-pod-')))
  if (options.secrets) {
    await mkdir(join(dir, 'tp_data'), { recursive: true })
    await writeFile(join(dir, 'tp_data', 'secrets.json'), JSON.stringify(options.secrets), { mode: 0o600 })
  }
  const pod = createPod()
  const tp = createTp(pod)
  for (const feature of options.features ?? []) pod.use(feature)
  const logged: TestPod['logged'] = []
  const note =
    (level: string) =>
    (message: string, fields: Record<string, unknown> = {}) =>
      void logged.push({ level, message, fields })
  const running = await startPod(pod, () => main(tp), {
    dir,
    where: { port: 0 },
    open: () => openLocalBackend({ dir: join(dir, 'tp_data') }),
    log: { info: note('info'), warn: note('warn'), error: note('error') },
    ...options,
  })
  let closed = false
  async function close(): Promise<void> {
    if (closed) return
    closed = true
    await running.close()
    if (!options.dir) await rm(dir, { recursive: true, force: true })
  }
  onTestFinished(close)
  const at = `http://127.0.0.1:${running.port}`
  const get = (path: string, init: RequestInit = {}) => fetch(at + path, { redirect: 'manual', ...init })
  return {
    tp,
    pod,
    backend: running.backend,
    dir,
    logged,
    origin: running.origin,
    port: running.port,
    fetch: get,
    post: (path, fields, init = {}) =>
      get(path, {
        method: 'POST',
        body: new URLSearchParams(fields),
        ...init,
        headers: { origin: running.origin, accept: 'text/html', ...init.headers },
      }),
    page: (path, init = {}) => get(path, { ...init, headers: { accept: 'text/html', ...init.headers } }),
    close,
  }
}

/** A request as `fetch` would not send it: any Host header, absolute request lines, malformed paths. */
export async function rawRequest(
  port: number,
  options: { method?: string; path?: string; headers?: Record<string, string | string[]>; body?: string },
): Promise<{ status: number; headers: Record<string, string | string[] | undefined>; text: string }> {
  const { method = 'GET', path = '/', headers = {}, body } = options
  return new Promise((resolve, reject) => {
    const sent = request(
      { host: '127.0.0.1', port, method, path, headers, setHost: headers.host === undefined },
      (answer) => {
        text(answer).then(
          (content) => resolve({ status: answer.statusCode ?? 0, headers: answer.headers, text: content }),
          reject,
        )
      },
    )
    sent.on('error', reject)
    sent.end(body)
  })
}
