// Metrics for Prometheus: the process, requests by route and status, and live runs as the database has them.
// No label carries what users choose but queue names; ids, keys and inputs never appear.
import { collectDefaultMetrics, Histogram, Registry } from 'prom-client'
import type { Queryable } from './db.ts'
import type { Caller } from './engine.ts'

/** The metrics of one server. */
export interface Metrics {
  /** Counts a request that was answered. @param ms how long it took */
  observe(route: string, status: number, ms: number): void
  /** All of it as text, with the live runs of the caller's project. */
  text(db: Queryable, caller: Caller): Promise<string>
  contentType: string
}

let processMetrics: Registry | undefined

/**
 * Memory, processor time, event loop: a process has them once, however many servers it runs. Measured from the first
 * time that somebody asks: looking at the event loop a hundred times a second is half of what an idle server costs.
 */
function ofProcess(): Registry {
  if (!processMetrics) {
    processMetrics = new Registry()
    collectDefaultMetrics({ register: processMetrics, prefix: 'tidebase_' })
  }
  return processMetrics
}

const quote = (value: string) => value.replace(/\\/g, '\\\\').replace(/"/g, '\\"').replace(/\n/g, '\\n')

/** Starts to measure. */
export function createMetrics(): Metrics {
  const registry = new Registry()
  const requests = new Histogram({
    name: 'tidebase_request_seconds',
    help: 'Requests by route and status; long-polls and streams count until they are answered.',
    labelNames: ['route', 'status'] as const,
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30],
    registers: [registry],
  })
  return {
    contentType: registry.contentType,
    observe: (route, status, ms) => requests.observe({ route, status }, ms / 1_000),
    async text(db, { project }) {
      const rows = await db.query<{ queue: string | null; status: string; runs: number; oldest: number }>(
        `select queue, status, count(*) as runs,
          coalesce(extract(epoch from now() - min(run_at) filter (where status = 'queued')), 0) as oldest
        from tidebase.live_runs where project = $1
        group by queue, status order by queue, status`,
        [project],
      )
      const labels = ({ queue, status }: (typeof rows)[number]) => `{queue="${quote(queue ?? '')}",status="${status}"}`
      return [
        (await Registry.merge([ofProcess(), registry]).metrics()).trimEnd(),
        '# HELP tidebase_runs Live runs of the project.',
        '# TYPE tidebase_runs gauge',
        ...rows.map((row) => `tidebase_runs${labels(row)} ${row.runs}`),
        '# HELP tidebase_queue_oldest_seconds For how long the oldest ready run of a queue has waited.',
        '# TYPE tidebase_queue_oldest_seconds gauge',
        ...rows
          .filter(({ status }) => status === 'queued')
          .map(
            ({ queue, oldest }) =>
              `tidebase_queue_oldest_seconds{queue="${quote(queue ?? '')}"} ${Math.max(0, oldest)}`,
          ),
        '',
      ].join('\n')
    },
  }
}
