/**
 * The folder of a pod as the CLI sees it: which pod it is linked to, and which files are its source.
 */
import { existsSync } from 'node:fs'
import { lstat, readdir, readFile, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, join } from 'node:path'
import type { Ignore } from 'ignore'
import { TpError } from '../src/errors.ts'
import { sha256 } from './api.ts'

const require = createRequire(import.meta.url)

/** What a folder remembers of the platform: `.tidepool.json`. */
export interface Link {
  url: string
  pod: string
  name: string
  deployment?: string | null
}

const linkFile = (dir: string) => join(dir, '.tidepool.json')
const maxFileBytes = 50 * 1024 * 1024

/** The pod that a folder belongs to, on the platform `url`. */
export async function readLink(dir: string, url: string): Promise<Link | undefined> {
  try {
    const link: Link = JSON.parse(await readFile(linkFile(dir), 'utf8'))
    return link.url === url ? link : undefined
  } catch {
    return undefined
  }
}

export async function writeLink(dir: string, link: Link): Promise<void> {
  await writeFile(linkFile(dir), `${JSON.stringify(link, null, 2)}\n`)
}

/** A name that a pod may have, from the folder's package.json or its own name. */
export async function nameOf(dir: string): Promise<string> {
  let name = basename(dir)
  try {
    const manifest: { name?: unknown } = JSON.parse(await readFile(join(dir, 'package.json'), 'utf8'))
    if (typeof manifest.name === 'string' && manifest.name !== '') name = manifest.name.replace(/^@[^/]*\//, '')
  } catch {
    // None, or not JSON: the deployment says so.
  }
  const clean = name
    .toLowerCase()
    .replace(/[^a-z0-9-]+/g, '-')
    .replace(/^-+|-+$/g, '')
    .slice(0, 40)
    .replace(/-+$/, '')
  return clean || 'app'
}

export interface SourceFile {
  path: string
  sha256: string
  size: number
}

export interface Source {
  files: SourceFile[]
  /** Left out, with the reason. */
  warnings: string[]
}

const always = ['tp_data/', 'node_modules/', '.git/', '.*', 'build_log.*']

/** The source of the pod in `dir`: everything but what .tpignore and the fixed rules leave out. @throws TpError `no_main` */
export async function readSource(dir: string): Promise<Source> {
  if (!['main.ts', 'main.js', 'main.mts', 'main.mjs', 'main.tsx'].some((name) => existsSync(join(dir, name))))
    throw new TpError('no_main', `There is no main.ts in ${dir}`, { next: ['tidepool init my-app && cd my-app'] })
  const make: () => Ignore = require('ignore')
  const rules = make().add(always)
  const ignoreFile = join(dir, '.tpignore')
  if (existsSync(ignoreFile)) rules.add(await readFile(ignoreFile, 'utf8'))
  const files: SourceFile[] = []
  const warnings: string[] = []
  async function walk(folder: string): Promise<void> {
    for (const entry of await readdir(join(dir, folder), { withFileTypes: true })) {
      const path = folder ? `${folder}/${entry.name}` : entry.name
      if (rules.ignores(entry.isDirectory() ? `${path}/` : path)) continue
      if (entry.isDirectory()) await walk(path)
      else if (entry.isSymbolicLink()) warnings.push(`${path} is a link and was left out`)
      else if (entry.isFile()) {
        const { size } = await lstat(join(dir, path))
        if (size > maxFileBytes) {
          warnings.push(`${path} is larger than 50 MB and was left out`)
          continue
        }
        const bytes = await readFile(join(dir, path))
        files.push({ path, sha256: sha256(bytes), size: bytes.length })
      }
    }
  }
  await walk('')
  files.sort((a, b) => (a.path < b.path ? -1 : 1))
  return { files, warnings }
}

/** `tp_data/secrets.json`, or nothing. @throws TpError `bad_data_file` */
export async function readLocalSecrets(dir: string): Promise<Record<string, string>> {
  const { readSecrets } = await import('../src/backend-local.ts')
  return readSecrets(join(dir, 'tp_data'))
}

/** Files under tp_data/files/. */
export async function readLocalFiles(dir: string): Promise<{ name: string; size: number; modifiedAt: number }[]> {
  const root = join(dir, 'tp_data', 'files')
  const found: { name: string; size: number; modifiedAt: number }[] = []
  async function walk(folder: string): Promise<void> {
    for (const entry of await readdir(join(root, folder), { withFileTypes: true }).catch(() => [])) {
      const name = folder ? `${folder}/${entry.name}` : entry.name
      if (entry.isDirectory()) await walk(name)
      else if (entry.isFile()) {
        const { size, mtimeMs } = await lstat(join(root, name))
        found.push({ name, size, modifiedAt: mtimeMs })
      }
    }
  }
  await walk('')
  return found.sort((a, b) => (a.name < b.name ? -1 : 1))
}
