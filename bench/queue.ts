// Jobs per second: enqueue one by one, claim and complete in batches, and how soon an idle worker has a new job.
import { connect, percentile, repeat, round } from './client.ts'

/** One measurement. */
export interface QueueResult {
  system: string
  enqueuePerSecond: number
  claimCompletePerSecond: number
  pickUpP50ms?: number
  pickUpP99ms?: number
}

interface Claimed {
  runs: { id: string }[]
}

/**
 * Enqueues jobs, then claims and completes them all.
 *
 * @param inFlight enqueue calls under way at once
 * @param batch jobs per claim; 8 claimers
 * @param pickUps how many jobs the idle worker is given, one after the other; 0 skips that
 */
export async function benchQueue(
  url: string,
  { jobs, inFlight, batch, pickUps }: { jobs: number; inFlight: number; batch: number; pickUps: number },
): Promise<QueueResult> {
  const client = connect(url)
  const queue = `bench-${Date.now()}`
  const job = (n: number) => client.post(`/queues/${queue}/enqueue`, { workflowName: 'bench', input: { n } })
  await repeat(64, inFlight, job)
  const enqueuing = await repeat(jobs, inFlight, job)

  let done = 0
  const began = performance.now()
  await Promise.all(
    Array.from({ length: 8 }, async (_, n) => {
      const leaseOwner = `claimer-${n}`
      for (;;) {
        const { runs } = await client.post<Claimed>('/queues/claim', { queues: [queue], limit: batch, leaseOwner })
        if (runs.length === 0) return
        await Promise.all(runs.map(({ id }) => client.post(`/runs/${id}/complete`, { result: null, leaseOwner })))
        done += runs.length
      }
    }),
  )
  const working = (performance.now() - began) / 1000
  if (done !== jobs + 64) throw new Error(`${done} of ${jobs + 64} jobs were completed`)

  const ms: number[] = []
  for (let n = 0; n < pickUps; n++) {
    const claim = client.post<Claimed>('/queues/claim', { queues: [queue], waitMs: 10_000, leaseOwner: 'idle' })
    // The worker is waiting by then.
    await new Promise((resolve) => setTimeout(resolve, 15))
    const sent = performance.now()
    await job(n)
    const { runs } = await claim
    ms.push(performance.now() - sent)
    for (const { id } of runs) await client.post(`/runs/${id}/complete`, { leaseOwner: 'idle' })
  }
  client.close()
  return {
    system: `tidebase, ${inFlight} in flight`,
    enqueuePerSecond: Math.round(jobs / enqueuing),
    claimCompletePerSecond: Math.round(done / working),
    ...(pickUps ? { pickUpP50ms: round(percentile(ms, 0.5)), pickUpP99ms: round(percentile(ms, 0.99)) } : {}),
  }
}
