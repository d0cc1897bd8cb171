// One try of a step's function: what it is given, and the wait for it.
import { onAbort } from './abort.ts'
import { StepTimeoutError } from './errors.ts'
import type { Lease } from './lease.ts'
import { StreamWriter } from './streams.ts'

/** What a step's function gets. */
export interface StepContext {
  /** Aborts at the time limit and when the run is over. Pass it on to `fetch` and the like. */
  signal: AbortSignal
  /** 1 for the first try in this execution. */
  attempt: number
  /** The name the step is recorded under. */
  name: string
  idempotencyKey: string | undefined
  /**
   * Shows text to those who watch the run while the step works, such as the tokens of a model as they come. It is
   * sent now and then, never waited for, and gone when the step is recorded: what matters belongs into the output.
   */
  stream(chunk: string): void
}

/** The work of a step. Its output is recorded as JSON. */
export type StepFn<T> = (step: StepContext) => T | Promise<T>

/** What one try is given. Its signal and its stream are made when they are asked for: most steps use neither. */
export class Scope implements StepContext {
  readonly attempt: number
  readonly name: string
  readonly idempotencyKey: string | undefined
  readonly stream: (chunk: string) => void
  #controller: AbortController | undefined
  #writer: StreamWriter | undefined

  /**
   * @param lease of the run that the step belongs to
   * @param attempt 1 for the first try
   */
  constructor(lease: Lease, name: string, idempotencyKey: string | undefined, attempt: number) {
    this.attempt = attempt
    this.name = name
    this.idempotencyKey = idempotencyKey
    // Of its own, so that it may be passed on without its scope.
    this.stream = (chunk) => {
      this.#writer ??= new StreamWriter(lease, name)
      this.#writer.write(chunk)
    }
  }

  get signal(): AbortSignal {
    this.#controller ??= new AbortController()
    return this.#controller.signal
  }

  abort(reason: unknown): void {
    this.#controller ??= new AbortController()
    this.#controller.abort(reason)
  }

  end(): void {
    this.#writer?.stop()
  }
}

/**
 * Waits for a try, within its time limit. A function that ignores its signal is left behind, not waited for.
 *
 * @param timeoutMs milliseconds; no limit but the run's end unless given
 * @throws what the work throws; StepTimeoutError; the reason why the run is over
 */
export async function inTime<T>(
  lease: Lease,
  scope: Scope,
  work: PromiseLike<T>,
  timeoutMs: number | undefined,
): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined
  let unwatch = () => {}
  try {
    return await new Promise<T>((resolve, reject) => {
      const stop = (reason: unknown) => {
        scope.abort(reason)
        reject(reason)
      }
      unwatch = onAbort(lease.signal, () => stop(lease.signal.reason))
      if (timeoutMs) timer = setTimeout(() => stop(new StepTimeoutError(scope.name, timeoutMs)), timeoutMs)
      // Not `resolve(promise)`: a promise that was resolved with another cannot be rejected any more.
      Promise.resolve(work).then(resolve, reject)
    })
  } finally {
    clearTimeout(timer)
    unwatch()
  }
}

/** Whether a function's value must be waited for. */
export const isThenable = <T>(value: T | PromiseLike<T>): value is PromiseLike<T> =>
  typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
