// What a benchmark measures on: one fresh embedded Postgres (fsync on), databases of their own on it, the server as the
// bundled program in a process of its own, peers as scripts. All of it ends with the benchmark, also by Ctrl-C.
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type Database, openDatabase } from '../packages/tidebase/src/db.ts'
import { startEmbedded } from '../packages/tidebase/src/embedded.ts'
import type { Figures, Sample } from './suite.ts'

/** How much is measured. */
export interface Options {
  /** Seconds rather than minutes: shows that everything works and measures little. */
  quick: boolean
  /** Whether peers take part. */
  peers: boolean
  rounds: number
  /** Share of the old rows that benchmarks of full tables load; 1 is all of them. */
  scale: number
  /** How long the soak lasts. */
  minutes: number
}

/** A running server. */
export interface Server {
  url: string
  pid: number
  /** Its inspector, when it was started with one. */
  inspector: string | undefined
  stop(): Promise<void>
}

/** How a server is started. */
export interface ServerOptions {
  env?: Record<string, string>
  /** With Node's inspector, by which its heap can be asked. */
  inspect?: boolean
}

/** The place of a benchmark. */
export interface Bench {
  options: Options
  /** An empty database. `drop` closes what is still connected and lets the disk come to rest. */
  createDatabase(): Promise<{ url: string; drop(): Promise<void> }>
  startServer(databaseUrl: string, options?: ServerOptions): Promise<Server>
  /** Works with a server on an empty database, both gone afterwards. */
  withServer<T>(work: (server: Server, databaseUrl: string) => Promise<T>): Promise<T>
  /**
   * Runs a peer's script on an empty database.
   *
   * @param args numbers the script takes
   * @returns what it printed; nothing, and a line on standard error, when it cannot run here
   */
  peer(script: string, args: number[]): Promise<{ system: string; figures: Figures }[]>
  /** Which peers could not run, and why. */
  skipped: Set<string>
}

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const bin = here('../packages/tidebase/bin/tidebase.mjs')

/** Works with a Postgres that is gone afterwards, with all that was started meanwhile. */
export async function withBench<T>(options: Options, work: (bench: Bench) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'tidebase-bench-'))
  const children = new Set<ChildProcess>()
  let stopping: Promise<void> | undefined
  const starting = startEmbedded({ dataDir: folder })
  const stop = () => {
    stopping ??= (async () => {
      await Promise.all([...children].map(end))
      await (await starting).stop()
      await rm(folder, { recursive: true, force: true })
    })()
    return stopping
  }
  const interrupted = () => void stop().finally(() => process.exit(130))
  process.once('SIGINT', interrupted)
  process.once('SIGTERM', interrupted)
  try {
    return await work(open(options, (await starting).connection, children, () => stopping !== undefined))
  } finally {
    process.off('SIGINT', interrupted)
    process.off('SIGTERM', interrupted)
    await stop()
  }
}

/** Installs the peers unless they are there. */
export async function installPeers(): Promise<void> {
  // Not only the folder: it may be from before a peer was added.
  const installed = here('node_modules/.package-lock.json')
  const wanted = await names(here('package-lock.json'))
  const there = new Set(existsSync(installed) ? await names(installed) : [])
  if (wanted.every((name) => there.has(name))) return
  console.error('installing the peers into bench/node_modules …')
  await promisify(execFile)('npm', ['ci', '--ignore-scripts'], { cwd: here('.') })
}

/** What a lock file names, but for what is made for other platforms. */
async function names(lock: string): Promise<string[]> {
  const { packages }: { packages: Record<string, { version?: string; optional?: boolean }> } = JSON.parse(
    await readFile(lock, 'utf8'),
  )
  return Object.entries(packages)
    .filter(([path, { optional }]) => path && !optional)
    .map(([path, { version }]) => `${path}@${version}`)
}

/** The most memory a process has held, MB; 0 where /proc does not tell. */
export async function residentMb(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
  return Math.round(Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024)
}

/** Opens a database for statements that may take long, such as loading many rows. */
export const openForLoading = (url: string): Database =>
  openDatabase({ connectionString: url }, { hot: 1, cold: 1, timeoutMs: 3_600_000 })

/** A peer's result as a sample of a setting. */
export const inSetting = (setting: string, results: { system: string; figures: Figures }[]): Sample[] =>
  results.map((each) => ({ ...each, setting }))

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  const force = setTimeout(() => child.kill('SIGKILL'), 12_000)
  child.kill('SIGTERM')
  await exited
  clearTimeout(force)
}

function open(
  options: Options,
  { host, port, user }: { host: string; port: number; user: string },
  children: Set<ChildProcess>,
  stopping: () => boolean,
): Bench {
  const urlOf = (database: string) => `postgres://${user}@localhost/${database}?host=${host}&port=${port}`
  const skipped = new Set<string>()
  let databases = 0
  const admin = async (...statements: string[]) => {
    const db = openForLoading(urlOf('postgres'))
    try {
      for (const statement of statements) await db.cold.query(statement)
    } finally {
      await db.close()
    }
  }
  const start = (args: string[], env: Record<string, string>, stderr: 'inherit' | 'pipe') => {
    // What was under way goes on after Ctrl-C for a moment; it must leave nothing behind.
    if (stopping()) throw new Error('interrupted')
    const child = spawn(process.execPath, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', stderr] })
    children.add(child)
    child.once('exit', () => children.delete(child))
    return child
  }

  const bench: Bench = {
    options,
    skipped,
    async createDatabase() {
      const name = `bench_${databases++}`
      await admin(`create database ${name}`)
      // The next system starts with a quiet disk.
      return { url: urlOf(name), drop: () => admin(`drop database if exists ${name} with (force)`, 'checkpoint') }
    },
    async startServer(databaseUrl, { env = {}, inspect = false } = {}) {
      const child = start(
        [...(inspect ? ['--inspect=127.0.0.1:0'] : []), bin, 'start', '--json'],
        { DATABASE_URL: databaseUrl, PORT: '0', LOG_LEVEL: 'error', ...env },
        inspect ? 'pipe' : 'inherit',
      )
      const [url, inspector] = await Promise.all([
        found(child, child.stdout, /"url":"([^"]+)"/),
        inspect ? found(child, child.stderr, /(ws:\S+)/) : undefined,
      ])
      return { url, inspector, pid: child.pid ?? 0, stop: () => end(child) }
    },
    async withServer(work) {
      const { url, drop } = await bench.createDatabase()
      try {
        const server = await bench.startServer(url)
        try {
          return await work(server, url)
        } finally {
          await server.stop()
        }
      } finally {
        await drop()
      }
    },
    async peer(script, args) {
      const { url, drop } = await bench.createDatabase()
      try {
        const child = start(
          [here(`peers/${script}.mjs`), ...args.map(String)],
          { DATABASE_URL: url, NODE_NO_WARNINGS: '1' },
          'inherit',
        )
        // A peer that fails must not cost the figures of all others.
        const result = await found(child, child.stdout, /^(\{.*\})$/)
          .then(resultOf)
          .catch((error: Error) => ({ skipped: error.message }))
        await end(child)
        if ('figures' in result) return [result]
        if (stopping()) return []
        if (!skipped.has(result.skipped)) console.error(`SKIPPED: ${result.skipped}`)
        skipped.add(result.skipped)
        return []
      } finally {
        await drop()
      }
    },
  }
  return bench
}

/** What the first line that matches has in its group. The rest is read and forgotten. */
function found(child: ChildProcess, output: NodeJS.ReadableStream | null, form: RegExp): Promise<string> {
  if (!output) throw new Error('the process has no such output')
  return new Promise((resolve, reject) => {
    const lines: string[] = []
    createInterface({ input: output }).on('line', (line) => {
      const text = form.exec(line)?.[1]
      if (text === undefined) lines.push(line)
      else resolve(text)
    })
    child.once('error', reject)
    // Its last line may still be on the way.
    child.once('close', (code) =>
      reject(new Error(`${basename(child.spawnargs[1] ?? '')} ended with ${code}: ${lines.join('\n')}`)),
    )
  })
}

/** A peer prints `{"system": …, figures…}`, or `{"skipped": why}`. */
function resultOf(line: string): { system: string; figures: Figures } | { skipped: string } {
  const { system, skipped, ...rest }: Record<string, unknown> = JSON.parse(line)
  if (typeof skipped === 'string') return { skipped }
  if (typeof system !== 'string') throw new Error(`not a result: ${line}`)
  return {
    system,
    figures: Object.fromEntries(
      Object.entries(rest).filter((entry): entry is [string, number] => typeof entry[1] === 'number'),
    ),
  }
}
