// Ids made by the client. A run's id is chosen here so that repeating a create makes one run.
import { randomUUID } from 'node:crypto'

/**
 * A new run id: `run_` and a UUIDv7 without dashes, so that ids sort by time.
 *
 * @returns for example `run_019a2f6c0d7b7c3e9b1f4a5d6e7f8091`
 */
export function newRunId(): string {
  const random = randomUUID().replaceAll('-', '')
  return `run_${Date.now().toString(16).padStart(12, '0')}7${random.slice(13)}`
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
