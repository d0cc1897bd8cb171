// Parking: an execution in which everything waits gives its run up, so that a week's wait holds no worker.
//
//   waiting, nothing else under way for a while ─▶ park ─▶ parked: this execution is over, whatever ends the wait
//        ▲                                          │      starts another, which replays to the same place
//        └──── something else began, or over ◀──────┘
//
// The workflow function of a parked run is left where it stands, for good: its promises never settle, so that no
// `catch` of its takes parking for a failure. What it had open outside of steps is garbage then.
import { RunParkedError } from './errors.ts'
import type { Lease } from './lease.ts'

/** How long everything must have waited, ms: a decision or a signal that comes soon spares a replay. */
export const defaultParkAfterMs = 2_000

/** What is waited for in one execution. */
export class Parking {
  readonly #lease: Lease
  readonly #afterMs: number | undefined
  readonly #waitingFor = new Map<string, number>()
  #timer: ReturnType<typeof setTimeout> | undefined

  /** @param afterMs see BeginOptions */
  constructor(lease: Lease, afterMs: number | undefined) {
    this.#lease = lease
    this.#afterMs = afterMs
    lease.signal.addEventListener('abort', () => clearTimeout(this.#timer), { once: true })
  }

  /** Whether this execution may end by parking. */
  get allowed(): boolean {
    return this.#afterMs !== undefined
  }

  /**
   * Waits, or parks the run.
   *
   * @param id what is waited for: a gate or a wait
   * @param wait long-polls until that is over
   */
  async during<T>(id: string, wait: () => Promise<T>): Promise<T> {
    this.#waitingFor.set(id, (this.#waitingFor.get(id) ?? 0) + 1)
    this.#arm()
    try {
      return await wait()
    } catch (error) {
      if (error instanceof RunParkedError) return await new Promise<never>(() => {})
      throw error
    } finally {
      const others = (this.#waitingFor.get(id) ?? 1) - 1
      if (others > 0) this.#waitingFor.set(id, others)
      else this.#waitingFor.delete(id)
    }
  }

  /**
   * Parks until something that cannot be polled is over, such as a review.
   *
   * @returns when it is over already; never when the run is parked
   */
  async until(id: string): Promise<void> {
    this.#waitingFor.set(id, 1)
    try {
      if (await this.#park()) await new Promise<never>(() => {})
    } finally {
      this.#waitingFor.delete(id)
    }
  }

  #arm(): void {
    if (this.#afterMs === undefined || this.#lease.signal.aborted) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => void this.#attempt(), this.#afterMs)
  }

  async #attempt(): Promise<void> {
    if (this.#waitingFor.size === 0) return
    // What cannot be parked now is tried again as long as it waits.
    if (this.#lease.busy || !(await this.#park().catch(() => false))) this.#arm()
  }

  #park(): Promise<boolean> {
    return this.#lease.leave([...this.#waitingFor.keys()])
  }
}
