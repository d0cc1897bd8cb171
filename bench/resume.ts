// Resuming: a run whose completed steps are many is given to `tide.run`, which asks for them and calls the workflow; it
// goes through them all until the first new step's function is called.
import { newRunId, type RunContext, Tidebase } from '@tidebase/sdk'
import { type Client, connect, percentile, round } from './client.ts'
import type { Benchmark, Figures } from './suite.ts'

const inputHash = '74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b' // of no input
const leaseOwner = 'bench'

/** A run with many completed steps, resumed by the SDK. */
export const resumeBenchmark: Benchmark = {
  says: 'Resumes runs of 1,000 completed steps by the SDK: from the call of tide.run (which asks for the run, then begins it) until the first new step’s function is called.',
  ours: 'tidebase, sdk',
  figures: {
    p50ms: { title: 'p50, ms', better: 'less' },
    p99ms: { title: 'p99, ms', better: 'less' },
    firstMs: { title: 'the first in a process, ms', better: 'less' },
  },
  plan({ options: { quick }, withServer }) {
    const load = { steps: 1_000, resumes: quick ? 2 : 60 }
    return [
      () =>
        withServer(async ({ url }) => [
          { system: 'tidebase, sdk', setting: '1,000 steps', figures: await benchResume(url, load) },
        ]),
    ]
  },
}

async function benchResume(url: string, { steps, resumes }: { steps: number; resumes: number }): Promise<Figures> {
  const client = connect(url)
  const tide = new Tidebase({ url })
  const ms: number[] = []
  for (let n = 0; n < resumes; n++) {
    const runId = await recordedRun(client, steps)
    const began = performance.now()
    await tide.run('bench', { runId, leaseOwner }, async (run: RunContext) => {
      for (let step = 0; step < steps; step++) await run.step(`s${step}`, () => Promise.reject(new Error('ran again')))
      await run.step('new', () => {
        ms.push(performance.now() - began)
        return null
      })
      return null
    })
  }
  client.close()
  const firstMs = round(ms[0] ?? Number.NaN)
  return { firstMs, p50ms: round(percentile(ms, 0.5)), p99ms: round(percentile(ms, 0.99)) }
}

/**
 * A run as its crashed worker left it, but that its lease is ours to take up again.
 *
 * @param steps completed ones; two events each
 */
export async function recordedRun(client: Client, steps: number): Promise<string> {
  const runId = newRunId()
  await client.post('/runs/bench', { id: runId })
  await client.post(`/runs/${runId}/begin`, {}, { 'x-tidebase-worker': leaseOwner })
  for (let from = 0; from < steps; from += 500) {
    const calls = Array.from({ length: Math.min(500, steps - from) }, (_, n) => ({
      route: 'recordStep',
      params: { runId },
      body: { name: `s${from + n}`, inputHash, leaseOwner, output: { ok: from + n, text: 'what the step found out' } },
    }))
    await client.post('/batch', { calls })
  }
  return runId
}
