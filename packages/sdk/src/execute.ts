// Executions: from a begun run to its recorded end. `run`, `work`, `webhook`, `child` and `attach` all pass here.
//
//   begin ─▶ completed before: its result
//     └────▶ held: workflow function, heartbeats ─▶ returned  ─▶ complete
//                                                ├▶ threw      ─▶ fail
//                                                ├▶ told to stop ─▶ fail (`aborted`), so that the lease is free at once
//                                                └▶ lost, cancelled, parked ─▶ nothing is written
import { backoff, delay } from './abort.ts'
import type { BeginOptions, Engine, WorkflowFn } from './engine.ts'
import { LeaseLostError, RunCancelledError, RunLeasedError, TidebaseError } from './errors.ts'
import { newOwner, newRunId } from './ids.ts'
import { Lease, leaseLength } from './lease.ts'
import { RunContext } from './run.ts'
import { errorText, failureClassOf, property } from './thrown.ts'
import { type Checkpoint, type ExecutedRun, type NewRunOptions, type Run, recorded } from './types.ts'

/** A run with the right to execute it. */
export interface Held {
  run: ExecutedRun
  leaseOwner: string
  leaseMs: number
  checkpoints: readonly Checkpoint[]
}

/** The name of a lease's owner. @throws TidebaseError `invalid_lease_owner` */
function ownerOf({ leaseOwner: owner = newOwner('sdk') }: BeginOptions): string {
  if (/^[\x20-\x7e]{1,300}$/.test(owner)) return owner
  throw new TidebaseError(`"${owner}" cannot name a lease.`, {
    code: 'invalid_lease_owner',
    hint: 'Use 1 to 300 printable ASCII characters.',
  })
}

/**
 * Creates a run, begins it in the same call, and executes it.
 *
 * @throws what the workflow throws, and as `begin`
 */
export async function start<Input, Output>(
  engine: Engine,
  workflowName: string,
  fresh: NewRunOptions,
  fn: WorkflowFn<Input, Output>,
  options: BeginOptions,
): Promise<Output> {
  const leaseOwner = ownerOf(options)
  const created = await engine.transport.call('createRun', {
    params: { workflowName },
    body: { ...fresh, id: newRunId(), begin: { leaseOwner } },
    signal: options.signal,
  })
  // Without an owner the call was repeated, or the server is older than this.
  if (created.leaseOwner === undefined) return resume(engine, created.run.id, fn, { ...options, leaseOwner })
  const { run } = created
  return execute(engine, { run, leaseOwner, leaseMs: leaseLength(run), checkpoints: [] }, fn, options)
}

/**
 * Begins a run.
 *
 * @returns the held run; or, when it is completed, the run alone
 * @throws RunLeasedError while another worker holds it; RunCancelledError
 */
export async function begin(
  engine: Engine,
  runId: string,
  options: BeginOptions,
): Promise<(Held & { run: Run }) | { done: Run }> {
  const owner = ownerOf(options)
  const patience = options.leaseWaitMs ?? 0
  const started = performance.now()
  for (let attempt = 0; ; attempt++) {
    try {
      const { run, leaseOwner, checkpoints } = await engine.transport.call('beginRun', {
        params: { runId },
        query: { include: 'checkpoints' },
        headers: { 'x-tidebase-worker': owner },
        signal: options.signal,
        // A long history is a long answer.
        timeoutMs: 120_000,
      })
      if (run.status === 'completed') return { done: run }
      return { run, leaseOwner: leaseOwner ?? owner, leaseMs: leaseLength(run), checkpoints: checkpoints ?? [] }
    } catch (error) {
      const left = started + patience - performance.now()
      if (!(error instanceof RunLeasedError) || left <= 0) throw error
      await delay(Math.min(backoff(attempt, 100, 1_000), left), options.signal)
    }
  }
}

/**
 * Begins a run and executes it; a completed one gives its recorded result.
 *
 * @throws what the workflow throws, and as `begin`
 */
export async function resume<Input, Output>(
  engine: Engine,
  runId: string,
  fn: WorkflowFn<Input, Output>,
  options: BeginOptions,
): Promise<Output> {
  const begun = await begin(engine, runId, options)
  if ('done' in begun) return recorded<Output>(begun.done.result)
  return execute(engine, begun, fn, options)
}

/**
 * Executes a held run to its end and records that end.
 *
 * @param options `signal` stops the execution: it fails with class `aborted` and the signal's reason is thrown;
 *   `parkAfterMs` lets it end while the run waits
 * @returns the workflow's value
 * @throws what the workflow throws; RunCancelledError or LeaseLostError when the run is not ours any more;
 *   RunParkedError
 */
export async function execute<Input, Output>(
  engine: Engine,
  held: Held,
  fn: WorkflowFn<Input, Output>,
  { signal, parkAfterMs }: Pick<BeginOptions, 'signal' | 'parkAfterMs'>,
): Promise<Output> {
  const lease = new Lease(engine.transport, held.run.id, held, signal)
  try {
    const context = new RunContext(engine, lease, held.run, held.checkpoints, parkAfterMs)
    const result = await unlessStopped(lease, () => fn(context, recorded<Input>(held.run.input)))
    await complete(engine, lease, held.run, result)
    return result
  } catch (error) {
    // Looked at before: once the failure is recorded, a heartbeat finds the lease given back and takes that for a loss.
    const thrown = lease.lost ? lease.signal.reason : error
    if (!lease.lost) await fail(engine, lease, error)
    throw thrown
  } finally {
    lease.close()
  }
}

/** The workflow's outcome, or the reason to stop, whichever is first: a function that ignores its signal is left behind. */
function unlessStopped<T>(lease: Lease, work: () => T | Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    lease.signal.addEventListener('abort', () => reject(lease.signal.reason), { once: true })
    lease.check()
    Promise.resolve(work()).then(resolve, reject)
  })
}

/**
 * Records the result.
 *
 * @throws RunCancelledError, LeaseLostError, or why it cannot be recorded
 */
export async function complete(engine: Engine, lease: Lease, run: ExecutedRun, result: unknown): Promise<void> {
  try {
    const reply = await lease.call('completeRun', {
      params: { runId: run.id },
      body: { result, leaseOwner: lease.owner, brief: true },
    })
    // A server that is older than `brief` answers with the run.
    const { status } = 'run' in reply ? reply.run : reply
    if (status === 'cancelled') lease.lose(new RunCancelledError(run.id))
    lease.check()
  } catch (error) {
    // A heartbeat that was under way finds the lease given back and stops everything, this call too, before its answer
    // is read. The attempt tells whether the completion was ours.
    if (!(error instanceof LeaseLostError)) throw error
    const { run: now } = await engine.transport.call('getRun', { params: { runId: run.id }, query: { include: 'run' } })
    if (now.status !== 'completed' || now.attempt !== run.attempt) throw error
  }
}

/** Records the failure, if that can be done; the error itself is the caller's to throw. */
export async function fail(engine: Engine, lease: Lease, error: unknown): Promise<void> {
  const aborted = lease.signal.aborted
  try {
    await engine.transport.call('failRun', {
      params: { runId: lease.runId },
      body: {
        error: errorText(error),
        failureClass: failureClassOf(error) ?? (aborted ? 'aborted' : undefined),
        leaseOwner: lease.owner,
      },
      // When the server is away its lease ends by itself; who stops wants to stop.
      ...(aborted || property(error, 'code') === 'unreachable' ? { retryForMs: 3_000, timeoutMs: 3_000 } : {}),
    })
  } catch {
    // Taken over, cancelled, or out of reach: then the reconciler, or who took over, has the last word.
  }
}
