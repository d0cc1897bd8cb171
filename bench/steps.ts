// Steps per second: runs of 20 steps by plain HTTP, no batching by the client.
// `record` is what the SDK does for steps that are safe to replay: one call a step. `begin+complete` is two.
import { type Client, connect, percentile, repeat, round } from './client.ts'

/** One measurement. */
export interface StepsResult {
  system: string
  concurrent: number
  stepsPerSecond: number
  p50ms: number
  p99ms: number
}

/** How a step is written. */
export type Mode = 'record' | 'begin+complete'

const inputHash = 'b'.repeat(64)

/**
 * Executes runs on a Tidebase server.
 *
 * @param steps per run
 * @param runs in all; a few more go first, unmeasured
 */
export async function benchSteps(
  url: string,
  { mode, concurrent, steps, runs }: { mode: Mode; concurrent: number; steps: number; runs: number },
): Promise<StepsResult> {
  const client = connect(url)
  const ms: number[] = []
  await repeat(Math.min(runs, concurrent), concurrent, () => execute(client, mode, steps, []))
  const seconds = await repeat(runs, concurrent, () => execute(client, mode, steps, ms))
  client.close()
  return {
    system: `tidebase, ${mode}`,
    concurrent,
    stepsPerSecond: Math.round((runs * steps) / seconds),
    p50ms: round(percentile(ms, 0.5)),
    p99ms: round(percentile(ms, 0.99)),
  }
}

async function execute(client: Client, mode: Mode, steps: number, ms: number[]): Promise<void> {
  const { run } = await client.post<{ run: { id: string } }>('/runs/bench', {})
  const path = `/runs/${run.id}`
  const { leaseOwner } = await client.post<{ leaseOwner: string }>(`${path}/begin`, {})
  for (let n = 0; n < steps; n++) {
    const began = performance.now()
    const start = { name: `s${n}`, inputHash, leaseOwner }
    if (mode === 'record') await client.post(`${path}/steps/record`, { ...start, output: { ok: n } })
    else {
      const { step } = await client.post<{ step: { id: string } }>(`${path}/steps/begin`, start)
      await client.post(`${path}/steps/${step.id}/complete`, { leaseOwner, output: { ok: n } })
    }
    ms.push(performance.now() - began)
  }
  await client.post(`${path}/complete`, { result: null, leaseOwner })
}
