// Runs a benchmark: `npm run bench -- steps|queue|waits|pod|platform [--quick] [--no-peers] [--rounds N] [--only RUNS]`.
// One fresh embedded Postgres (fsync on) carries ours and the peers, one after the other, round after round; the table
// at the end shows medians. The server is the bundled program in a process of its own, as a user runs it.
import { execFile, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs, promisify } from 'node:util'
import { openDatabase } from '../packages/tidebase/src/db.ts'
import { startEmbedded } from '../packages/tidebase/src/embedded.ts'
import { round } from './client.ts'
import { benchPlatform } from './platform.ts'
import { benchPod } from './pod.ts'
import { benchQueue, type QueueResult } from './queue.ts'
import { benchSteps, type Mode, type StepsResult } from './steps.ts'
import { benchWaits, type WaitsResult } from './waits.ts'

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    'no-peers': { type: 'boolean', default: false },
    rounds: { type: 'string' },
    only: { type: 'string' },
  },
})
const [name = 'steps'] = positionals
const { quick } = values
const peers = !values['no-peers']
/** Only this many runs at once. */
const only = values.only === undefined ? undefined : [Number(values.only)]
const rounds = Number(values.rounds ?? (quick ? 1 : 3))

type Result = StepsResult | QueueResult | WaitsResult

const folder = await mkdtemp(join(tmpdir(), 'tidebase-bench-'))
if (peers && name !== 'platform' && !existsSync(here('node_modules'))) {
  console.error('installing the peers into bench/node_modules …')
  await promisify(execFile)('npm', ['ci', '--ignore-scripts'], { cwd: here('.') })
}
if (name === 'pod') {
  await promisify(execFile)(process.execPath, [here('../scripts/build.mjs')])
  await benchPod({ quick, peers, rounds })
  await rm(folder, { recursive: true, force: true })
  process.exit(0)
}
if (name === 'platform') {
  await promisify(execFile)(process.execPath, [here('../scripts/build.mjs')])
  await keep(await benchPlatform({ quick, rounds }))
  await rm(folder, { recursive: true, force: true })
  process.exit(0)
}
const postgres = await startEmbedded({ dataDir: folder })
try {
  const results: Result[] = []
  for (let n = 0; n < rounds; n++) {
    for (const measure of name === 'queue' ? queueMeasures() : name === 'waits' ? waitsMeasures() : stepMeasures()) {
      const result = await measure()
      console.log(JSON.stringify(result))
      results.push(result)
    }
  }
  const table =
    name === 'queue'
      ? queueTable(results as QueueResult[])
      : name === 'waits'
        ? waitsTable(results as WaitsResult[])
        : stepsTable(results as StepsResult[])
  console.log(`\n${table}`)
  await keep(results)
} finally {
  await postgres.stop()
  await rm(folder, { recursive: true, force: true })
}

function stepMeasures(): (() => Promise<Result>)[] {
  const runsFor = (concurrent: number) => (quick ? concurrent : Math.max(40, concurrent * 4))
  return (only ?? (quick ? [1, 8] : [1, 8, 32, 128])).flatMap((concurrent) => {
    const load = { concurrent, steps: 20, runs: runsFor(concurrent) }
    const ours = (['record', 'begin+complete', 'sdk, one by one', 'sdk'] as Mode[]).map(
      (mode) => () => withServer((url) => benchSteps(url, { ...load, mode })),
    )
    return peers ? [...ours, () => peer('dbos-steps', [concurrent, 20, load.runs])] : ours
  })
}

function queueMeasures(): (() => Promise<Result>)[] {
  const jobs = quick ? 500 : 10_000
  const pickUps = quick ? 5 : 100
  return [10, 64].flatMap((inFlight) => {
    const ours = () => withServer((url) => benchQueue(url, { jobs, inFlight, batch: 50, pickUps }))
    return peers
      ? [ours, () => peer('graphile-queue', [jobs, inFlight]), () => peer('pgboss-queue', [jobs, inFlight])]
      : [ours]
  })
}

function waitsMeasures(): (() => Promise<Result>)[] {
  const load = quick
    ? { parked: 200, wakes: 5, waiting: [0, 1_000] }
    : { parked: 10_000, wakes: 100, waiting: [0, 10_000, 100_000] }
  return [() => withServer((url, databaseUrl) => benchWaits(url, databaseUrl, load))]
}

async function keep(results: unknown): Promise<void> {
  await mkdir(here('results'), { recursive: true })
  const file = here(`results/${name}-${new Date().toISOString().replace(/[:.]/g, '-')}.json`)
  await writeFile(file, `${JSON.stringify({ name, cores: cpus().length, rounds, results }, null, 2)}\n`)
}

/** A database of its own, dropped afterwards. */
async function withDatabase<T>(work: (url: string) => Promise<T>): Promise<T> {
  const { host, port, user } = postgres.connection
  const url = (database: string) => `postgres://${user}@localhost/${database}?host=${host}&port=${port}`
  const admin = openDatabase({ connectionString: url('postgres') }, { hot: 1, cold: 1 })
  const database = `bench_${Date.now()}`
  try {
    await admin.cold.query(`create database ${database}`)
    return await work(url(database))
  } finally {
    await admin.cold.query(`drop database if exists ${database} with (force)`)
    // The next system starts with a quiet disk.
    await admin.cold.query('checkpoint')
    await admin.close()
  }
}

function withServer(work: (url: string, databaseUrl: string) => Promise<Result>): Promise<Result> {
  return withDatabase(async (databaseUrl) => {
    const bin = here('../packages/tidebase/bin/tidebase.mjs')
    const server = spawn(process.execPath, [bin, 'start', '--json'], {
      env: { ...process.env, DATABASE_URL: databaseUrl, PORT: '0', LOG_LEVEL: 'error' },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const exited = new Promise((resolve) => server.once('exit', resolve))
    try {
      for await (const line of createInterface({ input: server.stdout })) {
        const url = /"url":"([^"]+)"/.exec(line)?.[1]
        if (!url) continue
        const result = await work(url, databaseUrl)
        return { ...result, serverMb: await residentMb(server.pid ?? 0) }
      }
      throw new Error('the server did not start')
    } finally {
      server.kill('SIGTERM')
      await exited
    }
  })
}

/** The most memory a process has held, MB; 0 where /proc does not tell. */
async function residentMb(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
  return Math.round(Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024)
}

function peer(script: string, args: number[]): Promise<Result> {
  return withDatabase(async (databaseUrl) => {
    const { stdout } = await promisify(execFile)(process.execPath, [here(`peers/${script}.mjs`), ...args.map(String)], {
      env: { ...process.env, DATABASE_URL: databaseUrl },
    })
    const line = stdout
      .trim()
      .split('\n')
      .findLast((each) => each.startsWith('{'))
    if (!line) throw new Error(`${script} printed no result: ${stdout}`)
    return JSON.parse(line) as Result
  })
}

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}

function stepsTable(results: StepsResult[]): string {
  const counts = [...new Set(results.map(({ concurrent }) => concurrent))]
  const systems = [...new Set(results.map(({ system }) => system))]
  const cell = (system: string, concurrent: number) => {
    const mine = results.filter((each) => each.system === system && each.concurrent === concurrent)
    const rate = median(mine.map(({ stepsPerSecond }) => stepsPerSecond))
    return `${rate.toLocaleString('en')} (${round(median(mine.map(({ p50ms }) => p50ms)))} / ${round(median(mine.map(({ p99ms }) => p99ms)))})`
  }
  return [
    `| steps/s (p50 / p99, ms) | ${counts.map((count) => `${count} ${count === 1 ? 'run' : 'runs'}`).join(' | ')} |`,
    `|---|${counts.map(() => '---').join('|')}|`,
    ...systems.map((system) => `| ${system} | ${counts.map((count) => cell(system, count)).join(' | ')} |`),
  ].join('\n')
}

function queueTable(results: QueueResult[]): string {
  const systems = [...new Set(results.map(({ system }) => system))]
  const row = (system: string) => {
    const mine = results.filter((each) => each.system === system)
    const of = (key: 'enqueuePerSecond' | 'claimCompletePerSecond') =>
      median(mine.map((each) => each[key])).toLocaleString('en')
    const pickUp = mine.flatMap(({ pickUpP50ms }) => pickUpP50ms ?? [])
    const late = mine.flatMap(({ pickUpP99ms }) => pickUpP99ms ?? [])
    const soon = pickUp.length ? `${median(pickUp)} / ${median(late)}` : ''
    return `| ${system} | ${of('enqueuePerSecond')} | ${of('claimCompletePerSecond')} | ${soon} |`
  }
  return [
    '| | enqueue/s, one by one | claim + complete /s | idle worker has it after, ms (p50 / p99) |',
    '|---|---|---|---|',
    ...systems.map(row),
  ].join('\n')
}

function waitsTable(results: WaitsResult[]): string {
  const of = (key: (result: WaitsResult) => number) => median(results.map(key)).toLocaleString('en')
  const [first] = results
  const counts = Object.keys(first?.tickMs ?? {}).map(Number)
  return [
    `| ${first?.parked.toLocaleString('en')} parked runs all woken and claimed, s | one woken, idle worker has it, ms (p50 / p99) | ${counts.map((count) => `round of the reconciler, ${count.toLocaleString('en')} waiting, ms`).join(' | ')} |`,
    `|---|---|${counts.map(() => '---').join('|')}|`,
    `| ${of(({ wokenInS }) => wokenInS)} | ${of(({ wakeP50ms }) => wakeP50ms)} / ${of(({ wakeP99ms }) => wakeP99ms)} | ${counts.map((count) => of(({ tickMs }) => tickMs[count] ?? Number.NaN)).join(' | ')} |`,
  ].join('\n')
}
