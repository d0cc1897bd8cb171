/**
 * What the gateway counts of each pod's requests, by the minute, for the last hour: how many, how many failed, and how
 * long the app took until its answer began. In memory, a few kilobytes a pod that has visitors; a restart forgets it.
 */

/** A minute of a pod. */
export interface Minute {
  /** Its beginning, ms since 1970. */
  at: number
  requests: number
  /** Answers of 500 and above, the gateway's own among them. */
  errors: number
  /** Time until the answer began, ms: half of the requests were faster, and 99 in 100. Null without requests. */
  p50Ms: number | null
  p99Ms: number | null
}

interface Bucket {
  minute: number
  requests: number
  errors: number
  times: Uint32Array
}

const kept = 60
const minuteMs = 60_000
/** Eight steps for each doubling: a figure is off by 9 % at most. */
const perDoubling = 8
const leastMs = 0.05
const steps = 21 * perDoubling

const stepOf = (ms: number) =>
  Math.min(steps - 1, Math.max(0, Math.ceil(Math.log2(Math.max(ms, leastMs) / leastMs) * perDoubling)))
const msOf = (step: number) => leastMs * 2 ** (step / perDoubling)

function quantile(times: Uint32Array, total: number, share: number): number | null {
  let left = Math.ceil(total * share)
  if (left === 0) return null
  for (const [step, count] of times.entries()) {
    left -= count
    if (left <= 0) return Number(msOf(step).toPrecision(3))
  }
  return null
}

/** Makes the counters. @param now ms since 1970 */
export function createTraffic(now: () => number = Date.now) {
  const pods = new Map<string, Bucket[]>()
  const present = () => Math.trunc(now() / minuteMs)

  function bucketOf(pod: string): Bucket {
    let ring = pods.get(pod)
    if (!ring) {
      ring = []
      pods.set(pod, ring)
    }
    const minute = present()
    const last = ring.at(-1)
    if (last?.minute === minute) return last
    const fresh = { minute, requests: 0, errors: 0, times: new Uint32Array(steps) }
    ring.push(fresh)
    while ((ring[0]?.minute ?? minute) <= minute - kept) ring.shift()
    return fresh
  }

  function summary(buckets: readonly Bucket[]): Omit<Minute, 'at'> {
    const times = new Uint32Array(steps)
    let requests = 0
    let errors = 0
    for (const bucket of buckets) {
      requests += bucket.requests
      errors += bucket.errors
      for (const [step, count] of bucket.times.entries()) if (count > 0) times[step] = (times[step] ?? 0) + count
    }
    return { requests, errors, p50Ms: quantile(times, requests, 0.5), p99Ms: quantile(times, requests, 0.99) }
  }

  return {
    /** A request was answered. @param ms until its answer began */
    count(pod: string, status: number, ms: number): void {
      const bucket = bucketOf(pod)
      bucket.requests += 1
      if (status >= 500) bucket.errors += 1
      const step = stepOf(ms)
      bucket.times[step] = (bucket.times[step] ?? 0) + 1
    },
    /** The last hour, and each of its minutes, oldest first. */
    of(pod: string): { hour: Omit<Minute, 'at'>; minutes: Minute[] } {
      const newest = present()
      const buckets = (pods.get(pod) ?? []).filter(({ minute }) => minute > newest - kept)
      const minutes = Array.from({ length: kept }, (_, index) => {
        const minute = newest - kept + 1 + index
        return { at: minute * minuteMs, ...summary(buckets.filter((each) => each.minute === minute)) }
      })
      return { hour: summary(buckets), minutes }
    },
    /** Forgets pods that had no request for an hour. */
    sweep(): void {
      const oldest = present() - kept
      for (const [pod, ring] of pods) if ((ring.at(-1)?.minute ?? 0) <= oldest) pods.delete(pod)
    },
  }
}

export type Traffic = ReturnType<typeof createTraffic>
