// Python for tests: the machine's own, and virtual environments with packages from PyPI, kept in the temporary folder.
import { type ChildProcess, execFile, type SpawnOptions, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** The Python SDK's folder. */
export const sdk = fileURLToPath(new URL('../python/tidebase', import.meta.url))

/** Whether the SDK can run here: Python 3.9 or newer is installed as `python3`. */
export async function hasPython(): Promise<boolean> {
  try {
    await run('python3', ['-c', 'import sys, venv; sys.exit(sys.version_info < (3, 9))'])
    return true
  } catch {
    return false
  }
}

/**
 * An interpreter that has some packages.
 *
 * @param packages as pip takes them
 * @returns its path; undefined, after saying so, when they cannot be had
 */
export async function venv(...packages: string[]): Promise<string | undefined> {
  const { stdout } = await run('python3', ['-c', 'import sys; print(sys.version, sys.prefix)'])
  const name = createHash('sha256').update(`${stdout}${packages}`).digest('hex').slice(0, 16)
  const folder = join(tmpdir(), `tidebase-venv-${name}`)
  const python = join(folder, 'bin', 'python')
  const complete = join(folder, 'complete')
  if (existsSync(complete)) return python
  try {
    await run('python3', ['-m', 'venv', '--clear', folder])
    const options = ['--quiet', '--disable-pip-version-check', '--retries', '1', '--timeout', '20']
    await run(python, ['-m', 'pip', 'install', ...options, ...packages], { timeout: 240_000 })
  } catch (error) {
    const what = error instanceof Error ? error.message.split('\n').slice(0, 3).join(' ') : String(error)
    console.warn(`\n*** SKIPPED: ${packages.join(', ')} could not be installed from PyPI: ${what}\n`)
    return undefined
  }
  writeFileSync(complete, '')
  return python
}

/** A process and the lines it has printed. */
export interface Program {
  child: ChildProcess
  lines: string[]
  /** Returns when it has printed this. */
  line(wanted: string | RegExp): Promise<string>
  /** Returns its exit code when it has exited. */
  exit: Promise<number | null>
}

/** Starts a program; what it writes to stderr is shown. */
export function program(command: string, args: string[], options: SpawnOptions = {}): Program {
  const child = spawn(command, args, { ...options, stdio: ['ignore', 'pipe', 'inherit'] })
  const exit = once(child, 'exit').then(([code]): number | null => code)
  const lines: string[] = []
  const waiting = new Set<() => void>()
  let rest = ''
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    const parts = (rest + text).split('\n')
    rest = parts.pop() ?? ''
    lines.push(...parts)
    for (const look of [...waiting]) look()
  })
  const line = (wanted: string | RegExp) =>
    new Promise<string>((resolve, reject) => {
      const look = () => {
        const found = lines.find((each) => (typeof wanted === 'string' ? each === wanted : wanted.test(each)))
        if (found === undefined) return
        waiting.delete(look)
        resolve(found)
      }
      waiting.add(look)
      exit.then(() => reject(new Error(`it exited without ${wanted}: ${lines.join('\n')}`)))
      look()
    })
  return { child, lines, line, exit }
}
