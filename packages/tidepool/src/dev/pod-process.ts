/**
 * The pod's process as the dev server sees it: starting → up → down, replaced as a whole on every change.
 *
 *   start ──ready──▶ up ──exit──▶ down (restarted after a pause when it crashed)
 *     └──failed / exit──▶ down, with the error that its main.ts threw
 *
 * Invariant: a process that no longer answers its own clock (its event loop is blocked) is killed after `hangMs`.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { type ErrorBody, messageOf } from '../errors.ts'
import type { PodMessage, TidebaseAnswer } from '../run.ts'
import { bundleOf, nodeArguments } from './build.ts'

const hangMs = 8000
/** A process that does not end by itself in this time is killed. */
const stopMs = 6000

export interface ProcessEvents {
  onReady: () => void
  onFailed: (error: ErrorBody, stack: string) => void
  /** It wants durable runs. @returns where Tidebase is */
  onTidebase: () => Promise<string>
  /** It ended without being told to: crashed or was killed for hanging. */
  onCrash: (reason: 'hang' | 'exit', code: number | null) => void
}

export interface PodProcess {
  stop(): Promise<void>
}

function isMessage(value: unknown): value is PodMessage {
  return typeof value === 'object' && value !== null && 'type' in value && typeof value.type === 'string'
}

/** Starts the bundle of the pod in `dir`, listening on the unix socket `socket`. */
export function startPodProcess(
  dir: string,
  socket: string,
  env: Record<string, string>,
  events: ProcessEvents,
): PodProcess {
  const child: ChildProcess = spawn(process.execPath, nodeArguments(bundleOf(dir)), {
    cwd: dir,
    env: { ...process.env, ...env, TIDEPOOL_DIR: dir, TIDEPOOL_LISTEN: socket },
    // stdout is for what `--json` prints.
    stdio: ['ignore', 2, 2, 'ipc'],
  })
  let stopping = false
  let failed = false
  let watchdog: NodeJS.Timeout | undefined

  function expectLife(): void {
    clearTimeout(watchdog)
    watchdog = setTimeout(() => {
      failed = true
      child.kill('SIGKILL')
      events.onCrash('hang', null)
    }, hangMs)
  }

  function answer(message: TidebaseAnswer): void {
    if (child.connected) child.send(message)
  }

  child.on('message', (message: unknown) => {
    if (!isMessage(message) || stopping) return
    if (message.type === 'failed') {
      failed = true
      events.onFailed(message.error, message.stack)
      return
    }
    if (message.type === 'tidebase') {
      void events.onTidebase().then(
        (url) => answer({ type: 'tidebase', url }),
        (error: unknown) => answer({ type: 'tidebase', error: messageOf(error) }),
      )
      return
    }
    expectLife()
    if (message.type === 'ready') events.onReady()
  })
  const ended = new Promise<void>((resolve) => {
    child.once('exit', (code) => {
      clearTimeout(watchdog)
      if (!stopping && !failed) events.onCrash('exit', code)
      resolve()
    })
    child.once('error', () => resolve())
  })

  return {
    async stop() {
      if (stopping) return ended
      stopping = true
      clearTimeout(watchdog)
      child.kill('SIGTERM')
      const killer = setTimeout(() => child.kill('SIGKILL'), stopMs)
      await ended
      clearTimeout(killer)
    },
  }
}
