// Which replica gets a request: the healthy one with the fewest requests under way; of equals, any.
import type { Replica } from '../replicas.ts'

/** The least loaded of `replicas` but those in `except`; undefined when there is none. */
export function choose(replicas: readonly Replica[], except?: Replica): Replica | undefined {
  let best: Replica | undefined
  let ties = 1
  for (const replica of replicas) {
    if (replica === except) continue
    if (!best || replica.inFlight < best.inFlight) {
      best = replica
      ties = 1
    } else if (replica.inFlight === best.inFlight && Math.random() * ++ties < 1) best = replica
  }
  return best
}
