// Ids made by the client: what is created under an id of ours is created once, however often the call is repeated.
import { randomUUID } from 'node:crypto'

/**
 * A new run id: `run_` and a UUIDv7 without dashes, so that ids sort by time.
 *
 * @returns for example `run_019a2f6c0d7b7c3e9b1f4a5d6e7f8091`
 */
export function newRunId(): string {
  return `run_${uuid7()}`
}

/** A new id for an entry of the usage ledger. */
export function newUsageId(): string {
  return `use_${uuid7()}`
}

function uuid7(): string {
  const random = randomUUID().replaceAll('-', '')
  return `${Date.now().toString(16).padStart(12, '0')}7${random.slice(13)}`
}

/**
 * A name for a lease that nobody else uses. Each execution takes its own: if one process loses a run and gets it back,
 * the fence must still tell the old execution from the new one.
 *
 * @param prefix what people should see, such as `worker`
 */
export function newOwner(prefix: string): string {
  return `${prefix}-${randomUUID().slice(0, 8)}${randomUUID().slice(0, 4)}`
}
