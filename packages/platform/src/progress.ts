// Tells those who wait that a deployment, or any of a pod, changed. Only a hint: they read the row, and look again now and then by
// themselves, because another server may have changed it.
const againMs = 2_000

/** Makes the board. */
export function createProgress() {
  const waiting = new Map<string, Set<() => void>>()
  return {
    /** Something of the deployment changed. @param about its id, or that of its pod */
    tell(...about: string[]): void {
      for (const each of about) for (const wake of waiting.get(each) ?? []) wake()
    },
    /** Calls `wake` at every change until the function that it answers is called. */
    follow(about: string, wake: () => void): () => void {
      const mine = waiting.get(about) ?? new Set()
      waiting.set(about, mine)
      mine.add(wake)
      return () => {
        mine.delete(wake)
        if (mine.size === 0) waiting.delete(about)
      }
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
