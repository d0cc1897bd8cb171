import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { openDatabase } from '../../packages/tidebase/src/db.ts'
import { startEmbedded } from '../../packages/tidebase/src/embedded.ts'
import { createDatabase, spawnServer } from '../server.ts'
import { expectAllThere, startLoad } from './load.ts'

// Real processes, killed in the middle of load.

type Spawned = Awaited<ReturnType<typeof spawnServer>>

let folder: string
const cleanups: (() => Promise<unknown>)[] = []
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tidebase-fault-'))
})
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean()
  await rm(folder, { recursive: true, force: true })
})

const start = async (args: string[], env: Record<string, string> = {}): Promise<Spawned> => {
  const server = await spawnServer(args, env)
  cleanups.push(() => server.kill('SIGTERM'))
  return server
}
/** Lets the load get on by so many completed runs. */
const progress = (load: ReturnType<typeof startLoad>, runs: number) => {
  const target = load.completed.size + runs
  return vi.waitFor(() => expect(load.completed.size).toBeGreaterThanOrEqual(target), { timeout: 60_000 })
}

test('SIGKILL of the server under load, again and again: the next start has everything', {
  timeout: 180_000,
}, async () => {
  let server = await start(['--data', folder])
  const port = new URL(server.url).port
  const load = startLoad(() => server)
  for (let round = 0; round < 3; round++) {
    await progress(load, 10)
    await server.kill('SIGKILL')
    server = await start(['--data', folder, '--port', port])
  }
  await progress(load, 10)
  await load.stop()
  expect(load.errors.size).toBeGreaterThan(0)
  await expectAllThere(server, load)
})

test('SIGKILL of Postgres under load: 503 meanwhile, then on without a restart', { timeout: 180_000 }, async () => {
  const server = await start(['--data', folder])
  const load = startLoad(() => server)
  const away = () => load.errors.get('database_unavailable') ?? 0
  for (let round = 0; round < 2; round++) {
    await progress(load, 10)
    const before = away()
    const pid = Number((await readFile(join(folder, 'postgres', 'postmaster.pid'), 'utf8')).split('\n')[0])
    process.kill(pid, 'SIGKILL')
    await vi.waitFor(() => expect(away()).toBeGreaterThan(before), { timeout: 20_000 })
  }
  await progress(load, 10)
  await load.stop()
  expect(await server.call('GET', '/health')).toMatchObject({ status: 200, body: { ok: true } })
  expect([...load.errors.keys()]).toEqual(['database_unavailable'])
  await expectAllThere(server, load)
})

test('SIGTERM under load: what is under way is answered, exit 0, and the next start goes on', {
  timeout: 120_000,
}, async () => {
  let server = await start(['--data', folder])
  const port = new URL(server.url).port
  const load = startLoad(() => server)
  const stream = await fetch(
    `${server.url}/runs/${(await server.ok('createRun', { params: { workflowName: 'w' }, body: {} })).run.id}/events`,
  )
  const claiming = server.send('claim', { body: { queues: ['none'], waitMs: 30_000 } })
  await progress(load, 10)
  expect(await server.kill('SIGTERM')).toBe(0)
  // The stream was ended and the long-poll answered, not cut off.
  await stream.text()
  expect(await claiming).toMatchObject({ status: 200, body: { runs: [] } })
  server = await start(['--data', folder, '--port', port])
  await progress(load, 10)
  await load.stop()
  await expectAllThere(server, load)
})

test('the database goes away and comes back: 503 with a hint, /health tells, no restart needed', {
  timeout: 120_000,
}, async () => {
  const dataDir = join(folder, 'own')
  let postgres = await startEmbedded({ dataDir })
  cleanups.push(() => postgres.stop())
  const { host, port, user, database } = postgres.connection
  const server = await start([], { DATABASE_URL: `postgres://${user}@localhost/${database}?host=${host}&port=${port}` })
  const { run } = await server.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  await postgres.stop()
  for (const reply of [
    await server.call('GET', '/health'),
    await server.send('beginRun', { params: { runId: run.id } }),
    await server.send('listRuns'),
    await server.send('claim', { body: { queues: ['q'], waitMs: 10_000 } }),
  ]) {
    expect(reply).toMatchObject({ status: 503, body: { code: 'database_unavailable', hint: expect.any(String) } })
    expect(reply.headers.get('retry-after')).toBe('1')
  }
  postgres = await startEmbedded({ dataDir })
  await vi.waitFor(async () => expect((await server.call('GET', '/health')).status).toBe(200), { timeout: 20_000 })
  expect((await server.ok('beginRun', { params: { runId: run.id } })).run.attempt).toBe(1)
})

test('a second server on one data folder is refused, the first is not disturbed', { timeout: 60_000 }, async () => {
  const server = await start(['--data', folder])
  const bin = fileURLToPath(new URL('../../packages/tidebase/bin/tidebase.mjs', import.meta.url))
  const second = await new Promise<{ code: unknown; stdout: string }>((resolve) => {
    execFile(process.execPath, [bin, 'start', '--json', '--port', '0', '--data', folder], (error, stdout) =>
      resolve({ code: error?.code, stdout }),
    )
  })
  expect(second.code).toBe(1)
  const lines = second.stdout.trim().split('\n')
  expect(JSON.parse(lines.at(-1) ?? '')).toMatchObject({
    code: 'data_dir_in_use',
    error: expect.stringContaining(folder),
    hint: expect.stringContaining('--data'),
  })
  expect(await server.call('GET', '/health')).toMatchObject({ status: 200 })
})

test('listening beyond this machine without a key is refused', { timeout: 60_000 }, async () => {
  await expect(spawnServer(['--data', folder, '--host', '0.0.0.0'])).rejects.toThrow('insecure_listen')
})

test('connections that the database cuts under load are made anew, and nothing is lost', {
  timeout: 120_000,
}, async () => {
  const database = await createDatabase()
  cleanups.push(() => database.drop())
  const server = await start([], { DATABASE_URL: database.url })
  const admin = openDatabase({ connectionString: database.url }, { hot: 1, cold: 1 })
  cleanups.push(() => admin.close())
  const load = startLoad(() => server)
  for (let round = 0; round < 4; round++) {
    await progress(load, 5)
    await admin.cold.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()`,
    )
  }
  await progress(load, 5)
  await load.stop()
  await expectAllThere(server, load)
})

test('two servers: when one is killed the other takes its runs over, and late writes are refused', {
  timeout: 120_000,
}, async () => {
  const database = await createDatabase()
  cleanups.push(() => database.drop())
  const env = { DATABASE_URL: database.url, TIDEBASE_LEASE_MS: '5000', TIDEBASE_RECONCILE_MS: '50' }
  const [first, second] = [await start([], env), await start([], env)]
  for (let n = 0; n < 20; n++) {
    await first.ok('enqueue', { params: { queue: 'q' }, body: { workflowName: 'w', maxAttempts: 5, input: n } })
  }
  const { runs: held } = await first.ok('claim', { body: { queues: ['q'], limit: 20, leaseOwner: 'lost' } })
  expect(held).toHaveLength(20)
  const one = { name: 'one', inputHash: 'h', leaseOwner: 'lost', output: 1 }
  await Promise.all(held.map(({ id }) => first.ok('recordStep', { params: { runId: id }, body: one })))
  // The worker hangs, its server dies.
  await first.kill('SIGKILL')
  const taken = new Map<string, unknown>()
  while (taken.size < 20) {
    const { runs, checkpoints } = await second.ok('claim', {
      body: { queues: ['q'], limit: 20, leaseOwner: 'next', waitMs: 10_000, include: ['checkpoints'] },
    })
    for (const { id, attempt } of runs) {
      expect(attempt).toBe(2)
      taken.set(id, checkpoints?.[id])
    }
  }
  for (const { id } of held) {
    expect(taken.get(id)).toMatchObject([{ name: 'one', output: 1 }])
    const params = { runId: id }
    const two = { name: 'two', inputHash: 'h', output: 2 }
    const late = [
      await second.send('recordStep', { params, body: { ...two, leaseOwner: 'lost' } }),
      await second.send('completeRun', { params, body: { leaseOwner: 'lost' } }),
      await second.send('failRun', { params, body: { error: 'x', leaseOwner: 'lost' } }),
      await second.send('heartbeatRun', { params, body: { leaseOwner: 'lost' } }),
    ]
    for (const reply of late) expect(reply).toMatchObject({ status: 409, body: { code: 'lease_lost' } })
    await second.ok('recordStep', { params, body: { ...two, leaseOwner: 'next' } })
    await second.ok('completeRun', { params, body: { leaseOwner: 'next' } })
    const { events } = await second.ok('getRun', { params })
    expect(events.map(({ type }) => type)).toEqual([
      'run.enqueued',
      'run.claimed',
      'step.started',
      'step.completed',
      'run.requeued',
      'run.claimed',
      'step.started',
      'step.completed',
      'run.completed',
    ])
  }
})
