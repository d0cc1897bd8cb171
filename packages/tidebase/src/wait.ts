// Long-polls: look, and look again when woken, until there is enough or the time is up.

/** How often a waiter looks although nothing woke it, because a notification may have been lost, ms. */
export const slowPollMs = 5_000

/**
 * Looks until there is enough or the time is up; the last look is the answer either way.
 *
 * @param options.look reads what is waited for
 * @param options.enough whether that may be answered at once
 * @param options.subscribe registers a wake-up and returns its removal
 * @param options.waitMs how long to wait at most, ms; 0 looks once
 * @param options.signals each ends the wait (the client went away, the server stops): the last look is answered
 * @param options.againMs when to look again although nothing woke it, ms, from what was seen; `slowPollMs` unless given
 */
export async function waitFor<T>({
  look,
  enough,
  subscribe,
  waitMs,
  signals,
  againMs = () => slowPollMs,
}: {
  look: () => Promise<T>
  enough: (seen: T) => boolean
  subscribe: (wake: () => void) => () => void
  waitMs: number
  signals: readonly AbortSignal[]
  againMs?: (seen: T) => number
}): Promise<T> {
  if (waitMs <= 0) return look()
  const deadline = performance.now() + waitMs
  let woken = false
  let wake: (() => void) | undefined
  // Subscribed before the first look: what happens in between is not missed.
  const unsubscribe = subscribe(() => {
    woken = true
    wake?.()
  })
  try {
    for (;;) {
      woken = false
      const seen = await look()
      const left = deadline - performance.now()
      if (enough(seen) || left <= 0 || signals.some(({ aborted }) => aborted)) return seen
      if (woken) continue
      const ended = await new Promise<boolean>((resolve) => {
        const stop = (ended: boolean) => {
          clearTimeout(timer)
          for (const signal of signals) signal.removeEventListener('abort', end)
          wake = undefined
          resolve(ended)
        }
        const end = () => stop(true)
        const again = againMs(seen)
        const timer = setTimeout(() => stop(again >= left), Math.max(0, Math.min(left, again)))
        for (const signal of signals) signal.addEventListener('abort', end)
        wake = () => stop(false)
      })
      // Nothing has happened since that look. One more would cost as much as the whole wait, and a claim whose client
      // is gone would take a job for nobody.
      if (ended) return seen
    }
  } finally {
    unsubscribe()
  }
}
