// What can be learnt about processes that are not our children, by pid: Linux tells in /proc, others through ps.

import { execFile } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { promisify } from 'node:util'

const linux = process.platform === 'linux'

/**
 * The command line of a process, or the title it has given itself.
 * @returns words separated by spaces; '' when there is no such process, or only its zombie
 */
export async function commandLine(pid: number): Promise<string> {
  if (!linux) return (await ps(['-ww', '-o', 'command=', '-p', String(pid)])).trim()
  return (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' ')
}

/**
 * All processes with a given title.
 * @param start how the title begins
 * @returns their pids
 */
export async function titled(start: string): Promise<number[]> {
  if (linux) {
    const pids = (await readdir('/proc').catch(() => [])).filter((entry) => /^\d+$/.test(entry)).map(Number)
    const titles = await Promise.all(pids.map(commandLine))
    return pids.filter((_, index) => titles[index]?.startsWith(start))
  }
  const lines = (await ps(['-axww', '-o', 'pid=', '-o', 'command='])).split('\n').map((line) => line.trimStart())
  return lines.filter((line) => line.replace(/^\d+\s+/, '').startsWith(start)).map((line) => Number.parseInt(line, 10))
}

/**
 * Whether a pid is taken, be it by a zombie; what Postgres itself asks of the pid in its file.
 * @returns true also for a process that we may not signal
 */
export function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM'
  }
}

/** Signals a process. One that has just ended, or may not be signalled, is left to the caller to notice. */
export function signalProcess(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch {}
}

/**
 * Waits for a promise, but not for ever.
 * @param ms the patience, in milliseconds
 * @returns true when it has settled in time; no timer is left behind either way
 */
export async function within(promise: Promise<unknown>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), ms)
  })
  try {
    return await Promise.race([promise.then(() => true), late])
  } finally {
    clearTimeout(timer)
  }
}

async function ps(args: string[]): Promise<string> {
  const done = await promisify(execFile)('ps', args).catch(() => undefined)
  return done?.stdout ?? ''
}
