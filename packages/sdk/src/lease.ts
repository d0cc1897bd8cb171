// A held run: who executes it, the heartbeat that keeps it, and the signal that tells when it is over.
//
//   held ──close()──────────────────────────▶ over        the execution ended by itself
//     ├────stop(reason)─────────────────────▶ over        told to stop from outside
//     └────lose(error)──────────────────────▶ over, lost  cancelled, taken over or parked
//
// Invariants: every write of an execution passes `call`; after `over` nothing more is sent; the first reason wins.
// Fencing is the server's: this only learns of it early and stops the work.
import { setMaxListeners } from 'node:events'
import { onAbort } from './abort.ts'
import type { CallName, CallReply, CallRequest } from './endpoints.ts'
import { LeaseLostError, RunCancelledError, RunParkedError, TidebaseError } from './errors.ts'
import { property } from './thrown.ts'
import type { Transport } from './transport.ts'
import type { Run } from './types.ts'

const longestBeatMs = 20_000
/** Calls that only wait, or keep the lease: an execution that makes no others is idle. */
const idleCalls = new Set<CallName>(['heartbeatRun', 'getGate', 'getWait', 'parkRun'])

/** The lease of one execution of a run. Heartbeats start with it and end with `close` or `stop`. */
export class Lease {
  readonly runId: string
  readonly owner: string
  /** Aborts when the execution is over, however it ends; `reason` tells why. */
  readonly signal: AbortSignal
  readonly #transport: Transport
  readonly #controller = new AbortController()
  readonly #lengthMs: number
  #timer: ReturnType<typeof setTimeout> | undefined
  #unwatch = () => {}
  // Asked several times a step, where the signal takes a microsecond to answer.
  #over = false
  #lost = false
  #busy = 0
  /** Over when the call that parks the run is: what others hear of the lease until then is its doing. */
  #leaving: Promise<unknown> = Promise.resolve()

  /**
   * @param transport the way to the server
   * @param runId the run
   * @param held who holds the lease, and how long it is (ms)
   * @param outer stops the execution from outside
   */
  constructor(
    transport: Transport,
    runId: string,
    { leaseOwner, leaseMs }: { leaseOwner: string; leaseMs: number },
    outer?: AbortSignal,
  ) {
    this.runId = runId
    this.owner = leaseOwner
    this.signal = this.#controller.signal
    this.#transport = transport
    this.#lengthMs = leaseMs
    // Steps in parallel may each listen, and many of them do so inside `fetch`, out of our hands.
    setMaxListeners(0, this.signal)
    this.#unwatch = onAbort(outer, () => this.stop(outer?.reason))
    this.#beatIn(this.#beatMs)
  }

  /** Whether the run belongs to somebody else now, or to nobody: nothing may be written about it. */
  get lost(): boolean {
    return this.#lost
  }

  /** Whether anything but waiting is under way. */
  get busy(): boolean {
    return this.#busy > 0
  }

  /** Counts as busy while `work` is under way. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    this.#busy++
    try {
      return await work()
    } finally {
      this.#busy--
    }
  }

  /** @throws the reason, when the execution is over */
  check(): void {
    if (this.#over) throw this.signal.reason
  }

  /**
   * Calls a route on behalf of this execution.
   *
   * @throws LeaseLostError or RunCancelledError when the server says so, and from then on at once
   */
  async call<N extends CallName>(name: N, request: CallRequest<N>): Promise<CallReply<N>> {
    this.check()
    const busy = idleCalls.has(name) ? 0 : 1
    this.#busy += busy
    try {
      return await this.#transport.call(name, request, request.signal ?? this.signal)
    } catch (error) {
      if (isLoss(error)) {
        if (name !== 'parkRun') await this.#leaving
        this.lose(error)
      }
      this.check()
      throw error
    } finally {
      this.#busy -= busy
    }
  }

  /**
   * Parks the run: gives it up until one of the things it waits for is over.
   *
   * @param waitingFor ids of gates and waits
   * @returns whether it is parked; then this execution has ended
   * @throws as `call`
   */
  leave(waitingFor: string[]): Promise<boolean> {
    const body = { leaseOwner: this.owner, waitingFor }
    const leaving = this.call('parkRun', { params: { runId: this.runId }, body }).then(({ action }) => {
      if (action !== 'parked') return false
      this.lose(new RunParkedError(this.runId))
      return true
    })
    this.#leaving = leaving.catch(() => {})
    return leaving
  }

  /** Ends the execution because the run is not ours any more; the first reason to end wins. */
  lose(error: unknown): void {
    this.#lost ||= !this.#over
    this.stop(error)
  }

  /** Ends the execution with a reason: the signal aborts and every call from now on throws it. */
  stop(reason: unknown): void {
    clearTimeout(this.#timer)
    this.#unwatch()
    this.#over = true
    this.#controller.abort(reason)
  }

  /** Ends the execution: it has said its last word. Work it left running is told to stop. */
  close(): void {
    this.stop(
      new TidebaseError(`The execution of run ${this.runId} has ended.`, {
        code: 'run_ended',
        hint: 'Await everything that the workflow starts before it returns.',
      }),
    )
  }

  get #beatMs(): number {
    return Math.min(this.#lengthMs / 3, longestBeatMs)
  }

  #beatIn(ms: number): void {
    if (!this.#over) this.#timer = setTimeout(() => void this.#beat(), ms)
  }

  async #beat(): Promise<void> {
    try {
      await this.call('heartbeatRun', {
        params: { runId: this.runId },
        body: { leaseOwner: this.owner },
        // The next beat is the repetition. Whoever takes over meanwhile does so by the server's clock, not by ours.
        retryForMs: 0,
        timeoutMs: Math.max(this.#lengthMs / 3, 1_000),
      })
      this.#beatIn(this.#beatMs)
    } catch {
      this.#beatIn(Math.min(this.#beatMs, Math.max(this.#lengthMs / 20, 50)))
    }
  }
}

/**
 * How long leases last, from one reply of the server: both times are of its clock, so ours may be wrong. An answer
 * without them counts as the default length.
 */
export function leaseLength(run: Pick<Run, 'leaseExpiresAt' | 'updatedAt'>): number {
  const ms = Date.parse(run.leaseExpiresAt ?? '') - Date.parse(run.updatedAt)
  return ms > 0 ? ms : 60_000
}

/** Whether the server's answer means that this execution may not write about its run any more. */
function isLoss(error: unknown): boolean {
  return (
    error instanceof LeaseLostError ||
    error instanceof RunCancelledError ||
    (error instanceof TidebaseError && property(error, 'code') === 'run_not_found')
  )
}
