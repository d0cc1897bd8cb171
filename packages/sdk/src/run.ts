// The run as its workflow sees it. Everything a workflow says to the server goes through its lease, so that a workflow
// whose run was cancelled or taken over can neither write nor wait.
import type { BodyOf, Routes } from '@tidebase/wire'
import { type ChildOptions, Children } from './children.ts'
import type { Engine, Workflow, WorkflowFn } from './engine.ts'
import { type FanoutFn, type FanoutOptions, fanout } from './fanout.ts'
import { type GateDecision, type GateOptions, Gates } from './gates.ts'
import { newUsageId } from './ids.ts'
import type { Lease } from './lease.ts'
import { Parking } from './parking.ts'
import { Snapshots, States } from './state.ts'
import { type StepOptions, Steps } from './steps.ts'
import { StreamWriter } from './streams.ts'
import type { StepFn } from './tries.ts'
import type { Checkpoint, ExecutedRun, Usage } from './types.ts'
import { type ReceivedSignal, Waits } from './waits.ts'

/** An entry for the usage ledger: kind, provider, model, tokens, costUsd, … */
export type UsageEntry = BodyOf<Routes['recordUsage']>

/** What a workflow function gets as its first argument. */
export class RunContext {
  /** `run_…` */
  readonly id: string
  readonly workflowName: string
  /** 1 for the first execution of the run, then one more for each. */
  readonly attempt: number
  readonly metadata: Record<string, unknown>
  /** Aborts when the run is cancelled, taken over, told to stop, or over. Pass it on to whatever takes long. */
  readonly signal: AbortSignal
  /** Versioned JSON that the run shows to the world while it works. */
  readonly state: States
  /** Labelled states of targets outside the run. */
  readonly snapshots: Snapshots
  /** Gates without waiting: `begin` and `get`. */
  readonly gates: Gates
  /** Child runs without executing them: `create`. */
  readonly children: Children
  readonly #lease: Lease
  readonly #steps: Steps
  readonly #waits: Waits

  /**
   * @param engine for child runs
   * @param lease the lease of this execution
   * @param run the run as begin or claim answered it
   * @param checkpoints the steps it has completed already
   * @param parkAfterMs see BeginOptions
   */
  constructor(
    engine: Engine,
    lease: Lease,
    run: ExecutedRun,
    checkpoints: readonly Checkpoint[],
    parkAfterMs?: number,
  ) {
    const parking = new Parking(lease, parkAfterMs)
    this.id = run.id
    this.workflowName = run.workflowName
    this.attempt = run.attempt
    this.metadata = run.metadata
    this.signal = lease.signal
    this.#lease = lease
    this.#steps = new Steps(lease, checkpoints, parking)
    this.state = new States(lease)
    this.snapshots = new Snapshots(lease)
    this.gates = new Gates(lease, parking)
    this.#waits = new Waits(lease, parking)
    this.children = new Children(engine, lease)
  }

  /**
   * Does a piece of work once: when the run is resumed, a completed step gives its recorded output without running.
   * Two calls with one name in one run are the same step; use `each` in loops. What the function returns is recorded
   * as JSON (undefined as null).
   *
   * A step without side effects (or with an `idempotencyKey`) may be repeated if the worker dies in the middle of it.
   * Say so when it may not: with `sideEffects` and no key the server asks a human before it is repeated.
   *
   * @param name its name in the run
   * @param options input, retries, timeoutMs, each, sideEffects, …: see StepOptions
   * @param fn the work; gets `{signal, attempt}`
   * @returns the function's value, or what was recorded of it
   * @throws StepError when the function threw and no retry is left; InputMismatchError when the step was recorded with
   *   another input; RunCancelledError or LeaseLostError when the run is not ours any more
   *
   * @example
   * const plan = await run.step('plan', () => makePlan(topic))
   * for (const page of pages) {
   *   await run.step('summarise', { each: true, input: page, retries: 3, timeoutMs: 60_000 }, ({ signal }) =>
   *     summarise(page, signal))
   * }
   * await run.step('send', { sideEffects: ['email.send'], idempotencyKey: `report:${id}` }, ({ idempotencyKey }) =>
   *   send(report, idempotencyKey))
   */
  step<T>(name: string, fn: StepFn<T>): Promise<T>
  step<T>(name: string, options: StepOptions, fn: StepFn<T>): Promise<T>
  step<T>(name: string, ...rest: [StepFn<T>] | [StepOptions, StepFn<T>]): Promise<T> {
    return this.#lease.during(() =>
      rest.length === 1 ? this.#steps.run(name, {}, rest[0]) : this.#steps.run(name, rest[0], rest[1]),
    )
  }

  /**
   * Runs a step for each item, a bounded number at a time. Item 1 is step `<name>#1`, and so on; an item is its step's
   * input. Items that fail do not stop the others unless `stopOnError`; a resumed run repeats only what failed.
   *
   * @param name the name the steps share
   * @param items what to work on
   * @param fn the work of one item
   * @param options concurrency (8), stopOnError, and the options of a step
   * @returns the outputs, in the order of the items
   * @throws FanoutError with all results when any item failed
   *
   * @example const pages = await run.fanout('fetch', urls, (url, { signal }) => get(url, signal), { concurrency: 4 })
   */
  fanout<Item, T>(
    name: string,
    items: Iterable<Item>,
    fn: FanoutFn<Item, T>,
    options?: FanoutOptions<Item>,
  ): Promise<T[]> {
    return this.#lease.during(() => fanout(this.#lease, this.#steps, name, items, fn, options))
  }

  /**
   * Asks a human and waits for the decision, however long that takes. Asking again after a crash is the same question.
   * In a run that came from a queue or a webhook a long wait holds no worker; see `sleep`.
   *
   * @param name its name in the run
   * @param prompt the question; the name unless given
   * @param options data, channels, capability, timeoutMs, onTimeout: see GateOptions
   * @returns the decision, who took it, and what they sent along
   * @throws RunCancelledError when the run is cancelled meanwhile
   *
   * @example
   * const { approved } = await run.gate('send-report', 'Send the report to the customer?', { data: { reportId } })
   */
  gate<Payload = unknown>(name: string, prompt = name, options: GateOptions = {}): Promise<GateDecision<Payload>> {
    return this.gates.decide<Payload>(name, prompt, options)
  }

  /**
   * Sleeps by the server's clock, also across crashes: a resumed run sleeps for what is left. In a run that came from a
   * queue or a webhook a long sleep holds no worker: after `parkAfterMs` in which everything waits the run is parked,
   * and executed again from its checkpoints when the time has come.
   *
   * @param time milliseconds, or a point in time
   * @param options `name` of the timer in the run; `sleep#1`, `sleep#2`, … unless given
   * @throws RunCancelledError when the run is cancelled meanwhile
   *
   * @example await run.sleep(7 * 24 * 3_600_000)
   */
  sleep(time: number | Date, options: { name?: string } = {}): Promise<void> {
    return this.#waits.sleep(time, options.name)
  }

  /**
   * Waits for the next signal of a name: `tide.runs.signal(id, name, payload)` sends one, also before anybody waits.
   * Signals are taken in the order they came, each once. Holds no worker, as `sleep`.
   *
   * @param name the signal's
   * @param options timeoutMs: how long to wait at most; without it, for ever
   * @returns the signal, or null when none came in time
   * @throws RunCancelledError when the run is cancelled meanwhile
   *
   * @example
   * for (;;) {
   *   const message = await run.waitForSignal<string>('message', { timeoutMs: 86_400_000 })
   *   if (!message) return 'nobody answered'
   *   await run.step('reply', { each: true, input: message.payload }, () => reply(message.payload))
   * }
   */
  waitForSignal<Payload = unknown>(
    name: string,
    options: { timeoutMs?: number } = {},
  ): Promise<ReceivedSignal<Payload> | null> {
    return this.#waits.signal<Payload>(name, options.timeoutMs)
  }

  /**
   * Executes a child run and waits for its result. The child is a run of its own, found again by its name when the
   * parent is resumed; a completed child gives its recorded result without executing. Cancelling the parent stops it.
   *
   * @param name the child's name in this run
   * @param workflow a registered workflow (what `tide.workflow` returned, or its name), or a function
   * @param options input, metadata, …
   * @returns the child's result
   * @throws what the child's workflow threw; RunCancelledError when the child was cancelled
   *
   * @example const flights = await run.child('flights', searchFlights, { input: { from, to } })
   */
  child<Input, Output>(
    name: string,
    workflow: Workflow<Input, Output> | WorkflowFn<Input, Output>,
    options?: ChildOptions<Input>,
  ): Promise<Output>
  child(name: string, workflow: string, options?: ChildOptions): Promise<unknown>
  child<Input, Output>(
    name: string,
    workflow: string | Workflow<Input, Output> | WorkflowFn<Input, Output>,
    options: ChildOptions<Input> = {},
  ): Promise<unknown> {
    return this.#lease.during(() => this.children.execute(name, workflow, options))
  }

  /**
   * A stream of text for those who watch the run, such as an answer that is being written. A step's function has one of
   * its own, `stream(chunk)`; this is for everything else. It lives until the run ends.
   *
   * @param name its name in the run; starts over when the name was used before
   *
   * @example
   * const answer = run.stream('answer')
   * for await (const token of tokens) answer.write(token)
   * await answer.close()
   */
  stream(name: string): StreamWriter {
    return new StreamWriter(this.#lease, name)
  }

  /**
   * Writes an entry into the run's ledger, once even when its acknowledgement is lost. Call it inside the step that
   * caused the cost: then a resumed run, which does not run the step again, does not count it again.
   *
   * @param entry tokens and dollars are numbers; `totalTokens` is input plus output unless given
   *
   * @example await run.usage({ kind: 'llm', model, inputTokens: 1_200, outputTokens: 420, costUsd: 0.012 })
   */
  async usage(entry: UsageEntry): Promise<Usage> {
    const body = { ...entry, id: entry.id ?? newUsageId() }
    return (await this.#lease.call('recordUsage', { params: { runId: this.id }, body })).usage
  }
}
