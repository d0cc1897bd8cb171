// The client: one object a program makes at its start. It holds the address, the key and the registered workflows;
// it holds no connection and no timer, so there is nothing to close.
import { type BeginOptions, type Engine, type Workflow, type WorkflowFn, workflowFn } from './engine.ts'
import { TidebaseError } from './errors.ts'
import { resume, start } from './execute.ts'
import { Project } from './project.ts'
import { type EnqueueOptions, enqueue, Queues, Schedules } from './queues.ts'
import { Runs } from './runs.ts'
import type { Fetch } from './send.ts'
import { type FeedOptions, feed } from './subscribe.ts'
import { Transport } from './transport.ts'
import { type NewRunOptions, type Run, type RunEvent, recorded } from './types.ts'
import { type WebhookHandler, type WebhookOptions, webhook } from './webhook.ts'
import { type WorkOptions, work } from './worker.ts'

/** Where the server is and how to talk to it. */
export interface TidebaseOptions {
  /** TIDEBASE_URL, or http://127.0.0.1:7373, unless given. */
  url?: string
  /** TIDEBASE_API_KEY unless given. */
  apiKey?: string
  /** TIDEBASE_WEBHOOK_SECRET unless given. */
  webhookSecret?: string
  /** Used for every request. Unless given, Node's http client is, and the global `fetch` on other platforms. */
  fetch?: Fetch
  /**
   * How long a call is repeated while the server is away, in milliseconds; 120,000 unless given. A server that never
   * answered this client is given up after 3,000.
   */
  retryForMs?: number
  /** How long one try of a call may take, in milliseconds; 15,000 unless given. */
  timeoutMs?: number
  /**
   * Whether calls that are made at once may leave as one request; true unless given. It changes nothing but the speed:
   * with `false` each is a request of its own, which is easier to follow in a proxy's log.
   */
  coalesce?: boolean
}

/** What a run carries and how it is executed. */
export interface RunOptions<Input = unknown> extends NewRunOptions<Input>, BeginOptions {
  /** Resume this run rather than create one; input, metadata and the like are then those it was created with. */
  runId?: string
  /**
   * How long to wait while another worker holds the run, in milliseconds; 75,000 unless given, which is enough for the
   * lease of a crashed one to end. 0 throws RunLeasedError at once.
   */
  leaseWaitMs?: number
  /** Stops the execution: the attempt fails with class `aborted`, and the run may be resumed by its id. */
  signal?: AbortSignal
}

/**
 * A client of one Tidebase server.
 *
 * @example
 * const tide = new Tidebase()
 * const report = await tide.run('report', { input: { topic: 'tides' } }, async (run, input) => {
 *   const plan = await run.step('plan', () => makePlan(input.topic))
 *   return run.step('write', () => write(plan))
 * })
 */
export class Tidebase {
  /** Create, list, read, cancel, recover, follow and attach to runs. */
  readonly runs: Runs
  /** List and configure queues. */
  readonly queues: Queues
  /** Set, list and delete schedules. */
  readonly schedules: Schedules
  /** How long the project keeps its ended runs. */
  readonly project: Project
  readonly #engine: Engine
  readonly #workflows = new Map<string, WorkflowFn<unknown, unknown>>()
  readonly #webhookSecret: string | undefined

  /**
   * @param options address, key, secret; read from the environment unless given
   * @throws TidebaseError `invalid_url`, `invalid_api_key`
   */
  constructor(options: TidebaseOptions = {}) {
    const transport = new Transport({
      url: options.url ?? env('TIDEBASE_URL') ?? 'http://127.0.0.1:7373',
      apiKey: options.apiKey ?? env('TIDEBASE_API_KEY'),
      fetch: options.fetch,
      retryForMs: options.retryForMs ?? 120_000,
      timeoutMs: options.timeoutMs ?? 15_000,
      coalesce: options.coalesce ?? true,
    })
    this.#webhookSecret = options.webhookSecret ?? env('TIDEBASE_WEBHOOK_SECRET')
    const engine: Engine = {
      transport,
      workflows: this.#workflows,
      resume: (runId, fn, begin) => resume(engine, runId, fn, begin),
    }
    this.#engine = engine
    this.runs = new Runs(engine)
    this.queues = new Queues(transport)
    this.schedules = new Schedules(transport)
    this.project = new Project(transport)
  }

  /** Address of the server. */
  get url(): string {
    return this.#engine.transport.url
  }

  /**
   * Follows everything that happens in the project: the backlog, then live, also across restarts of the server. Ends
   * only with the loop or the signal.
   *
   * @param options after (the `id` of the last event seen, or `latest`), signal
   * @throws the signal's reason
   *
   * @example
   * for await (const event of tide.events({ after: 'latest' })) console.log(event.runId, event.type)
   */
  events(options: FeedOptions = {}): AsyncGenerator<RunEvent, void, undefined> {
    return feed(this.#engine.transport, options)
  }

  /**
   * Executes a run to its end. Without `runId` a new one is created; with it that one is resumed: completed steps are
   * not repeated, and a completed run gives its recorded result at once.
   *
   * @param name the workflow's name, or what `tide.workflow` returned
   * @param options runId, input, metadata, recoveryWebhook, channels, leaseOwner, leaseWaitMs, signal
   * @param fn the workflow; the registered one unless given
   * @returns what the workflow returned, or its recording
   * @throws what the workflow throws (StepError for a failed step); RunCancelledError, LeaseLostError, RunLeasedError
   *
   * @example await tide.run('report', { runId: process.argv[2] }, writeReport)
   */
  run<Output>(name: string, fn: WorkflowFn<unknown, Output>): Promise<Output>
  run<Input, Output>(name: string, options: RunOptions<Input>, fn: WorkflowFn<Input, Output>): Promise<Output>
  run<Input, Output>(workflow: Workflow<Input, Output>, options?: RunOptions<Input>): Promise<Output>
  run(name: string, options?: RunOptions): Promise<unknown>
  async run<Input, Output>(
    workflow: string | Workflow<Input, Output>,
    second?: RunOptions<Input> | WorkflowFn<Input, Output>,
    third?: WorkflowFn<Input, Output>,
  ): Promise<unknown> {
    const options = typeof second === 'function' ? {} : (second ?? {})
    const given =
      typeof second === 'function' ? second : (third ?? (typeof workflow === 'string' ? undefined : workflow.fn))
    const name = typeof workflow === 'string' ? workflow : workflow.name
    const registered = given ? undefined : workflowFn(this.#engine, name)
    const { runId, leaseOwner, leaseWaitMs = 75_000, signal, ...fresh } = options
    const begin = { leaseOwner, leaseWaitMs, signal }
    const execute = <I, O>(fn: WorkflowFn<I, O>) =>
      runId ? this.#engine.resume(runId, fn, begin) : start(this.#engine, name, fresh, fn, begin)
    if (runId) await this.#checkName(runId, name)
    if (given) return execute(given)
    return registered && execute(registered)
  }

  /** Asked before anything is begun: to execute a run with another workflow's code would spoil it. */
  async #checkName(runId: string, name: string): Promise<void> {
    const { run } = await this.runs.get(runId, { include: ['run'] })
    if (run.workflowName === name) return
    throw new TidebaseError(`Run ${runId} is of workflow "${run.workflowName}", not "${name}".`, {
      code: 'workflow_mismatch',
      hint: 'Check the run id, or run it as the workflow it is of.',
    })
  }

  /**
   * Registers a workflow, so that `work`, `webhook`, `run` and `run.child` can execute it by name.
   *
   * @param name its name; registering it again replaces it
   * @param fn gets the run and its input
   * @returns the workflow with its types, for `run`, `enqueue` and `run.child`
   *
   * @example
   * const digest = tide.workflow('digest', async (run, input: { day: string }) => { … })
   * await tide.enqueue(digest, { input: { day: '2026-07-01' } })
   */
  workflow<Input, Output>(name: string, fn: WorkflowFn<Input, Output>): Workflow<Input, Output> {
    // By name, the input's type is the word of whoever enqueues.
    this.#workflows.set(name, (run, input) => fn(run, recorded<Input>(input)))
    return { name, fn }
  }

  /**
   * Puts a run into a queue, for a worker to execute.
   *
   * @param workflow its name, or what `tide.workflow` returned
   * @param options queue, input, dedupeKey, delayMs, runAt, maxAttempts, priority, deadlineMs, metadata, …
   * @returns the run; `deduplicated` when an active run already has the dedupe key
   *
   * @example await tide.enqueue('digest', { queue: 'nightly', input: { day }, dedupeKey: day, maxAttempts: 5 })
   */
  enqueue<Input>(
    workflow: string | Workflow<Input, unknown>,
    options: EnqueueOptions<Input> = {},
  ): Promise<{ run: Run; deduplicated: boolean }> {
    return enqueue(this.#engine.transport, workflow, options)
  }

  /**
   * Works: claims queued runs and executes their registered workflows until the signal aborts. Outages and restarts of
   * the server are waited out. On the signal it stops claiming, lets what runs end within `graceMs`, then stops the rest
   * (a run with attempts left is queued again).
   *
   * @param options queues, concurrency, signal, graceMs, leaseOwner, waitMs, pollMs, onError: see WorkOptions
   * @returns when the worker has stopped
   * @throws TidebaseError when the server refuses to give work (a wrong key, for example)
   *
   * @example
   * const stop = new AbortController()
   * process.once('SIGTERM', () => stop.abort())
   * await tide.work({ queues: ['nightly'], concurrency: 4, signal: stop.signal })
   */
  work(options: WorkOptions = {}): Promise<void> {
    return work(this.#engine, options)
  }

  /**
   * A handler for the server's webhooks: it verifies the signature, answers 202 at once, and executes the registered
   * workflow afterwards.
   *
   * @param options waitUntil, onError, signal: see WebhookOptions
   * @returns `Request → Response`; errors are `{error, code, hint}` with 401, 404, 405, 413 or 422
   * @throws TidebaseError `webhook_secret_missing`
   *
   * @example export const POST = tide.webhook()
   */
  webhook(options: WebhookOptions = {}): WebhookHandler {
    return webhook(this.#engine, this.#webhookSecret, options)
  }
}

/** A variable of the environment; an empty one counts as absent. Some platforms have none. */
function env(name: string): string | undefined {
  return typeof process === 'undefined' ? undefined : process.env[name] || undefined
}
