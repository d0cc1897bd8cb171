// Runs, seen from outside: create, look, steer, follow. Executing them is `tide.run`, `tide.work`, `tide.webhook` and,
// for sessions that have no function to wrap, `attach`.
import type { BodyOf, Routes } from '@tidebase/wire'
import { onAbort } from './abort.ts'
import type { CallReply } from './endpoints.ts'
import type { BeginOptions, Engine } from './engine.ts'
import { TidebaseError } from './errors.ts'
import { begin, complete, fail } from './execute.ts'
import { newRunId } from './ids.ts'
import { Lease } from './lease.ts'
import { RunContext } from './run.ts'
import { ended, type SubscribeOptions, stillRunning, subscribe } from './subscribe.ts'
import {
  type Gate,
  type NewRunOptions,
  type RecoveryAttempt,
  type Run,
  type RunDetail,
  type RunEvent,
  type RunStatus,
  recorded,
  type Signal,
  type Step,
} from './types.ts'

/** Which runs to list. */
export interface ListOptions {
  status?: RunStatus
  workflow?: string
  queue?: string
  /** Part of the workflow's name, or the start of a run id. */
  search?: string
  /** Metadata keys and the values they must have. */
  metadata?: Record<string, string>
  /** `nextCursor` of the page before: older runs. */
  before?: string
  /** A run id or cursor: newer runs. */
  after?: string
  /** 1 to 500; 100 unless given. */
  limit?: number
}

/** A run held by this program without a workflow function around it. */
export interface Attached<Input> {
  run: RunContext
  input: Input
  /** Ends the run with its result. */
  complete(result?: unknown): Promise<void>
  /** Ends the attempt with an error. */
  fail(error: unknown): Promise<void>
  /** Lets go without an end: the lease runs out and the run may be resumed. */
  detach(): void
}

/** Operations on runs. */
export class Runs {
  readonly #engine: Engine

  constructor(engine: Engine) {
    this.#engine = engine
  }

  /**
   * Creates a run; it is `pending` until something begins it. Repeating the call with one `id` makes one run.
   *
   * @param workflowName what it executes
   * @param options input, metadata, recoveryWebhook, channels; id: `newRunId()` unless given
   */
  async create(workflowName: string, options: NewRunOptions & { id?: string } = {}): Promise<Run> {
    const body = { ...options, id: options.id ?? newRunId() }
    return (await this.#engine.transport.call('createRun', { params: { workflowName }, body })).run
  }

  /**
   * Lists runs, newest first, a page at a time.
   *
   * @param options filters; see ListOptions
   * @returns a page, and the cursor for `before` (null on the last page)
   */
  list(options: ListOptions = {}): Promise<{ runs: Run[]; nextCursor: string | null }> {
    const { metadata = {}, ...filters } = options
    const byMetadata = Object.entries(metadata).map(([key, value]) => [`metadata.${key}`, value])
    return this.#engine.transport.call('listRuns', { query: { ...filters, ...Object.fromEntries(byMetadata) } })
  }

  /**
   * A run with its history.
   *
   * @param runId its id
   * @param options `include` names the parts wanted (all unless given); events come a page at a time (`eventsAfter`,
   *   `eventsLimit`), and so do steps with `stepsLimit` (`stepsAfter`: `nextStepsAfter` of the page before)
   * @throws TidebaseError `run_not_found`
   */
  get(
    runId: string,
    options: {
      include?: string[]
      eventsAfter?: number
      eventsLimit?: number
      stepsAfter?: number
      stepsLimit?: number
    } = {},
  ): Promise<RunDetail> {
    const query = { ...options, include: options.include?.join(',') }
    return this.#engine.transport.call('getRun', { params: { runId }, query })
  }

  /**
   * Cancels a run at once and for good. Repeating it changes nothing.
   *
   * @param options reason and actor, for people
   * @throws TidebaseError `run_completed`
   */
  async cancel(runId: string, options: { reason?: string; actor?: string } = {}): Promise<Run> {
    return (await this.#engine.transport.call('cancelRun', { params: { runId }, body: options })).run
  }

  /**
   * Puts a failed run back: queued again at once, or pending without a queue. Completed steps are not repeated.
   *
   * @param options actor, for people
   * @throws TidebaseError `run_not_failed`, `dedupe_conflict`
   */
  async retry(runId: string, options: { actor?: string } = {}): Promise<Run> {
    return (await this.#engine.transport.call('retryRun', { params: { runId }, body: options })).run
  }

  /**
   * Makes a new run that starts with the completed steps and the state of another.
   *
   * @param options fromStep: name of the first step that runs again (none unless given); stateVersion; input
   * @throws TidebaseError `step_not_found`, `state_not_found`
   * @example const { id } = await tide.runs.fork(runId, { fromStep: 'write' }); await tide.run('report', { runId: id }, write)
   */
  async fork(runId: string, options: { fromStep?: string; stateVersion?: number; input?: unknown } = {}): Promise<Run> {
    const body = { ...options, id: newRunId() }
    return (await this.#engine.transport.call('forkRun', { params: { runId }, body })).run
  }

  /**
   * The gates of all runs that wait for a decision, oldest first, a page at a time.
   *
   * @param options after: `nextCursor` of the page before; limit: 100 unless given
   */
  inbox(options: { after?: string; limit?: number } = {}): Promise<CallReply<'listGates'>> {
    return this.#engine.transport.call('listGates', { query: options })
  }

  /**
   * Sums of the project's usage.
   *
   * @param options groupBy: workflow, model, provider or day (unless given); from, to (exclusive)
   */
  async usage(
    options: { groupBy?: 'workflow' | 'model' | 'provider' | 'day'; from?: Date; to?: Date } = {},
  ): Promise<CallReply<'sumUsage'>['sums']> {
    const query = { groupBy: options.groupBy, from: options.from?.toISOString(), to: options.to?.toISOString() }
    return (await this.#engine.transport.call('sumUsage', { query })).sums
  }

  /**
   * Asks the run's recovery webhook to resume it.
   *
   * @throws TidebaseError `no_recovery_webhook`
   */
  async recover(runId: string, options: { reason?: string } = {}): Promise<RecoveryAttempt> {
    return (await this.#engine.transport.call('recoverRun', { params: { runId }, body: options })).recoveryAttempt
  }

  /**
   * Decides a gate, exactly once.
   *
   * @param decision approved, rejected or canceled; token (may be left out with an admin key), actor, payload
   * @throws TidebaseError `gate_resolved`, `gate_token`
   */
  async resolveGate(runId: string, gateId: string, decision: BodyOf<Routes['resolveGate']>): Promise<Gate> {
    return (await this.#engine.transport.call('resolveGate', { params: { runId, gateId }, body: decision })).gate
  }

  /**
   * Sends a signal to a run, once also when the acknowledgement is lost. It is kept until the run waits for it.
   *
   * @param name what the run waits for with `run.waitForSignal(name)`
   * @param payload any JSON
   * @param options idempotencyKey: a second call with the same key sends nothing
   * @throws TidebaseError `run_completed`; RunCancelledError
   */
  async signal(
    runId: string,
    name: string,
    payload?: unknown,
    options: { idempotencyKey?: string } = {},
  ): Promise<Signal> {
    const body = { name, payload, idempotencyKey: options.idempotencyKey ?? newRunId() }
    return (await this.#engine.transport.call('sendSignal', { params: { runId }, body })).signal
  }

  /**
   * Decides about a step whose worker died in the middle of it, exactly once; see ManualReviewError.
   *
   * @param decision `retry`, `complete` with its `output`, or `fail`; actor
   * @throws TidebaseError `step_not_in_review`
   */
  async resolveStep(runId: string, stepId: string, decision: BodyOf<Routes['resolveStep']>): Promise<Step> {
    return (await this.#engine.transport.call('resolveStep', { params: { runId, stepId }, body: decision })).step
  }

  /**
   * Follows a run's events: the backlog, then live, also across restarts of the server. Ends with the run.
   *
   * @param options after (seq), signal, follow
   * @throws the signal's reason; TidebaseError `run_not_found`
   *
   * @example
   * for await (const event of tide.runs.subscribe(id)) console.log(event.seq, event.type)
   */
  subscribe(runId: string, options: SubscribeOptions = {}): AsyncGenerator<RunEvent, void, undefined> {
    return subscribe(this.#engine.transport, runId, options)
  }

  /**
   * Waits until a run has ended.
   *
   * @param options signal; timeoutMs (no limit unless given)
   * @returns the completed, failed or cancelled run
   * @throws TidebaseError `wait_timeout`; the signal's reason
   */
  async wait(runId: string, options: { signal?: AbortSignal; timeoutMs?: number } = {}): Promise<Run> {
    const { signal, timeoutMs } = options
    const stop = new AbortController()
    const unwatch = onAbort(signal, () => stop.abort(signal?.reason))
    const timer =
      timeoutMs === undefined ? undefined : setTimeout(() => stop.abort(stillRunning(runId, timeoutMs)), timeoutMs)
    try {
      for await (const event of this.subscribe(runId, { signal: stop.signal, follow: true })) {
        if (!ended.has(event.type.replace('run.', ''))) continue
        const { run } = await this.get(runId, { include: ['run'] })
        if (ended.has(run.status)) return run
      }
      throw stop.signal.reason
    } finally {
      clearTimeout(timer)
      unwatch()
    }
  }

  /**
   * Begins a run without a function around the work: for sessions that outlive a call. Heartbeats go on until
   * `complete`, `fail` or `detach`.
   *
   * @param runId the run
   * @param options leaseOwner, leaseWaitMs (0), signal
   * @returns the run context, the input, and the three ways to end
   * @throws RunLeasedError, RunCancelledError, TidebaseError `run_completed`
   *
   * @example
   * const { run, complete } = await tide.runs.attach(id)
   * const reply = await run.step('reply', () => answer(message))
   * await complete(reply)
   */
  async attach<Input = unknown>(runId: string, options: BeginOptions = {}): Promise<Attached<Input>> {
    const engine = this.#engine
    const begun = await begin(engine, runId, options)
    if ('done' in begun)
      throw new TidebaseError(`Run ${runId} is already completed.`, {
        status: 409,
        code: 'run_completed',
        hint: 'Its result is in tide.runs.get(runId).run.result.',
      })
    const lease = new Lease(engine.transport, begun.run.id, begun, options.signal)
    return {
      run: new RunContext(engine, lease, begun.run, begun.checkpoints),
      input: recorded<Input>(begun.run.input),
      complete: (result) => complete(engine, lease, begun.run, result).finally(() => lease.close()),
      fail: (error) => fail(engine, lease, error).finally(() => lease.close()),
      detach: () => lease.close(),
    }
  }
}
