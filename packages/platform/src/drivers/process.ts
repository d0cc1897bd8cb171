/**
 * The `process` driver: pods as processes of this machine, each in a bubblewrap sandbox. Whatever a pod does, it dies
 * with the platform's process (no orphans), and with it everything that it has started.
 *
 * Without bubblewrap no pod runs, unless the operator said `--unsandboxed`: then pods are plain child processes that
 * may read what the platform may.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { messageOf, PlatformError } from '../errors.ts'
import { type Cgroup, type Limits, openCgroups } from './cgroup.ts'
import { bubblewrapArguments, limitedCommand, type SandboxSpec } from './sandbox.ts'
import { type Use, useOf } from './use.ts'

/** What a process is started with. */
export interface Job {
  /** Names it: letters and digits. */
  id: string
  limits: Limits & { scratchMb: number }
  binds: SandboxSpec['binds']
  dirs?: readonly string[]
  /** Node's arguments. Paths are those inside. */
  args: readonly string[]
  env: Readonly<Record<string, string>>
  workDir: string
  /** stdout and stderr. */
  onOutput: (stream: Readable) => void
}

/** A process that was started. */
export interface Started {
  /** Path, seen from outside, of a file in the sandbox's /tmp. */
  inside(name: string): Promise<string>
  ended: Promise<{ code: number | null; signal: string | null; outOfMemory: boolean }>
  /** What it uses, where this machine tells. */
  use(): Use
  kill(signal: NodeJS.Signals): void
}

export interface Driver {
  /** Why nothing is run here. */
  refusal?: PlatformError
  sandboxed: boolean
  /** Numeric id that pods run under, when it is another than the platform's. */
  user: number | undefined
  /** For people: what isolates pods, and what is missing. */
  describe(): string
  start(job: Job): Started
  /** Where the path of a job lies for it: in the sandbox at `to`, without one at `from`. */
  place(path: { from: string; to: string }): string
}

export interface DriverOptions {
  /** Run pods without isolation. */
  unsandboxed: boolean
  /** The platform's socket, on this machine. */
  socket: string
  /** Folder of releases. */
  dir: string
}

const nobody = 65_534
const ulimits = { fileMb: 1024, openFiles: 4096 }

/** Folders that the runtime needs to run: its own and that of its packages. */
function runtimeFolders(): string[] {
  const entry = runtimeEntry('kit.js')
  // What it imports is looked up from where it lies.
  const packages = ['undici', 'esbuild'].map((name) => realpathSync(createRequire(entry).resolve(name)))
  const folders = [entry, ...packages].map((file) => {
    const parts = file.split('/node_modules/')
    // Of an installed package, the folder that holds it and the packages beside it; of a workspace, its own.
    return parts.length > 1 ? `${parts[0]}/node_modules` : dirname(dirname(file))
  })
  return [...new Set(folders)]
}

/** A file of the runtime's bundle. */
export function runtimeEntry(name: string): string {
  // The bundle, also when this runs from source: pods run what is published.
  const manifest = createRequire(import.meta.url).resolve('tidepool/package.json')
  return join(dirname(realpathSync(manifest)), 'dist', name)
}

/** Where npm's program is: beside node, or beside the command of that name. */
export function npmProgram(): string {
  const beside = join(dirname(process.execPath), '..', 'lib', 'node_modules', 'npm', 'bin', 'npm-cli.js')
  const found = [beside, '/usr/share/nodejs/npm/bin/npm-cli.js', process.env.npm_execpath ?? ''].find((path) =>
    existsSync(path),
  )
  if (!found) throw new PlatformError('unavailable', 'npm is not installed on the platform’s machine.')
  return realpathSync(found)
}

/** Opens the driver. Where pods cannot be isolated it refuses every job, unless the operator does without isolation. */
export function openProcessDriver({ unsandboxed, socket, dir }: DriverOptions): Driver {
  if (unsandboxed) return plainDriver(socket)
  try {
    return sandboxDriver(socket, dir)
  } catch (error) {
    const known =
      error instanceof PlatformError
        ? error
        : new PlatformError('no_sandbox', `Pods cannot be isolated here: ${messageOf(error)}.`)
    return refusingDriver(known)
  }
}

function refusingDriver(refusal: PlatformError): Driver {
  return {
    refusal,
    sandboxed: true,
    user: undefined,
    describe: () => `NOT RUN. ${refusal.message} ${refusal.details.hint ?? ''}`.trim(),
    place: ({ to }) => to,
    start() {
      throw refusal
    },
  }
}

function sandboxDriver(socket: string, dir: string): Driver {
  const node = realpathSync(process.execPath)
  const readOnly = [...new Set([dirname(node), ...runtimeFolders()])].filter((path) => !path.startsWith('/usr/'))
  // A pod must not be root outside either. A checkout in root's home cannot be entered by anybody else, though.
  const user = process.getuid?.() === 0 && reachable([...readOnly, dirname(socket), dir]) ? nobody : undefined
  const cgroups = openCgroups(process.env.TIDEPOOL_CGROUP)
  const prefix = `${createHash('sha256').update(dir).digest('hex').slice(0, 8)}-`
  endOrphans(dir)
  cgroups?.sweep(prefix)

  const probe = spawnSync(
    ...split(
      limitedCommand(
        [
          'bwrap',
          ...bubblewrapArguments({
            readOnly,
            binds: [],
            scratchMb: 1,
            workDir: '/',
            env: {},
            command: [node, '-e', '0'],
          }),
        ],
        { joins: [], ulimits, user },
      ),
    ),
    { stdio: ['ignore', 'ignore', 'pipe', 'pipe'], encoding: 'utf8', timeout: 20_000 },
  )
  if (probe.status !== 0) {
    const why = probe.stderr?.trim().split('\n').at(-1) || messageOf(probe.error ?? `it ended with ${probe.status}`)
    throw new PlatformError('no_sandbox', `bubblewrap does not work on this machine: ${why}`, {
      hint: 'Install it (apt-get install bubblewrap) and allow user namespaces, or start with --unsandboxed to run pods without isolation.',
    })
  }

  return {
    sandboxed: true,
    user,
    describe() {
      const limits = cgroups
        ? `limits by cgroup v${cgroups.version}${cgroups.missing.length > 0 ? ` (without ${cgroups.missing.join(', ')})` : ''}`
        : 'no cgroup may be written: memory and processor of pods are NOT limited'
      return `bubblewrap, ${user === undefined ? 'as this user' : 'as nobody'}; ${limits}`
    },
    place: ({ to }) => to,
    start(job) {
      const group = cgroups?.create(prefix + job.id, job.limits)
      const inner = bubblewrapArguments({
        readOnly,
        binds: [...job.binds, { from: socket, to: '/run/platform.sock' }],
        dirs: ['/run', ...(job.dirs ?? [])],
        scratchMb: job.limits.scratchMb,
        workDir: job.workDir,
        env: {
          PATH: '/usr/bin:/bin',
          HOME: '/tmp',
          LANG: 'C.UTF-8',
          TIDEPOOL_PLATFORM: '/run/platform.sock',
          ...job.env,
        },
        command: [node, ...job.args],
      })
      const command = limitedCommand(['bwrap', ...inner], { joins: group?.joins ?? [], ulimits, user })
      const child = spawn(...split(command), {
        stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
        env: { PATH: process.env.PATH ?? '' },
      })
      const started = watch(child, job, group)
      const pid = sandboxPid(child)
      let over = false
      let nodePid: number | undefined
      pid.then(
        (id) => {
          nodePid = id
        },
        () => {},
      )
      void started.ended.then(() => {
        over = true
      })
      return {
        ...started,
        use() {
          const counted = started.use()
          if (counted.memoryBytes !== undefined && counted.cpuMs !== undefined) return counted
          const told = useOf(over ? undefined : nodePid)
          return { memoryBytes: counted.memoryBytes ?? told.memoryBytes, cpuMs: counted.cpuMs ?? told.cpuMs }
        },
        inside: async (name) => `/proc/${await pid}/root/tmp/${name}`,
        kill(signal) {
          // To node itself: bubblewrap, told to end, would not let it finish.
          pid
            .then((id) => over || process.kill(id, signal))
            // Not begun, or gone already and bubblewrap about to end.
            .catch(() => child.kill('SIGKILL'))
        },
      }
    },
  }
}

function plainDriver(socket: string): Driver {
  return {
    sandboxed: false,
    user: undefined,
    describe: () => 'NO isolation (--unsandboxed): pods may read whatever this platform may',
    place: ({ from }) => from,
    start(job) {
      const scratch = mkdtemp(join(tmpdir(), 'tp-'))
      // Paths inside are those outside here.
      const child = scratch.then((tmp) =>
        spawn(process.execPath, [...job.args], {
          cwd: job.workDir,
          stdio: ['ignore', 'pipe', 'pipe'],
          env: {
            PATH: process.env.PATH ?? '',
            HOME: tmp,
            TMPDIR: tmp,
            TIDEPOOL_PLATFORM: socket,
            ...job.env,
            ...listenIn(job.env, tmp),
          },
        }),
      )
      let running: ChildProcess | undefined
      const ended = child.then(async (process) => {
        running = process
        const result = await watch(process, job, undefined).ended
        await rm(await scratch, { recursive: true, force: true })
        return result
      })
      return {
        inside: async (name) => join(await scratch, name),
        ended,
        use: () => useOf(running?.pid),
        kill: (signal) => void (running ? running.kill(signal) : child.then((process) => process.kill(signal))),
      }
    },
  }
}

/** The socket of a pod lies in its own /tmp. */
function listenIn(env: Readonly<Record<string, string>>, tmp: string): Record<string, string> {
  return env.TIDEPOOL_LISTEN ? { TIDEPOOL_LISTEN: env.TIDEPOOL_LISTEN.replace('/tmp', tmp) } : {}
}

function split([command = '', ...args]: string[]): [string, string[]] {
  return [command, args]
}

function watch(child: ChildProcess, job: Job, group: Cgroup | undefined): Omit<Started, 'inside'> {
  for (const stream of [child.stdout, child.stderr]) if (stream) job.onOutput(stream)
  return {
    ended: new Promise((resolve) => {
      const end = (code: number | null, signal: string | null) => {
        const outOfMemory = group?.outOfMemory() ?? false
        group?.remove()
        resolve({ code, signal, outOfMemory })
      }
      child.once('exit', end)
      child.once('error', () => end(null, null))
    }),
    use: () => ({ memoryBytes: group?.memory(), cpuMs: group?.cpuMs() }),
    kill: (signal) => void child.kill(signal),
  }
}

/** The id, outside, of the sandbox's first process: /proc/<id>/root is how the sandbox looks. */
function sandboxPid(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    let text = ''
    const pipe = child.stdio[3]
    if (!pipe || !('setEncoding' in pipe)) return reject(new Error('no pipe'))
    pipe.setEncoding('utf8')
    pipe.on('data', (chunk: string) => {
      text += chunk
      const pid = /"child-pid":\s*(\d+)/.exec(text)?.[1]
      if (pid) resolve(Number(pid))
    })
    pipe.on('error', reject)
    child.once('exit', () => reject(new Error('the sandbox ended before it began')))
    child.once('error', reject)
  })
}

/**
 * Ends sandboxes of an earlier process on this folder. They die with it by themselves, but for one that it was about to
 * start: that waits for a parent that is gone.
 */
function endOrphans(dir: string): void {
  for (const name of readdirSync('/proc').filter((each) => /^\d+$/.test(each))) {
    try {
      const words = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0')
      const ours = words.includes('bwrap') || words[0]?.endsWith('/bwrap')
      if (ours && words.some((word) => word.startsWith(`${dir}/`))) process.kill(Number(name), 'SIGKILL')
    } catch {
      // It ended meanwhile, or is somebody else's.
    }
  }
}

/** Whether others than root can get to these folders. */
function reachable(paths: readonly string[]): boolean {
  const test = paths.map((path) => `test -x ${JSON.stringify(path)}`).join(' && ')
  const tried = spawnSync('setpriv', [`--reuid=${nobody}`, `--regid=${nobody}`, '--clear-groups', 'sh', '-c', test])
  return tried.status === 0
}
