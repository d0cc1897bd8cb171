// Steps per second: runs of 20 steps. By plain HTTP without batching: `record`, one call a step, and `begin+complete`,
// two. By the SDK, all runs in one process: `sdk, one by one` sends each call as a request of its own, `sdk` those of
// one turn of the event loop together.
import { type RunContext, Tidebase } from '@tidebase/sdk'
import { type Client, connect, percentile, repeat, round } from './client.ts'

import { inSetting, residentMb } from './servers.ts'
import type { Benchmark, Figures } from './suite.ts'

const perRun = 20
const modes: readonly Mode[] = ['record', 'begin+complete', 'sdk, one by one', 'sdk']

/** Ours in its modes beside DBOS and Restate. */
export const stepsBenchmark: Benchmark = {
  says: `Executes runs of ${perRun} steps that do nothing, so many at a time from one worker process; all that a run costs counts.`,
  ours: 'tidebase, sdk',
  figures: {
    stepsPerSecond: { title: 'steps/s', better: 'more' },
    p50ms: { title: 'a step p50, ms', better: 'less' },
    p99ms: { title: 'a step p99, ms', better: 'less' },
    clientCpuUs: { title: 'worker CPU, µs a step' },
    serverMb: { title: 'server at most, MB' },
  },
  plan({ options: { quick, peers }, withServer, peer }, only) {
    return (only ?? (quick ? [1, 8] : [1, 8, 32, 128])).flatMap((concurrent) => {
      const setting = settingOf(concurrent)
      // Some seconds of ours, at least: compilers have to settle.
      const runs = quick ? concurrent : 400 + concurrent * 10
      const steps = quick ? 2 : perRun
      const ours = (quick && concurrent === 1 ? modes.slice(-1) : modes).map(
        (mode) => () =>
          withServer(async ({ url, pid }) => {
            const figures = await benchSteps(url, { mode, concurrent, steps, runs })
            return [{ system: `tidebase, ${mode}`, setting, figures: { ...figures, serverMb: await residentMb(pid) } }]
          }),
      )
      const theirs = ['dbos-steps', 'restate-steps'].map(
        (script) => async () => inSetting(setting, await peer(script, [concurrent, steps, runs])),
      )
      return peers ? [...ours, ...theirs] : ours
    })
  },
}

/** How the suite names so many runs at once. */
export const settingOf = (concurrent: number) => `${concurrent} ${concurrent === 1 ? 'run' : 'runs'}`

/** How a step is written. */
export type Mode = 'record' | 'begin+complete' | 'sdk, one by one' | 'sdk'

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
): Promise<Figures> {
  const client = connect(url)
  const tide = new Tidebase({ url, coalesce: mode === 'sdk' })
  const once = (ms: number[]) =>
    mode === 'record' || mode === 'begin+complete'
      ? execute(client, mode, steps, ms)
      : tide.run('bench', (run) => work(run, steps, ms))
  const ms: number[] = []
  await repeat(Math.min(runs, concurrent), concurrent, () => once([]))
  const spent = process.cpuUsage()
  const seconds = await repeat(runs, concurrent, () => once(ms))
  const { user, system } = process.cpuUsage(spent)
  client.close()
  return {
    stepsPerSecond: Math.round((runs * steps) / seconds),
    p50ms: round(percentile(ms, 0.5)),
    p99ms: round(percentile(ms, 0.99)),
    clientCpuUs: Math.round((user + system) / (runs * steps)),
  }
}

async function work(run: RunContext, steps: number, ms: number[]): Promise<null> {
  for (let n = 0; n < steps; n++) {
    const began = performance.now()
    await run.step(`s${n}`, () => ({ ok: n }))
    ms.push(performance.now() - began)
  }
  return null
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
