// Waiting runs: how soon a worker has a run whose wait is over, how fast many are woken at once, and what a round of the
// reconciler costs while many wait.
import { Coalescers } from '../packages/tidebase/src/coalesce.ts'
import { openDatabase } from '../packages/tidebase/src/db.ts'
import type { Engine } from '../packages/tidebase/src/engine.ts'
import { keepLive } from '../packages/tidebase/src/live-runs.ts'
import { startReconciler } from '../packages/tidebase/src/reconcile.ts'
import { Wakeups } from '../packages/tidebase/src/wakeups.ts'
import { connect, percentile, repeat, round } from './client.ts'

import type { Benchmark, Figures } from './suite.ts'

const tick = (waiting: number) => `tick${waiting}Ms`
const waitingCounts = [0, 1_000, 10_000, 100_000]

/** Parked runs, and the reconciler's rounds while many wait. */
export const waitsBenchmark: Benchmark = {
  says: 'Parks runs that wait for a signal and signals them all, then one at a time with an idle worker; rounds of a reconciler while many runs wait.',
  ours: 'tidebase',
  figures: {
    wokenInS: { title: 'all parked runs woken and claimed, s' },
    wakeP50ms: { title: 'one woken, idle worker has it p50, ms' },
    wakeP99ms: { title: 'one woken p99, ms' },
    ...Object.fromEntries(
      waitingCounts.map((count) => [
        tick(count),
        { title: `round of the reconciler, ${count.toLocaleString('en')} waiting, ms` },
      ]),
    ),
  },
  plan({ options: { quick }, withServer }) {
    const parked = quick ? 200 : 10_000
    const load = { parked, wakes: quick ? 5 : 100, waiting: quick ? [0, 1_000] : [0, 10_000, 100_000] }
    return [
      () =>
        withServer(async ({ url }, databaseUrl) => [
          {
            system: 'tidebase',
            setting: `${parked.toLocaleString('en')} runs`,
            figures: await benchWaits(url, databaseUrl, load),
          },
        ]),
    ]
  },
}

interface Claimed {
  runs: { id: string }[]
}

/**
 * Parks runs and wakes them.
 *
 * @param parked runs that wait at once
 * @param wakes how many are woken one after the other, with an idle worker
 * @param waiting numbers of waiting runs to measure the reconciler with
 */
async function benchWaits(
  url: string,
  databaseUrl: string,
  { parked, wakes, waiting }: { parked: number; wakes: number; waiting: number[] },
): Promise<Figures> {
  const client = connect(url)
  const queue = `bench-${Date.now()}`
  const leaseOwner = 'bench'
  const claim = (limit: number, waitMs: number) =>
    client.post<Claimed>('/queues/claim', { queues: [queue], limit, waitMs, leaseOwner })
  /** Runs that wait for a signal, parked. */
  const park = async (count: number) => {
    const ids: string[] = []
    for (let left = count; left > 0; left -= 1_000) {
      const jobs = Array.from({ length: Math.min(left, 1_000) }, () => ({ workflowName: 'bench' }))
      await client.post(`/queues/${queue}/enqueue/batch`, { jobs })
    }
    while (ids.length < count) {
      const { runs } = await claim(100, 0)
      await repeat(runs.length, 32, async (n) => {
        const id = runs[n]?.id ?? ''
        const { wait } = await client.post<{ wait: { id: string } }>(`/runs/${id}/signals/wait`, {
          name: 'go',
          signal: 'go',
        })
        await client.post(`/runs/${id}/park`, { leaseOwner, waitingFor: [wait.id] })
        ids.push(id)
      })
    }
    return ids
  }
  const wake = (id: string) => client.post(`/runs/${id}/signals`, { name: 'go' })
  const complete = (id: string) => client.post(`/runs/${id}/complete`, { leaseOwner })

  const all = await park(parked)
  let claimed = 0
  const began = performance.now()
  await Promise.all([
    repeat(all.length, 32, (n) => wake(all[n] ?? '')),
    ...Array.from({ length: 4 }, async () => {
      while (claimed < parked) {
        const { runs } = await claim(50, 200)
        claimed += runs.length
        await Promise.all(runs.map(({ id }) => complete(id)))
      }
    }),
  ])
  const wokenInS = (performance.now() - began) / 1_000

  const ms: number[] = []
  for (const id of await park(wakes)) {
    const idle = claim(1, 10_000)
    // The worker is waiting by then.
    await new Promise((resolve) => setTimeout(resolve, 15))
    const sent = performance.now()
    await wake(id)
    await idle
    ms.push(performance.now() - sent)
    await complete(id)
  }
  client.close()
  return {
    wokenInS: round(wokenInS),
    wakeP50ms: round(percentile(ms, 0.5)),
    wakeP99ms: round(percentile(ms, 0.99)),
    ...(await tickTimes(databaseUrl, waiting)),
  }
}

/** Times rounds of a reconciler of its own, while more and more runs wait for a time that is far away. */
async function tickTimes(databaseUrl: string, waiting: number[]): Promise<Figures> {
  const db = openDatabase({ connectionString: databaseUrl }, { timeoutMs: 120_000 })
  const engine: Engine = {
    db,
    coalescers: new Coalescers(db),
    wakeups: new Wakeups(db),
    settings: {
      leaseMs: 60_000,
      reconcileMs: 3_600_000,
      retentionDays: undefined,
      publicUrl: 'http://127.0.0.1',
      webhookSecret: undefined,
      allowPrivateWebhooks: false,
      keyless: true,
    },
  }
  const reconciler = startReconciler(engine, {
    warn: (error) => {
      throw error
    },
  })
  const times: Figures = {}
  let there = 0
  for (const wanted of waiting) {
    await db.cold.query(
      `with made as (
        insert into tidebase.runs (project, id, workflow_name, status, queue, run_at, deadline_at, event_seq)
        select 1, gen_random_uuid(), 'waits', 'waiting', 'waits', now(), now() + interval '30 days', 3
        from generate_series(1, $1) returning *
      ), ${keepLive('made')}, timers as (
        insert into tidebase.waits (project, run_id, id, name, kind, due_at, status, position)
        select 1, id, gen_random_uuid(), 't', 'timer', now() + interval '7 days', 'pending', 2 from made
      )
      insert into tidebase.gates (project, run_id, id, name, prompt, timeout_at)
      select 1, id, gen_random_uuid(), 'g', '?', now() + interval '7 days' from made`,
      [wanted - there],
    )
    there = wanted
    await db.cold.query('analyze tidebase.runs, tidebase.live_runs, tidebase.waits, tidebase.gates')
    const ms: number[] = []
    for (let n = 0; n < 30; n++) {
      const began = performance.now()
      await reconciler.tick()
      ms.push(performance.now() - began)
    }
    times[tick(wanted)] = round(percentile(ms, 0.5))
  }
  await reconciler.close()
  await db.close()
  return times
}
