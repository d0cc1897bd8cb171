// A pod beside bare Hono and Express 5 doing the same: a static page, a route with one look-up, a JSON post. Each in a
// process of its own, round after round; then what a pod weighs, how soon it answers, and `tp.db` with 100,000 keys.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { openLocalBackend } from '../packages/tidepool/src/backend-local.ts'
import { createDb } from '../packages/tidepool/src/kv.ts'
import { percentile, repeat, round } from './client.ts'
import { load as hammer } from './load.ts'

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))

const loads = {
  page: 'GET / HTTP/1.1\r\nhost: localhost\r\n\r\n',
  get: 'GET /item/7 HTTP/1.1\r\nhost: localhost\r\n\r\n',
  post: 'POST /sum HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 21\r\n\r\n{"a":1,"b":[2,3,4,5]}',
}
type Load = keyof typeof loads

/** One measurement of one system. */
export interface PodResult {
  system: string
  page: number
  get: number
  post: number
}

interface Server {
  child: ChildProcess
  port: number
  /** From the start of the process to its first answer, ms. */
  startMs: number
}

async function start(args: string[], env: Record<string, string> = {}): Promise<Server> {
  const began = performance.now()
  const child = spawn(process.execPath, args, {
    env: { ...process.env, NODE_ENV: 'production', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let port = Number(env.TIDEPOOL_LISTEN ?? 0)
  if (!port)
    for await (const line of createInterface({ input: child.stdout })) {
      port = Number(/"port":(\d+)/.exec(line)?.[1] ?? 0)
      if (port) break
    }
  for (;;) {
    const status = await fetch(`http://127.0.0.1:${port}/`).then(
      (answer) => answer.status,
      () => 0,
    )
    if (status === 200) return { child, port, startMs: Math.round(performance.now() - began) }
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

async function stop({ child }: Server): Promise<void> {
  const exited = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGTERM')
  await exited
}

async function residentMb({ child }: Server): Promise<number> {
  const status = await readFile(`/proc/${child.pid}/status`, 'utf8').catch(() => '')
  return Math.round(Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024)
}

/** The pod, as the platform runs it: without the dev server. */
async function startPod(dir: string): Promise<Server> {
  const dist = (name: string) => JSON.stringify(here(`../packages/tidepool/dist/${name}.js`))
  await writeFile(
    join(dir, 'app.mjs'),
    `import tp from ${dist('tp')}
    await tp.db.batch(Array.from({ length: 100 }, (_, n) => ({ op: 'set', key: 'item:' + n, value: { n, name: 'item ' + n } })))
    tp.page('/', '<h1>Hello</h1>')
    tp.route('/item/:id', (req, { id }) => tp.db.get('item:' + id))
    tp.route('/sum', { methods: ['POST'] }, (req) => ({ sum: req.body.a + req.body.b.length }))`,
  )
  await writeFile(
    join(dir, 'main.mjs'),
    `import { runPod } from ${dist('run')}\nawait runPod(() => import('./app.mjs'))`,
  )
  const probe = await import('node:net').then(({ createServer }) => createServer().listen(0, '127.0.0.1'))
  await new Promise((resolve) => probe.once('listening', resolve))
  const address = probe.address()
  const port = typeof address === 'object' && address ? address.port : 0
  await new Promise((resolve) => probe.close(resolve))
  return start([join(dir, 'main.mjs')], { TIDEPOOL_DIR: dir, TIDEPOOL_LISTEN: String(port) })
}

async function database(keys: number, dir: string) {
  const backend = await openLocalBackend({ dir })
  const db = createDb(() => backend)
  for (let from = 0; from < keys; from += 1000)
    await db.batch(
      Array.from({ length: Math.min(1000, keys - from) }, (_, n) => ({
        op: 'set' as const,
        key: `item:${String(from + n).padStart(7, '0')}`,
        value: { n: from + n, title: 'something to keep' },
      })),
    )
  const times = async (count: number, work: (n: number) => Promise<unknown>) => {
    const us: number[] = []
    for (let n = 0; n < count; n++) {
      const began = performance.now()
      await work(n)
      us.push((performance.now() - began) * 1000)
    }
    return round(percentile(us, 0.5))
  }
  const key = (n: number) => `item:${String((n * 7919) % keys).padStart(7, '0')}`
  const getUs = await times(5000, (n) => db.get(key(n)))
  const prefixUs = await times(2000, (n) => db.prefix('item:', { limit: 20, after: key(n) }))
  const writes = Math.min(keys, 20_000)
  const seconds = await repeat(writes, 64, (n) => db.set(`w:${n}`, { n }))
  await backend.close()
  return { keys, getUs, prefixUs, durableWritesPerSecond: Math.round(writes / seconds) }
}

/** Runs the benchmark and prints it. */
export async function benchPod({ quick, peers, rounds }: { quick: boolean; peers: boolean; rounds: number }) {
  const seconds = quick ? 0.3 : 3
  const dir = await mkdtemp(join(tmpdir(), 'tidepool-bench-'))
  const results: PodResult[] = []
  try {
    const systems: [string, () => Promise<Server>][] = [['pod', () => startPod(dir)]]
    if (peers)
      systems.push(
        ['bare Hono', () => start([here('peers/hono-server.mjs')])],
        ['Express 5', () => start([here('peers/express-server.mjs')])],
      )
    for (let n = 0; n < rounds; n++)
      for (const [system, run] of systems) {
        const server = await run()
        const idleMb = system === 'pod' ? await residentMb(server) : undefined
        const result: PodResult = { system, page: 0, get: 0, post: 0 }
        for (const load of Object.keys(loads) as Load[]) {
          // Once unmeasured, so that all are as warm.
          const target = { port: server.port, host: '127.0.0.1' }
          await hammer(target, loads[load], { seconds: seconds / 3 })
          result[load] = (await hammer(target, loads[load], { seconds })).perSecond
        }
        await stop(server)
        console.log(JSON.stringify({ ...result, startMs: server.startMs, ...(idleMb !== undefined && { idleMb }) }))
        results.push(result)
      }
    const stored = await database(quick ? 2000 : 100_000, join(dir, 'db'))
    console.log(JSON.stringify({ system: 'tp.db', ...stored }))
    const median = (system: string, load: Load) =>
      percentile(
        results.filter((each) => each.system === system).map((each) => each[load]),
        0.5,
      )
    const cell = (system: string, load: Load) => {
      const ratio = peers ? ` (${round(median(system, load) / median('bare Hono', load))} × Hono)` : ''
      return `${median(system, load).toLocaleString('en')}${ratio}`
    }
    console.log(
      [
        '',
        '| answers/s, 32 connections | static page | one look-up | JSON post |',
        '|---|---|---|---|',
        ...systems.map(
          ([system]) => `| ${system} | ${cell(system, 'page')} | ${cell(system, 'get')} | ${cell(system, 'post')} |`,
        ),
      ].join('\n'),
    )
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
  return results
}
