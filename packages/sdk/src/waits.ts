// Waits: sleeping, and waiting for a signal. The server keeps time; a resumed run waits for what is left.
import { RunCancelledError } from './errors.ts'
import type { Lease } from './lease.ts'
import type { Parking } from './parking.ts'
import { recorded, type Wait } from './types.ts'

/** A signal that came. */
export interface ReceivedSignal<Payload = unknown> {
  payload: Payload
  /** ISO 8601 */
  receivedAt: string
}

// Below the server's ceiling of 30 s, and below the idle limit of common proxies.
const pollMs = 25_000

/** The waits of one execution. */
export class Waits {
  readonly #lease: Lease
  readonly #parking: Parking
  readonly #counts = new Map<string, number>()

  constructor(lease: Lease, parking: Parking) {
    this.#lease = lease
    this.#parking = parking
  }

  /** Sleeps; see `RunContext.sleep`. */
  async sleep(time: number | Date, name: string | undefined): Promise<void> {
    const when = typeof time === 'number' ? { delayMs: Math.max(0, Math.ceil(time)) } : { wakeAt: time.toISOString() }
    const { wait } = await this.#lease.call('createTimer', {
      params: { runId: this.#lease.runId },
      body: { name: name ?? this.#number('sleep'), ...when },
    })
    await this.#until(wait)
  }

  /** Waits for a signal; see `RunContext.waitForSignal`. */
  async signal<Payload>(name: string, timeoutMs: number | undefined): Promise<ReceivedSignal<Payload> | null> {
    const { wait } = await this.#lease.call('waitForSignal', {
      params: { runId: this.#lease.runId },
      body: { name: this.#number(name), signal: name, timeoutMs },
    })
    const over = await this.#until(wait)
    if (over.status === 'timed_out') return null
    return { payload: recorded<Payload>(over.payload), receivedAt: over.resolvedAt ?? over.createdAt }
  }

  /** Numbers follow the order of the calls, which a deterministic workflow repeats when it is resumed. */
  #number(name: string): string {
    const count = (this.#counts.get(name) ?? 0) + 1
    this.#counts.set(name, count)
    return `${name}#${count}`
  }

  async #until(begun: Wait): Promise<Wait> {
    if (begun.status !== 'pending') return begun
    return this.#parking.during(begun.id, async () => {
      for (;;) {
        const { wait, runStatus } = await this.#lease.call('getWait', {
          params: { runId: this.#lease.runId, waitId: begun.id },
          query: { waitMs: pollMs },
          timeoutMs: pollMs + 30_000,
        })
        if (runStatus === 'cancelled') this.#lease.lose(new RunCancelledError(this.#lease.runId))
        this.#lease.check()
        if (wait.status !== 'pending') return wait
      }
    })
  }
}
