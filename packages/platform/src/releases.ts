/**
 * Releases on this machine's disk: a deployment's files laid out, its packages installed, its bundle built. All of it
 * can be made again from the database and the storage; a folder that is complete is marked so by its name.
 *
 *   <data>/releases/<pod>/<deployment>/     the source, and tp_data/build/ with the bundle
 *   <data>/modules/<pod>-<hash>/            node_modules of one lockfile, shared by the pod's releases that have it
 *
 * Invariant: nothing of a pod's source runs or is read by a tool of ours outside of its sandbox.
 */
import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { access, chmod, chown, cp, mkdir, mkdtemp, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { bundleOf, type ErrorBody } from 'tidepool/kit'
import { type Driver, npmProgram, runtimeEntry } from './drivers/process.ts'
import { type Issue, messageOf, PlatformError } from './errors.ts'
import { forEach } from './lanes.ts'
import type { Master } from './master.ts'
import { blobKey, type SourceFile } from './source.ts'
import type { Storage } from './storage.ts'

const installLimits = { memoryMb: 1536, cpus: 2, processes: 256, scratchMb: 512 }
const buildLimits = { memoryMb: 1024, cpus: 2, processes: 128, scratchMb: 64 }
const installMs = 300_000
const buildMs = 60_000
const modulesBytes = 1024 ** 3

export interface ReleasesOptions {
  dir: string
  driver: Driver
  storage: Storage
  master: Master
  /** Where npm gets packages. */
  registry: () => Promise<string>
}

interface Manifest {
  dependencies?: Record<string, string>
  optionalDependencies?: Record<string, string>
}

const exists = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  )

/** Makes the releases of all pods. */
export function createReleases({ dir, driver, storage, master, registry }: ReleasesOptions) {
  const releaseDir = (pod: string, deployment: string) => join(dir, 'releases', pod, deployment)

  /** Lets the sandbox's user write into a folder. */
  async function lend(path: string): Promise<void> {
    if (driver.user !== undefined) await chown(path, driver.user, driver.user)
  }

  /** Runs a program of ours in a sandbox of the pod. @returns what it printed on stdout */
  async function run(
    job: Parameters<Driver['start']>[0],
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<{ code: number | null; out: string; outOfMemory: boolean; late: boolean }> {
    let out = ''
    const started = driver.start({
      ...job,
      onOutput: (stream) => {
        stream.setEncoding('utf8')
        stream.on('data', (chunk: string) => {
          if (out.length < 200_000) out += chunk
        })
      },
    })
    let late = false
    const timer = setTimeout(() => {
      late = true
      started.kill('SIGKILL')
    }, timeoutMs)
    const stop = () => started.kill('SIGKILL')
    signal?.addEventListener('abort', stop, { once: true })
    const { code, outOfMemory } = await started.ended
    clearTimeout(timer)
    signal?.removeEventListener('abort', stop)
    signal?.throwIfAborted()
    return { code, out, outOfMemory, late }
  }

  /** Lays the files out. @returns what they are in all */
  async function unpack(pod: string, deployment: string, files: readonly SourceFile[]) {
    const target = releaseDir(pod, deployment)
    const bytes = files.reduce((sum, [, , size]) => sum + size, 0)
    if (await exists(target)) return { files: files.length, bytes }
    await mkdir(dirname(target), { recursive: true, mode: 0o711 })
    const incoming = await mkdtemp(join(dirname(target), `.${deployment}-`))
    try {
      await forEach(files, 8, async ([path, sha256]) => {
        const found = await storage.get(blobKey(pod, sha256))
        if (!found) throw new PlatformError('missing_files', `The content of ${path} is not in the storage.`)
        await mkdir(join(incoming, dirname(path)), { recursive: true, mode: 0o755 })
        await pipeline(found.body, createWriteStream(join(incoming, path), { flags: 'wx', mode: 0o644 }))
      })
      await mkdir(join(incoming, 'tp_data', 'build'), { recursive: true, mode: 0o755 })
      await mkdir(join(incoming, 'node_modules'), { mode: 0o755 })
      await lend(join(incoming, 'tp_data', 'build'))
      await chmod(incoming, 0o755)
      await rename(incoming, target)
    } catch (error) {
      await rm(incoming, { recursive: true, force: true })
      // Somebody else was quicker.
      if (!(await exists(target))) throw error
    }
    return { files: files.length, bytes }
  }

  async function readManifest(
    release: string,
  ): Promise<{ manifest: Manifest; text: string; lock: string | undefined }> {
    const text = await readFile(join(release, 'package.json'), 'utf8').catch(() => '{}')
    const wrong = (what: string) =>
      new PlatformError('install_failed', `package.json ${what}`, { file: 'package.json', line: 1 })
    let manifest: Manifest
    try {
      manifest = JSON.parse(text)
    } catch (error) {
      throw wrong(`is not valid JSON: ${messageOf(error)}`)
    }
    if (typeof manifest !== 'object' || manifest === null || Array.isArray(manifest))
      throw wrong('is not a JSON object.')
    const lock = await readFile(join(release, 'package-lock.json'), 'utf8').catch(() => undefined)
    return { manifest, text, lock }
  }

  function needsPackages({ dependencies = {}, optionalDependencies = {} }: Manifest): boolean {
    // The runtime itself is the platform's.
    return Object.keys({ ...dependencies, ...optionalDependencies }).some((name) => name !== 'tidepool')
  }

  /** The folder of a release's packages, or undefined when it has none. */
  async function modulesOf(pod: string, deployment: string): Promise<string | undefined> {
    const { manifest, text, lock } = await readManifest(releaseDir(pod, deployment))
    if (!needsPackages(manifest)) return undefined
    const hash = createHash('sha256')
      .update(text)
      .update('\0')
      .update(lock ?? '')
      .update(process.version)
      .digest('hex')
    return join(dir, 'modules', `${pod}-${hash.slice(0, 32)}`)
  }

  /** Installs the packages of a release, without their scripts, from its lockfile if it has one. */
  async function install(pod: string, deployment: string, signal?: AbortSignal) {
    const release = releaseDir(pod, deployment)
    const target = await modulesOf(pod, deployment)
    if (!target) return { packages: 0, cached: false }
    const count = async () => (await readdir(target)).filter((name) => !name.startsWith('.')).length
    if (await exists(target)) return { packages: await count(), cached: true }
    const { lock } = await readManifest(release)
    await mkdir(dirname(target), { recursive: true, mode: 0o711 })
    const work = await mkdtemp(join(dirname(target), '.install-'))
    try {
      for (const name of ['package.json', 'package-lock.json'])
        if (await exists(join(release, name))) await cp(join(release, name), join(work, name))
      await chmod(work, 0o755)
      await lend(work)
      if (lock) await lend(join(work, 'package-lock.json'))
      const place = { from: work, to: '/install', write: true }
      const npm = npmProgram()
      const npmFolder = dirname(dirname(npm))
      const args = [
        lock ? 'ci' : 'install',
        '--ignore-scripts',
        '--omit=dev',
        '--no-audit',
        '--no-fund',
        '--no-update-notifier',
      ]
      const { code, out, outOfMemory, late } = await run(
        {
          id: `install${deployment}`,
          limits: installLimits,
          binds: [place, { from: npmFolder, to: npmFolder }],
          args: [runtimeEntry('npm.js'), npm, ...args, `--registry=${await registry()}`],
          env: {
            TIDEPOOL_TOKEN: master.podToken(pod, `install-${deployment}`),
            npm_config_cache: driver.sandboxed ? '/tmp/npm' : join(work, '.npm'),
          },
          workDir: driver.place(place),
          onOutput: () => {},
        },
        installMs,
        signal,
      )
      if (code !== 0) {
        const why = late
          ? `npm took longer than ${installMs / 1000} s.`
          : outOfMemory
            ? 'npm needed more memory than there is.'
            : npmError(out)
        throw new PlatformError(
          'install_failed',
          why,
          lock
            ? {}
            : {
                hint: 'Run `npm install` in the folder, check that it passes, and deploy with the package-lock.json it makes.',
              },
        )
      }
      const modules = join(work, 'node_modules')
      if ((await sizeOf(modules)) > modulesBytes)
        throw new PlatformError('install_failed', 'The packages take more than 1 GB.', {
          hint: 'Remove what the app does not need at run time.',
        })
      await rename(modules, target).catch(async (error: unknown) => {
        if (!(await exists(target))) throw error
      })
      return { packages: await count(), cached: false }
    } finally {
      await rm(work, { recursive: true, force: true })
    }
  }

  /** Makes the bundle. @throws PlatformError `boot_failed` with the place in the source */
  async function build(pod: string, deployment: string, signal?: AbortSignal) {
    const release = releaseDir(pod, deployment)
    if (await exists(bundleOf(release))) return
    const modules = await modulesOf(pod, deployment)
    const place = { from: release, to: '/app' }
    const out = { from: join(release, 'tp_data', 'build'), to: '/app/tp_data/build', write: true }
    const result = await run(
      {
        id: `build${deployment}`,
        limits: buildLimits,
        binds: [place, ...(modules ? [{ from: modules, to: '/app/node_modules' }] : []), out],
        args: [runtimeEntry('build-once.js'), driver.place(place)],
        env: {},
        workDir: driver.place(place),
        onOutput: () => {},
      },
      buildMs,
      signal,
    )
    const line = result.out.trim().split('\n').at(-1) ?? ''
    let answer: { error?: ErrorBody & { issues?: Issue[] } } | undefined
    try {
      answer = JSON.parse(line)
    } catch {
      // It did not come to its end.
    }
    if (answer?.error) {
      const { error, code: _, docs: __, hint: ___, ...rest } = answer.error
      throw new PlatformError('boot_failed', error, rest)
    }
    if (result.code !== 0 || !answer)
      throw new PlatformError(
        'boot_failed',
        result.late ? 'The build took too long.' : `The build failed: ${result.out.slice(-500)}`,
      )
  }

  return {
    dir: releaseDir,
    unpack,
    install,
    build,
    modulesOf,
    /** Everything that a release needs to be started. */
    async prepare(pod: string, deployment: string, files: readonly SourceFile[]): Promise<void> {
      await unpack(pod, deployment, files)
      await install(pod, deployment)
      await build(pod, deployment)
    },
    /** Removes releases of a pod but those named, packages that none of them uses, and what killed processes left. */
    async keep(pod: string, deployments: readonly string[]): Promise<void> {
      const folder = join(dir, 'releases', pod)
      const used = new Set<string>()
      for (const deployment of deployments) {
        if (!(await exists(releaseDir(pod, deployment)))) continue
        const modules = await modulesOf(pod, deployment).catch(() => undefined)
        if (modules) used.add(modules)
      }
      for (const name of await readdir(folder).catch(() => []))
        if (!deployments.includes(name.replace(/^\.([a-z0-9]{8})-.*/, '$1')) || (await abandoned(join(folder, name))))
          await rm(join(folder, name), { recursive: true, force: true })
      const all = join(dir, 'modules')
      for (const name of await readdir(all).catch(() => []))
        if ((name.startsWith(`${pod}-`) && !used.has(join(all, name))) || (await abandoned(join(all, name))))
          await rm(join(all, name), { recursive: true, force: true })
    },
  }
}

export type Releases = ReturnType<typeof createReleases>

/** Whether a folder is half made and whoever made it was killed: no work takes an hour. */
async function abandoned(path: string): Promise<boolean> {
  if (!basename(path).startsWith('.')) return false
  const found = await stat(path).catch(() => undefined)
  return found !== undefined && found.mtimeMs < Date.now() - 3_600_000
}

/** The line of npm's output that says what went wrong. */
function npmError(output: string): string {
  const lines = output.split('\n').filter((line) => /^npm (error|ERR!)/.test(line))
  const told = lines
    .map((line) => line.replace(/^npm (error|ERR!) ?/, '').trim())
    .filter((line) => line !== '' && !line.startsWith('A complete log'))
  return `npm: ${told.slice(0, 4).join(' · ').slice(0, 600) || output.slice(-300)}`
}

async function sizeOf(folder: string): Promise<number> {
  let sum = 0
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => []))
    if (entry.isFile()) sum += (await stat(join(entry.parentPath, entry.name))).size
  return sum
}
