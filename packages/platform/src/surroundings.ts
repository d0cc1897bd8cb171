// What a platform finds where it is started: files it keeps, npm's registry, the address it listens on.
import { execFile } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { promisify } from 'node:util'

/** The secret in `file`, made and kept there, for its owner only, when there is none. */
export async function keep(file: string, make: () => string): Promise<string> {
  try {
    return (await readFile(file, 'utf8')).trim()
  } catch {
    const value = make()
    await writeFile(file, `${value}\n`, { mode: 0o600, flag: 'wx', flush: true })
    return value
  }
}

/** Makes something at the first call, and answers it at each. */
export function once<T>(make: () => Promise<T>): () => Promise<T> {
  let value: Promise<T> | undefined
  return () => {
    value ??= make()
    return value
  }
}

/** Where this machine's npm gets packages. */
export async function npmRegistry(): Promise<string> {
  const { stdout } = await promisify(execFile)('npm', ['config', 'get', 'registry'], { cwd: tmpdir() })
  return stdout.trim() || 'https://registry.npmjs.org/'
}

/** `host:port` of an address. */
export function hostPort(url: string): string {
  const { hostname, port, protocol } = new URL(url)
  return `${hostname}:${port || (protocol === 'https:' ? 443 : 80)}`
}

/** Whether only this machine reaches an address. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host)
}
