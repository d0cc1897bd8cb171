// The worker: claims queued runs and executes them, so many at a time, until it is told to stop.
//
//   claiming ──signal──▶ draining (no claims; what runs may end within graceMs) ──▶ stopped
//
// Invariants: an outage never ends a worker, only a refusal does (wrong key, wrong request); each claim has a lease
// owner of its own, so that an execution whose run was lost and claimed again here is fenced off too.
import { backoff, delay, onAbort } from './abort.ts'
import type { CallReply } from './endpoints.ts'
import { type BeginOptions, type Engine, workflowFn } from './engine.ts'
import { RunParkedError, TidebaseError } from './errors.ts'
import { execute } from './execute.ts'
import { newOwner } from './ids.ts'
import { leaseLength } from './lease.ts'
import { defaultParkAfterMs } from './parking.ts'
import { errorText } from './thrown.ts'
import type { ExecutedRun } from './types.ts'

/** How a worker works. */
export interface WorkOptions {
  /** Queues to serve; `['default']` unless given. */
  queues?: string[]
  /** How many runs it executes at a time; 10 unless given. */
  concurrency?: number
  /** Stops the worker. */
  signal?: AbortSignal
  /** After the signal, how long running work may take to end, in milliseconds; 25,000 unless given. */
  graceMs?: number
  /** Name of the worker, shown as the start of its lease owners. */
  leaseOwner?: string
  /**
   * How long one claim waits at the server for work, in milliseconds; 5,000 unless given, at most 30,000. A stop waits
   * for it: a claim that is broken off may have taken a run that nobody then executes.
   */
  waitMs?: number
  /** Longest pause between claims when the server answers at once that there is nothing; 1,000 unless given. */
  pollMs?: number
  /**
   * After how long a run in which everything waits (gates, sleeps, signals) is given up, in milliseconds; 2,000 unless
   * given. It comes back when its wait is over.
   */
  parkAfterMs?: number
  /** Told of failed runs (then with `run`) and of outages (once each). Prints to stderr unless given. */
  onError?: (error: unknown, run?: ExecutedRun) => void
}

/** Works until the signal; see `Tidebase.work`. */
export async function work(engine: Engine, options: WorkOptions): Promise<void> {
  const { queues = ['default'], concurrency = 10, signal, graceMs = 25_000, onError = print } = options
  const { waitMs = 5_000, pollMs = 1_000, parkAfterMs = defaultParkAfterMs } = options
  if (!Number.isInteger(concurrency) || concurrency < 1)
    throw new RangeError(`concurrency must be a whole number from 1, not ${concurrency}`)
  const name = options.leaseOwner ?? newOwner('worker')
  const running = new Set<Promise<void>>()
  const stop = new AbortController()
  let freed = () => {}

  const start = (run: ClaimedRun, claimed: CallReply<'claim'>) => {
    const ended = executeClaimed(engine, run, claimed, { signal: stop.signal, parkAfterMs })
      .catch((error: unknown) => {
        if (!(error instanceof RunParkedError)) tell(onError, error, run)
      })
      .finally(() => {
        running.delete(ended)
        freed()
      })
    running.add(ended)
  }

  try {
    let failures = 0
    let idle = 0
    for (let claims = 1; !signal?.aborted; claims++) {
      const free = concurrency - running.size
      if (free < 1) {
        let unwatch = () => {}
        await new Promise<void>((resolve) => {
          freed = resolve
          unwatch = onAbort(signal, resolve)
        })
        unwatch()
        continue
      }
      const asked = performance.now()
      const claimed = await claim(engine, {
        queues,
        leaseOwner: `${name}/${claims}`,
        limit: Math.min(free, 100),
        waitMs,
        include: ['checkpoints'],
        brief: true,
      })
      if (claimed instanceof TidebaseError) {
        if (!claimed.retryable) throw claimed
        if (failures === 0) tell(onError, claimed)
        await delay(backoff(failures++, 200, 10_000), signal).catch(() => undefined)
        continue
      }
      failures = 0
      for (const run of claimed.runs) start(run, claimed)
      const early = claimed.runs.length === 0 && performance.now() - asked < waitMs / 2
      idle = early ? idle + 1 : 0
      if (early) await delay(backoff(idle - 1, 20, pollMs), signal).catch(() => undefined)
    }
  } finally {
    await drain(running, graceMs, stop)
  }
}

function claim(engine: Engine, body: Parameters<typeof engine.transport.call<'claim'>>[1]['body']) {
  return engine.transport
    .call('claim', { body, retryForMs: 0, timeoutMs: (body.waitMs ?? 0) + 15_000 })
    .catch((error: unknown) => {
      if (error instanceof TidebaseError) return error
      throw error
    })
}

type ClaimedRun = CallReply<'claim'>['runs'][number]

async function executeClaimed(
  engine: Engine,
  run: ClaimedRun,
  claimed: CallReply<'claim'>,
  options: Pick<BeginOptions, 'signal' | 'parkAfterMs'>,
): Promise<void> {
  const held = {
    run,
    leaseOwner: claimed.leaseOwner,
    // A server that is older than `brief` answers with whole runs.
    leaseMs: 'leaseExpiresAt' in run ? leaseLength(run) : claimed.leaseMs,
    checkpoints: claimed.checkpoints?.[run.id] ?? [],
  }
  await execute(
    engine,
    held,
    // Looked up inside, so that a run nobody here can execute is recorded as failed and another worker may try.
    (context, input: unknown) => workflowFn(engine, run.workflowName)(context, input),
    options,
  )
}

async function drain(running: Set<Promise<void>>, graceMs: number, stop: AbortController): Promise<void> {
  const timer = setTimeout(() => {
    stop.abort(
      new TidebaseError('The worker stopped before the run ended.', {
        code: 'worker_stopped',
        hint: 'The run resumes where it was, when it has attempts left. Raise graceMs for longer work.',
        failureClass: 'worker_stopped',
      }),
    )
  }, graceMs)
  await Promise.all(running)
  clearTimeout(timer)
}

/** A handler that throws must not end the worker. */
function tell(onError: NonNullable<WorkOptions['onError']>, error: unknown, run?: ExecutedRun): void {
  try {
    onError(error, run)
  } catch (thrown) {
    print(thrown)
  }
}

function print(error: unknown, run?: ExecutedRun): void {
  console.error(`tidebase: ${run ? `run ${run.id} (${run.workflowName}) failed: ` : ''}${errorText(error)}`)
}
