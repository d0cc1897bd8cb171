// Tells those who wait that a deployment changed. Only a hint: they read the row, and look again now and then by
// themselves, because another server may have changed it.
const againMs = 2_000

/** Makes the board. */
export function createProgress() {
  const waiting = new Map<string, Set<() => void>>()
  return {
    /** Something of the deployment changed. */
    tell(deployment: string): void {
      for (const wake of waiting.get(deployment) ?? []) wake()
    },
    /** Waits for a change, two seconds at most. @returns false when the signal aborted */
    changed(deployment: string, signal: AbortSignal): Promise<boolean> {
      if (signal.aborted) return Promise.resolve(false)
      return new Promise((resolve) => {
        const mine = waiting.get(deployment) ?? new Set()
        waiting.set(deployment, mine)
        const timer = setTimeout(done, againMs)
        function done() {
          clearTimeout(timer)
          signal.removeEventListener('abort', done)
          mine.delete(done)
          if (mine.size === 0) waiting.delete(deployment)
          resolve(!signal.aborted)
        }
        mine.add(done)
        signal.addEventListener('abort', done, { once: true })
      })
    },
  }
}

export type Progress = ReturnType<typeof createProgress>
