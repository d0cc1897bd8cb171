import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import type { NetConnectOpts } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { client, createDatabase, spawnServer } from '../server.ts'
import { expectAllThere, startLoad } from './load.ts'
import { startProxy } from './proxy.ts'

// Networks, clocks, disks and processes that misbehave without dying.

let folder: string
const cleanups: (() => unknown)[] = []
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tidebase-fault-'))
})
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean()
  await rm(folder, { recursive: true, force: true })
})

const start = async (args: string[], env: Record<string, string> = {}) => {
  const server = await spawnServer(args, env)
  cleanups.push(() => server.kill('SIGTERM'))
  return server
}
const database = async () => {
  const database = await createDatabase()
  cleanups.push(() => database.drop())
  return database.url
}
const progress = (load: ReturnType<typeof startLoad>, runs: number) => {
  const target = load.completed.size + runs
  return vi.waitFor(() => expect(load.completed.size).toBeGreaterThanOrEqual(target), { timeout: 60_000 })
}

test('connections cut after the commit and before the reply: every repeat finds what has happened', {
  timeout: 120_000,
}, async () => {
  // Between server and database.
  const url = new URL(await database())
  const host = url.searchParams.get('host') ?? url.hostname
  const port = Number(url.searchParams.get('port') ?? (url.port || 5432))
  const upstream: NetConnectOpts = host.startsWith('/') ? { path: join(host, `.s.PGSQL.${port}`) } : { host, port }
  const behind = await startProxy(upstream, join(folder, '.s.PGSQL.5432'))
  cleanups.push(behind.close)
  url.searchParams.set('host', folder)
  url.searchParams.set('port', '5432')
  const server = await start([], { DATABASE_URL: String(url) })
  // Between client and server.
  const front = await startProxy({ host: '127.0.0.1', port: Number(new URL(server.url).port) })
  cleanups.push(front.close)
  const load = startLoad(() => client(`http://127.0.0.1:${front.port}`))
  let cut = 0
  for (let round = 0; round < 6; round++) {
    await progress(load, 5)
    cut += await (round % 2 ? front : behind).cutAnswers(150)
  }
  await progress(load, 5)
  await load.stop()
  expect(cut).toBeGreaterThan(10)
  expect([...load.errors.keys()].sort()).toEqual(['database_unavailable', 'network'])
  await expectAllThere(server, load)
})

test('a server that is stopped and goes on later (SIGSTOP), and a connection that falls silent: nothing is lost', {
  timeout: 120_000,
}, async () => {
  const env = { DATABASE_URL: await database(), TIDEBASE_LEASE_MS: '5000' }
  const [first, second] = [await start([], env), await start([], env)]
  const front = await startProxy({ host: '127.0.0.1', port: Number(new URL(second.url).port) })
  cleanups.push(front.close)
  let calls = 0
  const through = client(`http://127.0.0.1:${front.port}`)
  const load = startLoad(() => (calls++ % 2 ? first : through))
  for (let round = 0; round < 2; round++) {
    await progress(load, 10)
    first.process.kill('SIGSTOP')
    await front.silence(500)
    first.process.kill('SIGCONT')
  }
  await progress(load, 10)
  await load.stop()
  await expectAllThere(second, load)
})

test('a worker that is stopped longer than its lease loses the run: its late writes do not land', {
  timeout: 120_000,
}, async () => {
  const server = await start([], {
    DATABASE_URL: await database(),
    TIDEBASE_LEASE_MS: '1000',
    TIDEBASE_RECONCILE_MS: '50',
  })
  const worker = (name: string) => {
    const script = fileURLToPath(new URL('worker.ts', import.meta.url))
    const child = spawn(process.execPath, ['--conditions=source', '--import', 'tsx', script, name], {
      env: { ...process.env, TIDEBASE_URL: server.url },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const lines: string[] = []
    child.stdout.setEncoding('utf8').on('data', (text: string) => lines.push(...text.trim().split('\n')))
    cleanups.push(() => child.kill('SIGKILL'))
    return { child, lines }
  }
  await server.ok('enqueue', { params: { queue: 'q' }, body: { workflowName: 'slow', maxAttempts: 5 } })
  const stopped = worker('stopped')
  await vi.waitFor(() => expect(stopped.lines).toContain('two stopped'), { timeout: 20_000 })
  stopped.child.kill('SIGSTOP')
  const next = worker('next')
  await vi.waitFor(() => expect(next.lines).toContain('done next'), { timeout: 30_000 })
  stopped.child.kill('SIGCONT')
  await vi.waitFor(() => expect(stopped.lines).toContain('lost stopped'), { timeout: 20_000 })
  const [found] = (await server.ok('listRuns')).runs
  expect(found).toMatchObject({ status: 'completed', attempt: 2, result: ['one by stopped', 'two by next'] })
  const { steps, events } = await server.ok('getRun', { params: { runId: found?.id ?? '' } })
  expect(steps.map(({ name, output }) => [name, output])).toEqual([
    ['one', 'one by stopped'],
    ['two', 'two by next'],
  ])
  expect(events.filter(({ type }) => type === 'run.completed')).toHaveLength(1)
  // Step "one" ran once, "two" twice: once for the worker that lost it.
  expect(next.lines).not.toContain('one next')
})

test('servers with clocks an hour apart: leases, delays and schedules go by the database’s clock', {
  timeout: 60_000,
}, async () => {
  const shifted = async (hours: number) => {
    const file = join(folder, `clock${hours}.mjs`)
    await writeFile(
      file,
      `const real = Date.now, by = ${hours * 3_600_000}
      globalThis.Date = class extends Date {
        constructor(...args) { args.length ? super(...args) : super(real() + by) }
        static now() { return real() + by }
      }`,
    )
    return { NODE_OPTIONS: `--import=${pathToFileURL(file)}` }
  }
  const env = { DATABASE_URL: await database(), TIDEBASE_LEASE_MS: '1500', TIDEBASE_RECONCILE_MS: '50' }
  const early = await start([], { ...env, ...(await shifted(-1)) })
  const late = await start([], { ...env, ...(await shifted(1)) })
  const { run } = await early.ok('enqueue', { params: { queue: 'q' }, body: { workflowName: 'w', maxAttempts: 3 } })
  const taken = await late.ok('claim', { body: { queues: ['q'], leaseOwner: 'a', waitMs: 5_000 } })
  expect(taken.runs.map(({ id }) => id)).toEqual([run.id])
  // Neither reconciler takes the lease for one that ran out, while it is renewed.
  for (let n = 0; n < 4; n++) {
    await new Promise((resolve) => setTimeout(resolve, 400))
    await (n % 2 ? early : late).ok('heartbeatRun', { params: { runId: run.id }, body: { leaseOwner: 'a' } })
  }
  const [again] = (await early.ok('claim', { body: { queues: ['q'], leaseOwner: 'b', waitMs: 10_000 } })).runs
  expect(again).toMatchObject({ id: run.id, attempt: 2 })
  await late.ok('completeRun', { params: { runId: run.id }, body: { leaseOwner: 'b' } })
  const delayed = { params: { queue: 'q' }, body: { workflowName: 'w', delayMs: 600 } }
  for (const [to, by] of [[early, late] as const, [late, early] as const]) {
    const { run } = await to.ok('enqueue', delayed)
    expect((await by.ok('claim', { body: { queues: ['q'], leaseOwner: 'c' } })).runs).toEqual([])
    const { runs } = await by.ok('claim', { body: { queues: ['q'], leaseOwner: 'c', waitMs: 5_000 } })
    expect(runs.map(({ id }) => id)).toEqual([run.id])
  }
})

test('a full disk: 503 while it lasts, no lost acknowledgement, and on without a restart', {
  timeout: 180_000,
}, async ({ skip }) => {
  const mount = promisify(execFile)
  const small = join(folder, 'small')
  await mkdir(small)
  // Only root can make a small file system; elsewhere there is no honest way to fill a disk.
  const mounted = await mount('mount', ['-t', 'tmpfs', '-o', 'size=150m', 'tmpfs', small]).catch(() => undefined)
  if (!mounted) {
    console.warn('SKIPPED: a full disk. This machine does not allow mounting a tmpfs.')
    return skip()
  }
  cleanups.push(() => mount('umount', [small]))
  await chmod(small, 0o755)
  const server = await start(['--data', join(small, 'data')])
  const load = startLoad(() => server, 4)
  await progress(load, 5)
  const filler = join(small, 'filler')
  const fill = spawn('dd', ['if=/dev/zero', `of=${filler}`, 'bs=64k'], { stdio: 'ignore' })
  await once(fill, 'exit')
  const blob = 'x'.repeat(500_000)
  const { run } = (await server.send('createRun', { params: { workflowName: 'w' }, body: { input: blob } })).body as {
    run?: { id: string }
  }
  // Something must not fit: big inputs until one is refused.
  let refused: Awaited<ReturnType<typeof server.send>> | undefined
  for (let n = 0; n < 100 && !refused; n++) {
    const body = { input: Array.from({ length: 100_000 }, () => Math.random()) }
    const reply = await server.send('createRun', { params: { workflowName: 'w' }, body })
    if (reply.status !== 200) refused = reply
  }
  expect(refused).toMatchObject({ status: 503, body: { code: 'database_unavailable', hint: expect.any(String) } })
  await rm(filler)
  await vi.waitFor(async () => expect((await server.call('GET', '/health')).status).toBe(200), { timeout: 30_000 })
  await progress(load, 5)
  await load.stop()
  await expectAllThere(server, load)
  if (run) expect((await server.ok('getRun', { params: { runId: run.id } })).run.input).toBe(blob)
})
