// Fanout: one step per item, a bounded number at a time, results in the order of the items.
//
// When items fail, the others still run to their end (unless `stopOnError`), so that as much as possible is recorded;
// then a FanoutError with all results is thrown. A resumed run repeats only what is not recorded.
import { FanoutError, TidebaseError } from './errors.ts'
import type { Lease } from './lease.ts'
import type { StepOptions, Steps } from './steps.ts'
import type { StepContext } from './tries.ts'

/** How the items run. The step options apply to each of them. */
export interface FanoutOptions<Item> extends Omit<StepOptions, 'input' | 'idempotencyKey'> {
  /** How many run at a time; 8 unless given. */
  concurrency?: number
  /** Start no more items once one has failed. Those that run are waited for. */
  stopOnError?: boolean
  /** The recorded and hashed input of an item's step; the item itself unless given. */
  input?: (item: Item, index: number) => unknown
  idempotencyKey?: (item: Item, index: number) => string
}

/** The work of one item. */
export type FanoutFn<Item, T> = (item: Item, step: StepContext & { index: number }) => T | Promise<T>

/** Runs a step per item; see `RunContext.fanout`. */
export async function fanout<Item, T>(
  lease: Lease,
  steps: Steps,
  name: string,
  items: Iterable<Item>,
  fn: FanoutFn<Item, T>,
  options: FanoutOptions<Item> = {},
): Promise<T[]> {
  const { concurrency = 8, stopOnError, input, idempotencyKey, each, ...shared } = options
  if (!Number.isInteger(concurrency) || concurrency < 1)
    throw new RangeError(`concurrency must be a whole number from 1, not ${concurrency}`)
  const base = each ? steps.number(name) : name
  const all = [...items]
  const results: PromiseSettledResult<T>[] = []
  const queue = all.entries()
  let stopped = false
  const lane = async () => {
    for (const [index, item] of queue) {
      if (stopped) {
        results[index] = { status: 'rejected', reason: notStarted(base) }
        continue
      }
      const stepOptions = {
        ...shared,
        input: input ? input(item, index) : item,
        idempotencyKey: idempotencyKey?.(item, index),
      }
      try {
        const value = await steps.run(`${base}#${index + 1}`, stepOptions, (step) => fn(item, { ...step, index }))
        results[index] = { status: 'fulfilled', value }
      } catch (reason) {
        lease.check()
        results[index] = { status: 'rejected', reason }
        stopped = stopOnError === true
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(concurrency, all.length) }, lane))
  const values = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
  if (values.length < all.length) throw new FanoutError(base, results)
  return values
}

function notStarted(name: string): TidebaseError {
  return new TidebaseError(`Not started: another item of "${name}" failed first.`, {
    code: 'fanout_stopped',
    hint: 'Begin the run again to run it.',
    retryable: true,
  })
}
