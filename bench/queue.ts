// Jobs per second: enqueue one by one and in batches, claim and complete, and how soon an idle worker has a new job.
// Two ways to work them off: `http`, 8 claimers that take 50 and complete them in one POST /batch; `sdk`, `tide.work`
// in this process.
import { setTimeout as sleep } from 'node:timers/promises'
import { Tidebase } from '@tidebase/sdk'
import { type Client, connect, percentile, repeat, round } from './client.ts'
import { inSetting } from './servers.ts'
import type { Benchmark, Figures } from './suite.ts'

/** How jobs are worked off. */
export type Way = 'http' | 'sdk'

const claimers = 8
const perClaim = 50
const perBatch = 500
/** What an SDK worker executes at a time. */
const concurrency = 200
/** A poller such as pg-boss takes half a second for each. */
const pickUpsOfPoller = 20

/** Ours in both ways beside graphile-worker and pg-boss. */
export const queueBenchmark: Benchmark = {
  says: 'Enqueues jobs one by one (64 in flight) and 500 a call (4 in flight), claims and completes them all, then gives an idle worker one at a time.',
  ours: 'tidebase, http',
  figures: {
    enqueuePerSecond: { title: 'enqueue/s, one by one', better: 'more' },
    enqueueBatchPerSecond: { title: 'enqueue/s, batches of 500', better: 'more' },
    claimCompletePerSecond: { title: 'claim + complete /s', better: 'more' },
    pickUpP50ms: { title: 'idle worker has it p50, ms', better: 'less' },
    pickUpP99ms: { title: 'idle worker has it p99, ms', better: 'less' },
  },
  plan({ options: { quick, peers }, withServer, peer }) {
    const jobs = quick ? 500 : 20_000
    const pickUps = quick ? 5 : 300
    const ours = (['http', 'sdk'] as const).map(
      (way) => () =>
        withServer(async ({ url }) => [
          { system: `tidebase, ${way}`, setting: '', figures: await benchQueue(url, way, { jobs, pickUps }) },
        ]),
    )
    return peers
      ? [
          ...ours,
          async () => inSetting('', await peer('graphile-queue', [jobs, 64, pickUps, 0, 0])),
          async () => inSetting('', await peer('pgboss-queue', [jobs, 64, pickUpsOfPoller, 0, 0])),
        ]
      : ours
  },
}

/**
 * Enqueues jobs, works them off, gives single ones to an idle worker.
 *
 * @param jobs enqueued one by one, and as many in batches
 * @param pickUps how many jobs the idle worker is given, one after the other
 */
async function benchQueue(
  url: string,
  way: Way,
  { jobs, pickUps }: { jobs: number; pickUps: number },
): Promise<Figures> {
  const client = connect(url)
  const queue = 'bench'
  const batches = Math.ceil(jobs / perBatch)
  const tide = new Tidebase({ url })
  const enqueue = (n: number) =>
    way === 'sdk' ? tide.enqueue('bench', { queue, input: { n } }) : enqueueOne(client, queue, n)
  await repeat(64, 64, enqueue)
  const singly = await repeat(jobs, 64, enqueue)
  const together = await repeat(batches, 4, () => enqueueMany(client, queue, perBatch))
  const all = 64 + jobs + batches * perBatch
  const working = await workOff(client, url, queue, way, all)
  const ms = await pickUpTimes(client, url, queue, way, pickUps)
  client.close()
  return {
    enqueuePerSecond: Math.round(jobs / singly),
    enqueueBatchPerSecond: Math.round((batches * perBatch) / together),
    claimCompletePerSecond: Math.round(all / working),
    pickUpP50ms: round(percentile(ms, 0.5)),
    pickUpP99ms: round(percentile(ms, 0.99)),
  }
}

/** Enqueues a job whose input is its number. */
export const enqueueOne = (client: Client, queue: string, n: number) =>
  client.post(`/queues/${queue}/enqueue`, { workflowName: 'bench', input: { n } })

/** Enqueues jobs in one call. */
export const enqueueMany = (client: Client, queue: string, count: number) =>
  client.post(`/queues/${queue}/enqueue/batch`, {
    jobs: Array.from({ length: count }, (_, n) => ({ workflowName: 'bench', input: { n } })),
    brief: true,
  })

interface Claimed {
  runs: { id: string }[]
}

/** Completes what one claim gave. The only place that does: if there is a better call than this, put it here. */
async function completeAll(client: Client, { runs }: Claimed, leaseOwner: string): Promise<void> {
  const { answers } = await client.post<{ answers: { status: number }[] }>('/batch', {
    calls: runs.map(({ id }) => ({
      route: 'completeRun',
      params: { runId: id },
      body: { result: null, leaseOwner, brief: true },
    })),
  })
  const failed = answers.find(({ status }) => status !== 200)
  if (failed) throw new Error(`a job was not completed: ${JSON.stringify(failed)}`)
}

/**
 * Claims and completes jobs until none is left.
 *
 * @param expected how many there are; anything else is an error
 * @returns seconds it took
 */
export async function workOff(client: Client, url: string, queue: string, way: Way, expected: number): Promise<number> {
  let done = 0
  const began = performance.now()
  if (way === 'http') {
    const claimer = async (n: number) => {
      const leaseOwner = `claimer-${n}`
      for (;;) {
        const asked = { queues: [queue], limit: perClaim, leaseOwner, brief: true }
        const claimed = await client.post<Claimed>('/queues/claim', asked)
        if (claimed.runs.length === 0) return
        await completeAll(client, claimed, leaseOwner)
        done += claimed.runs.length
      }
    }
    await Promise.all(Array.from({ length: claimers }, (_, n) => claimer(n)))
  } else {
    const enough = new AbortController()
    const tide = new Tidebase({ url })
    tide.workflow('bench', () => {
      if (++done === expected) enough.abort()
      return null
    })
    // Ends when the last job is completed. A claim that finds nothing returns at once.
    await tide.work({ queues: [queue], concurrency, signal: enough.signal, waitMs: 0 })
  }
  const seconds = (performance.now() - began) / 1000
  if (done !== expected) throw new Error(`${done} of ${expected} jobs were completed`)
  return seconds
}

/** From the enqueue call until the waiting worker has the job, ms each. */
async function pickUpTimes(client: Client, url: string, queue: string, way: Way, count: number): Promise<number[]> {
  const ms: number[] = []
  // The worker is waiting by then.
  const pause = () => sleep(15)
  if (way === 'http') {
    for (let n = 0; n < count; n++) {
      const leaseOwner = 'idle'
      const claim = client.post<Claimed>('/queues/claim', { queues: [queue], waitMs: 10_000, leaseOwner, brief: true })
      await pause()
      const sent = performance.now()
      await enqueueOne(client, queue, n)
      const claimed = await claim
      ms.push(performance.now() - sent)
      await completeAll(client, claimed, leaseOwner)
    }
    return ms
  }
  const stop = new AbortController()
  let called = (_at: number) => {}
  const tide = new Tidebase({ url })
  tide.workflow('bench', () => {
    called(performance.now())
    return null
  })
  const worker = tide.work({ queues: [queue], signal: stop.signal, waitMs: 1_000 })
  for (let n = 0; n < count; n++) {
    await pause()
    const has = new Promise<number>((resolve) => {
      called = resolve
    })
    const sent = performance.now()
    await enqueueOne(client, queue, n)
    ms.push((await has) - sent)
  }
  stop.abort()
  await worker
  return ms
}
