// Gates: a run asks a human and waits. The question and the decision are the server's; asking again by the same name,
// also after a crash, is the same question.
import type { BodyOf, Routes } from '@tidebase/wire'
import { RunCancelledError } from './errors.ts'
import type { Lease } from './lease.ts'
import type { Parking } from './parking.ts'
import { type Gate, recorded } from './types.ts'

/** What a gate shows, and what becomes of it when nobody answers. */
export interface GateOptions {
  /** Any JSON that helps to decide. */
  data?: unknown
  /** Webhooks told of this gate, beside the run's. */
  channels?: unknown
  /** What is asked for, such as `{ name: 'report.send' }`. For people. */
  capability?: unknown
  /** After so many milliseconds the server decides `onTimeout`, whether or not this program runs. */
  timeoutMs?: number
  /** `canceled` unless given. */
  onTimeout?: BodyOf<Routes['beginGate']>['onTimeout']
}

/** A decided gate. `Payload` is what the decider sent along. */
export interface GateDecision<Payload = unknown> {
  decision: 'approved' | 'rejected' | 'canceled'
  approved: boolean
  /** Who decided; `timeout` when nobody did. */
  actor: string | null
  payload: Payload
  gate: Gate
}

// Below the server's ceiling of 30 s, and below the idle limit of common proxies.
const pollMs = 25_000

/** The gates of one execution. */
export class Gates {
  readonly #lease: Lease
  readonly #parking: Parking

  constructor(lease: Lease, parking: Parking) {
    this.#lease = lease
    this.#parking = parking
  }

  /**
   * Opens a gate without waiting, or learns what became of it.
   *
   * @param name its name in the run
   * @param prompt the question, for people
   * @returns `action: 'return'` when it is decided already, else `'wait'`, and the gate
   */
  begin(name: string, prompt: string, options: GateOptions = {}): Promise<{ action: 'wait' | 'return'; gate: Gate }> {
    return this.#lease.call('beginGate', {
      params: { runId: this.#lease.runId },
      body: { name, prompt, ...options },
    })
  }

  /**
   * Reads a gate.
   *
   * @param gateId its id
   * @param options `waitMs`: answer when it is decided, or after so many milliseconds (at most 30,000)
   * @returns the gate and the run's status
   */
  get(gateId: string, options: { waitMs?: number } = {}) {
    return this.#lease.call('getGate', {
      params: { runId: this.#lease.runId, gateId },
      query: { waitMs: options.waitMs },
      timeoutMs: (options.waitMs ?? 0) + 30_000,
    })
  }

  /** Opens a gate and waits for the decision; see `RunContext.gate`. */
  async decide<Payload>(name: string, prompt: string, options: GateOptions): Promise<GateDecision<Payload>> {
    const { gate: begun } = await this.begin(name, prompt, options)
    const gate = isDecided(begun) ? begun : await this.#parking.during(begun.id, () => this.#decided(begun))
    return {
      decision: gate.status,
      approved: gate.status === 'approved',
      actor: gate.actor,
      payload: recorded<Payload>(gate.decisionPayload),
      gate,
    }
  }

  async #decided({ id }: Gate): Promise<Gate & { status: GateDecision['decision'] }> {
    for (;;) {
      const { gate, runStatus } = await this.get(id, { waitMs: pollMs })
      if (runStatus === 'cancelled') this.#lease.lose(new RunCancelledError(this.#lease.runId))
      this.#lease.check()
      if (isDecided(gate)) return gate
    }
  }
}

function isDecided(gate: Gate): gate is Gate & { status: GateDecision['decision'] } {
  return gate.status !== 'pending'
}
