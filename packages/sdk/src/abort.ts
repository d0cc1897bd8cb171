// Abort signals and waiting. Invariant: whatever is set up here is taken down again, by the caller or by the signal.

const watchers = new WeakMap<AbortSignal, Set<() => void>>()

/**
 * Calls back when a signal aborts; at once when it already has. However many callbacks there are, the signal gets one
 * listener: a worker's signal may serve hundreds of runs, and Node warns from eleven listeners on.
 *
 * @param signal the signal, or nothing to watch
 * @param callback a function of its own for each call
 * @returns takes the callback away again
 */
export function onAbort(signal: AbortSignal | undefined, callback: () => void): () => void {
  if (!signal) return () => undefined
  if (signal.aborted) {
    callback()
    return () => undefined
  }
  let callbacks = watchers.get(signal)
  if (!callbacks) {
    const all = new Set<() => void>()
    callbacks = all
    watchers.set(signal, all)
    signal.addEventListener('abort', () => [...all].forEach((each) => void each()), { once: true })
  }
  const mine = callbacks
  mine.add(callback)
  return () => void mine.delete(callback)
}

/**
 * Waits.
 *
 * @param ms how long, in milliseconds
 * @param signal ends the wait early
 * @throws the signal's reason when it aborts
 */
export function delay(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      unwatch()
      resolve()
    }, ms)
    const unwatch = onAbort(signal, () => {
      clearTimeout(timer)
      reject(signal?.reason)
    })
  })
}

/**
 * How long to wait before the next try: doubling from `base`, at most `cap`, less up to half at random so that many
 * callers who failed together do not come back together.
 *
 * @param attempt failed tries so far, from 0
 * @param base milliseconds before the first repetition
 * @param cap most milliseconds
 */
export function backoff(attempt: number, base = 100, cap = 5_000): number {
  return Math.min(base * 2 ** Math.min(attempt, 30), cap) * (0.5 + Math.random() / 2)
}
