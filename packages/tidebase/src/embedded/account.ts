// The operating-system user that Postgres runs as, and the folders that belong to it. Postgres refuses to be root, so
// a server that runs as root lends it another user; everybody else runs Postgres as themselves.

import { spawn } from 'node:child_process'
import { chown, lchown, lstat, mkdir, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { EmbeddedError, textOf } from './error.ts'

/** A user without a name of our own making: `nobody`, who exists on every Linux and has no rights. */
const nobody = 65534

export interface Account {
  uid: number
  gid: number
}

/**
 * Who Postgres must run as.
 * @param cluster path of the cluster, which need not exist
 * @returns undefined for "as ourselves"; when we are root, the owner of an existing cluster or else nobody
 */
export async function accountFor(cluster: string): Promise<Account | undefined> {
  if (process.getuid?.() !== 0) return undefined
  const found = await stat(cluster).catch(() => undefined)
  return found && found.uid !== 0 ? { uid: found.uid, gid: found.gid } : { uid: nobody, gid: nobody }
}

/**
 * Whether Postgres's user can reach a folder by its path; root's own home, for one, is closed to others.
 * @param folder an existing folder
 * @param account undefined is us, and we have just been there
 * @returns true when it can
 * @throws EmbeddedError `embedded_failed` when no program can be started as that user
 */
export async function canEnter(folder: string, account: Account | undefined): Promise<boolean> {
  if (account === undefined) return true
  try {
    return (await run('/bin/sh', ['-c', 'cd -- "$0"', folder], { account })).code === 0
  } catch (error) {
    throw new EmbeddedError(
      'embedded_failed',
      `Postgres cannot run as root, and programs cannot be started as user ${account.uid} here: ${textOf(error)}`,
      'Start Tidebase as a normal user, or set DATABASE_URL to a Postgres of your own.',
      { cause: error },
    )
  }
}

/**
 * Makes a folder that only Postgres's user (and root) can enter. An existing one is left as it is.
 * @param path the folder; its parent exists
 * @returns true when it was made
 * @throws an errno error
 */
export async function makePrivate(path: string, account: Account | undefined): Promise<boolean> {
  try {
    await mkdir(path, { mode: 0o700 })
  } catch (error) {
    if ((await lstat(path).catch(() => undefined))?.isDirectory()) return false
    throw error
  }
  if (account) await chown(path, account.uid, account.gid)
  return true
}

/**
 * Gives a folder and all that is in it to a user, without following links.
 * @throws an errno error
 */
export async function giveTree(path: string, account: Account): Promise<void> {
  for (const entry of await readdir(path, { recursive: true }))
    await lchown(join(path, entry), account.uid, account.gid)
  await lchown(path, account.uid, account.gid)
}

/**
 * An environment in which Postgres depends on nothing of ours: no PGDATA, no locale, no library path.
 * @returns environment variables
 */
export function plainEnvironment(): NodeJS.ProcessEnv {
  return { PATH: process.env.PATH ?? '/usr/local/bin:/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' }
}

/**
 * Runs a program to its end.
 * @param options.account who runs it; @param options.cwd the folder it starts in, entered with our own rights
 * @returns its exit code (null when a signal ended it) and what it wrote
 * @throws an errno error when it cannot be started
 */
export function run(
  file: string,
  args: string[],
  options: { account?: Account | undefined; cwd?: string },
): Promise<{ code: number | null; output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      ...options.account,
      cwd: options.cwd,
      env: plainEnvironment(),
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let output = ''
    const collect = (chunk: Buffer) => {
      output += chunk.toString()
    }
    child.stdout.on('data', collect)
    child.stderr.on('data', collect)
    child.once('error', reject)
    child.once('close', (code) => resolve({ code, output: output.trim() }))
  })
}
