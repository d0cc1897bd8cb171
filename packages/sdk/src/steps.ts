// Steps: the units of work whose outputs are checkpoints. One execution of a run has one `Steps`.
//
//   recorded before ─────────────────────────────────────────────────▶ its output, the function does not run
//   replay-safe:   run ──(after 100 ms: begin, as a note)──▶ record  ─▶ one durable write, after the work
//   otherwise:     begin ─▶ run ─▶ complete                            a durable begin first, so that a crash in the
//                                                                       middle is seen and not silently repeated
//   failed:        [begin] ─▶ fail ─▶ StepError
//
// Invariants: a recorded output wins over a computed one; the function of a step that is recorded never runs; a step
// called twice at once runs once.
import { resumeDecision } from '@tidebase/wire/contract'
import { backoff, delay } from './abort.ts'
import type { CallReply } from './endpoints.ts'
import { InputMismatchError, ManualReviewError, RunCancelledError, StepError, TidebaseError } from './errors.ts'
import { inputHash } from './hash.ts'
import type { Lease } from './lease.ts'
import type { Parking } from './parking.ts'
import { errorWithStack } from './stack.ts'
import { errorText, property } from './thrown.ts'
import { inTime, isThenable, Scope, type StepFn } from './tries.ts'
import { type Checkpoint, recorded } from './types.ts'

/** How a step runs, and what may happen to it when it is not known how it ended. */
export interface StepOptions {
  /** Any JSON. Recorded and hashed: on replay the step must be called with the same. */
  input?: unknown
  /** Number the calls of this name, in order: `llm#1`, `llm#2`, … For steps in loops. */
  each?: boolean
  /** How often the function is tried again after it threw; 0 unless given. An error with `retryable: false` is final. */
  retries?: number
  /** Milliseconds before the first retry, doubling; 500 unless given. */
  backoffMs?: number
  /** How long one try may take, in milliseconds. The function's signal aborts then. */
  timeoutMs?: number
  /** What it does to the world, such as `['email.send']`. `['read']` counts as none. */
  sideEffects?: string[]
  /** A key that makes repeating the side effect harmless. The function gets it, to pass on. */
  idempotencyKey?: string
  /** After an unknown outcome: `auto` repeat, `manual` ask a human, `never` fail. */
  replay?: 'auto' | 'manual' | 'never'
  /** What is true of the world once the step is recorded. For people. */
  checkpointInvariant?: string
  /** What showed it. For people. */
  verifiedBy?: unknown
  /** Which credentials it uses (names, never secrets). For people. */
  credentials?: unknown
}

type Tried<T> = { attempt: number } & ({ value: T } | { error: unknown })
/** A step with everything that identifies it on the wire. */
type Call = { name: string; hash: string; options: StepOptions }

/** After this long, people looking at the run want to see what it is doing. */
const noteAfterMs = 100

export class Steps {
  readonly #lease: Lease
  readonly #parking: Parking
  readonly #checkpoints: Map<string, Checkpoint>
  readonly #finished = new Set<string>()
  readonly #active = new Map<string, { hash: string; outcome: Promise<unknown> }>()
  readonly #counts = new Map<string, number>()

  /**
   * @param lease the run being executed
   * @param checkpoints the steps it has completed already
   * @param parking for steps that wait for somebody's decision
   */
  constructor(lease: Lease, checkpoints: readonly Checkpoint[], parking: Parking) {
    this.#lease = lease
    this.#parking = parking
    this.#checkpoints = new Map(checkpoints.map((each) => [each.name, each]))
  }

  /**
   * Runs a step, or gives the output it had.
   *
   * @param name its name in the run
   * @param options see StepOptions
   * @param fn the work
   * @returns the output: the function's value, or what was recorded of it
   * @throws StepError, InputMismatchError, and whatever ended the run
   */
  async run<T>(name: string, options: StepOptions, fn: StepFn<T>): Promise<T> {
    this.#lease.check()
    const step = { name: options.each ? this.number(name) : name, hash: inputHash(options.input), options }
    const active = this.#active.get(step.name)
    if (active) {
      if (active.hash !== step.hash) throw new InputMismatchError(step.name, active.hash, step.hash)
      return recorded<T>(await active.outcome)
    }
    const outcome = this.#outcome(step, fn)
    this.#active.set(step.name, { hash: step.hash, outcome })
    try {
      return await outcome
    } finally {
      this.#active.delete(step.name)
    }
  }

  /**
   * The next numbered name: `llm#1`, then `llm#2`. Numbers follow the order of the calls, which a deterministic
   * workflow repeats when it is resumed.
   */
  number(name: string): string {
    const count = (this.#counts.get(name) ?? 0) + 1
    this.#counts.set(name, count)
    return `${name}#${count}`
  }

  async #outcome<T>(step: Call, fn: StepFn<T>): Promise<T> {
    const checkpoint = this.#checkpoints.get(step.name)
    if (checkpoint) {
      if (checkpoint.inputHash !== step.hash) throw new InputMismatchError(step.name, checkpoint.inputHash, step.hash)
      // Given out once and then let go, so that a long run does not keep every output; the server still has it.
      this.#checkpoints.delete(step.name)
      this.#finished.add(step.name)
      return recorded<T>(checkpoint.output)
    }
    const known = this.#finished.has(step.name)
    const safe = resumeDecision(step.options) === 'safe_replay'
    const value = await (safe && !known ? this.#runThenRecord(step, fn) : this.#beginThenRun(step, fn))
    this.#finished.add(step.name)
    return value
  }

  async #runThenRecord<T>(step: Call, fn: StepFn<T>): Promise<T> {
    const startedAt = new Date().toISOString()
    let note: Note | undefined
    const tried = await this.#try(step, fn, {
      onWait: () => {
        note ??= this.#note(step)
      },
      beforeRetry: async (error) => note?.again(error),
    })
    note?.cancel()
    if ('error' in tried) return this.#fail<T>(step, tried, await note?.sent())
    try {
      const reply = await this.#untilFree(() =>
        this.#lease.call('recordStep', {
          params: { runId: this.#lease.runId },
          // A literal that spreads another would take ten times as long.
          body: Object.assign(this.#start(step), { output: tried.value, attempt: tried.attempt, startedAt }),
        }),
      )
      if (reply.action === 'recorded') return tried.value
      return recorded<T>(this.#settled(step, reply))
    } catch (error) {
      if (!isUnfit(error)) throw error
      return this.#fail<T>(step, { attempt: tried.attempt, error }, undefined)
    }
  }

  async #beginThenRun<T>(step: Call, fn: StepFn<T>): Promise<T> {
    const begun = await this.#beginReviewed(step)
    if (begun.action !== 'execute') return recorded<T>(this.#settled(step, begun))
    const stepId = begun.step.id
    const tried = await this.#try(step, fn, { beforeRetry: (error) => this.#begin(step, error) })
    if ('error' in tried) return this.#fail<T>(step, tried, stepId)
    try {
      await this.#lease.call('completeStep', {
        params: { runId: this.#lease.runId, stepId },
        body: { leaseOwner: this.#lease.owner, output: tried.value },
      })
      return tried.value
    } catch (error) {
      if (!isUnfit(error)) throw error
      return this.#fail<T>(step, { attempt: tried.attempt, error }, stepId)
    }
  }

  /** @param error what the try before failed with */
  #begin(step: Call, error?: unknown) {
    return this.#untilFree(() => this.#lease.call('beginStep', this.#beginning(step, error)))
  }

  #beginning(step: Call, error: unknown) {
    const lastError = error === undefined ? undefined : errorText(error)
    return {
      params: { runId: this.#lease.runId },
      body: { ...this.#start(step), lastError },
    }
  }

  /** Begins a step; where it waits for a decision the run does too, if it may. */
  async #beginReviewed(step: Call): Promise<CallReply<'beginStep'>> {
    for (;;) {
      try {
        return await this.#begin(step)
      } catch (error) {
        if (!(error instanceof ManualReviewError) || !this.#parking.allowed) throw error
        await this.#parking.until(error.stepId)
      }
    }
  }

  /** Records the failure and throws it, unless an output turns out to be recorded: that wins. */
  async #fail<T>(step: Call, failed: { attempt: number; error: unknown }, stepId: string | undefined): Promise<T> {
    this.#lease.check()
    const decision = resumeDecision(step.options)
    try {
      const begun = stepId === undefined ? await this.#begin(step) : undefined
      if (begun && begun.action !== 'execute') return recorded<T>(this.#settled(step, begun))
      await this.#lease.call('failStep', {
        params: { runId: this.#lease.runId, stepId: begun ? begun.step.id : (stepId ?? '') },
        body: {
          leaseOwner: this.#lease.owner,
          error: errorWithStack(failed.error),
          retryable: decision === 'safe_replay',
          resumeDecision: decision,
        },
      })
    } catch (error) {
      this.#lease.check()
      if (error instanceof InputMismatchError) throw error
      // What went wrong in the step matters more than that it could not be written down.
    }
    throw new StepError(step.name, failed.attempt, failed.error)
  }

  /** The recorded output of a step that is not ours to run, or the error that stands for the answer. */
  #settled(step: Call, reply: Exclude<CallReply<'beginStep'> | CallReply<'recordStep'>, { action: 'recorded' }>) {
    if (reply.action === 'return') return reply.output
    if (reply.action === 'cancelled') {
      this.#lease.lose(new RunCancelledError(this.#lease.runId))
      this.#lease.check()
    }
    if (reply.action === 'input_mismatch')
      throw new InputMismatchError(step.name, reply.expectedInputHash, reply.actualInputHash)
    throw new TidebaseError(`Step "${step.name}" was answered with "${reply.action}".`, {
      code: 'unexpected_answer',
      hint: 'Use an SDK and a server of the same release.',
    })
  }

  /** Repeats a call while another worker's lease of the step lives. It ends with that worker or with its lease. */
  async #untilFree<R extends { action: string }>(call: () => Promise<R>): Promise<R> {
    for (let attempt = 0; ; attempt++) {
      const reply = await call()
      if (reply.action !== 'locked') return reply
      await delay(backoff(attempt, 50, 1_000), this.#lease.signal)
    }
  }

  /** Tells the server, after a while and without waiting for it, that the step is running; and each further try of it. */
  #note(step: Call): Note {
    let sent: Promise<string | undefined> | undefined
    const tell = async (known?: string, error?: unknown) => {
      const call = { ...this.#beginning(step, error), retryForMs: 0, timeoutMs: 5_000 }
      // Only a courtesy: the record says everything again. Losing the run is noticed by the lease.
      const reply = await this.#lease.call('beginStep', call).catch(() => undefined)
      return reply?.action === 'execute' ? reply.step.id : known
    }
    const timer = setTimeout(() => {
      sent = tell()
    }, noteAfterMs)
    return {
      cancel: () => clearTimeout(timer),
      again: async (error) => {
        sent = sent?.then((known) => tell(known, error))
        await sent
      },
      sent: async () => sent,
    }
  }

  #start(step: Call) {
    const { name, hash, options } = step
    const leaseOwner = this.#lease.owner
    return { name, inputHash: hash, input: options.input, options: wireOptions(options), leaseOwner }
  }

  /**
   * Tries the function as often as it may be tried. Throws only what ended the run.
   *
   * @param hooks `onWait` is called when there is something to wait for, `beforeRetry` before the function runs again
   */
  async #try<T>(
    step: Call,
    fn: StepFn<T>,
    hooks: { onWait?: () => void; beforeRetry: (error: unknown) => Promise<unknown> },
  ): Promise<Tried<T>> {
    const { retries = 0, backoffMs = 500 } = step.options
    for (let attempt = 1; ; attempt++) {
      const scope = new Scope(this.#lease, step.name, step.options.idempotencyKey, attempt)
      try {
        const work = fn(scope)
        if (!isThenable(work)) return { attempt, value: work }
        hooks.onWait?.()
        return { attempt, value: await inTime(this.#lease, scope, work, step.options.timeoutMs) }
      } catch (error) {
        // Now, not after the pause: what the try still streams is of no use.
        scope.end()
        this.#lease.check()
        if (attempt > retries || property(error, 'retryable') === false) return { attempt, error }
        hooks.onWait?.()
        await delay(backoff(attempt - 1, backoffMs, Math.max(backoffMs, 30_000)), this.#lease.signal)
        await hooks.beforeRetry(error)
      } finally {
        scope.end()
      }
    }
  }
}

/** Tells, after a while, that a step is running. */
interface Note {
  cancel(): void
  /** Before another try. Of a step that nobody has heard of yet, the tries are not worth a write each. */
  again(error: unknown): Promise<void>
  /**
   * The step's id, where it was begun. A note that arrives after the step failed would show it running for ever; after a
   * record it is harmless.
   */
  sent(): Promise<string | undefined>
}

/** Whether the output itself is at fault: it cannot be recorded, however often that is tried. */
function isUnfit(error: unknown): boolean {
  const code = property(error, 'code')
  return code === 'not_json' || code === 'body_too_large' || code === 'invalid_body' || code === 'invalid_json'
}

/** The options as they are recorded: those of the resume contract and of retrying, and none when none are given. */
function wireOptions(options: StepOptions) {
  // Most steps have nothing else; to make the rest takes a while.
  if (Object.keys(options).every((name) => name === 'input' || name === 'each')) return undefined
  const { input: _, each: __, ...rest } = options
  return Object.values(rest).some((value) => value !== undefined) ? rest : undefined
}
