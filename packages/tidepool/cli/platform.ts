/**
 * `tidepool platform start`: hands over to the platform's own program, which is a package of its own.
 */
import { spawn } from 'node:child_process'
import { createRequire } from 'node:module'
import { TpError } from '../src/errors.ts'

/** Runs the platform's program with `args`. @throws TpError `unavailable` when it is not installed */
export async function platform(args: readonly string[]): Promise<void> {
  let program: string
  try {
    program = createRequire(import.meta.url).resolve('@tidepool/platform/bin')
  } catch (cause) {
    throw new TpError('unavailable', 'The platform is not installed here', {
      cause,
      next: ['npm install @tidepool/platform'],
    })
  }
  const child = spawn(process.execPath, [program, ...args], { stdio: 'inherit' })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
  process.exitCode = await new Promise<number>((resolve) => child.once('exit', (code) => resolve(code ?? 1)))
}
