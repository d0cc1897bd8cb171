/**
 * Tidebase for a pod under development: its embedded database under tp_data/, on a free port of this machine. Started
 * with the first use, kept while the dev server runs.
 */
import { join } from 'node:path'

export interface DevTidebase {
  /** Its address; the first call starts it. */
  address(): Promise<string>
  stop(): Promise<void>
}

/** A worker that was killed has lost its runs after this time, ms: nobody who develops waits for a minute. */
const leaseMs = Number(process.env.TIDEBASE_LEASE_MS) || 10_000

/** @param dir the pod's folder */
export function devTidebase(dir: string): DevTidebase {
  let running: Promise<{ url: string; stop(): Promise<void> }> | undefined
  async function start() {
    // Only now: a pod without workflows does not pay for loading it.
    const { startServer } = await import('tidebase')
    return startServer({ dataDir: join(dir, 'tp_data', 'tidebase'), port: 0, leaseMs })
  }
  return {
    async address() {
      running ??= start().catch((error: unknown) => {
        running = undefined
        throw error
      })
      return (await running).url
    },
    async stop() {
      await (await running?.catch(() => undefined))?.stop()
    },
  }
}
