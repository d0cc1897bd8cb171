// What time does to a server: memory and event loop under load for minutes, tables while retention deletes what ended,
// and the processor time of a server that only holds connections.
//
// Retention counts in days, so the load's ended runs are made two days old by SQL every two seconds. That is one more
// update of each run than a server makes: the table of runs shows more dead rows than it would.
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { newRunId, Tidebase } from '@tidebase/sdk'
import type { Database } from '../packages/tidebase/src/db.ts'
import { connect, percentile, round } from './client.ts'
import { openInspector } from './inspector.ts'
import { follow } from './live.ts'
import { type Bench, openForLoading, type Server } from './servers.ts'
import type { Benchmark, Figures } from './suite.ts'

const connections = 200
const steps = 20
const concurrent = 32
const mb = 1024 * 1024

/** Minutes of load, then seconds of rest. */
export const soakBenchmark: Benchmark = {
  says: `Runs of ${steps} steps, ${concurrent} at a time by the SDK, and queue jobs for --minutes, with retention deleting what ended; then a fresh server with ${connections} idle long-polls and ${connections} SSE clients.`,
  ours: 'tidebase',
  figures: {
    steps: { title: 'steps done' },
    rssMb: { title: 'RSS at the end, MB' },
    rssGrowth: { title: 'RSS growth, MB a minute' },
    heapMb: { title: 'heap after GC at the end, MB' },
    heapGrowth: { title: 'heap growth, MB a minute' },
    loopP99ms: { title: 'event loop late p99, ms' },
    loopWorstP99ms: { title: 'worst sample’s p99, ms' },
    tablesMb: { title: 'tables and indexes at the end, MB' },
    tablesPeakMb: { title: 'at most, MB' },
    tablesGrowth: { title: 'their growth, MB a minute' },
    deadRows: { title: 'dead rows at the end' },
    liveRows: { title: 'live rows at the end' },
    idleCpuPercent: { title: 'idle CPU, % of a core' },
  },
  plan(bench) {
    return [
      async () => {
        const figures = { ...(await underLoad(bench)), ...(await idle(bench)) }
        return [{ system: 'tidebase', setting: '', figures }]
      },
    ]
  },
}

/** One look at the server and its tables. */
interface Look {
  minute: number
  rss: number
  heap: number
  loopP99ms: number
  tables: number
  dead: number
  live: number
}

async function underLoad(bench: Bench): Promise<Figures> {
  const { minutes } = bench.options
  const database = await bench.createDatabase()
  const server = await bench.startServer(database.url, { inspect: true, env: { TIDEBASE_RETENTION_DAYS: '1' } })
  const db = openForLoading(database.url)
  const inspector = await openInspector(server.inspector ?? '')
  // The event loop is measured from the first time that it is asked for.
  await loopDelay(server.url)
  const stop = new AbortController()
  const began = performance.now()
  const minute = () => (performance.now() - began) / 60_000
  const ageing = age(db, stop.signal)
  const load = startLoad(server.url, stop.signal)
  try {
    const looks: Look[] = []
    // Around sixty looks, none more often than a second.
    const every = Math.max(1, minutes)
    while (minute() < minutes) {
      await Promise.race([sleep(every * 1000), load.failed, ageing])
      const loopP99ms = await loopDelay(server.url)
      const rss = await residentNow(server.pid)
      const heap = await inspector.heapAfterGc()
      looks.push({ minute: minute(), rss, heap, loopP99ms, ...(await sizes(db)) })
      // What collecting has held up is no delay of the server's own.
      await loopDelay(server.url)
    }
    const done = await load.end(stop)
    await ageing
    const [last] = looks.slice(-1)
    if (!last) throw new Error('the soak was too short for a look')
    // Caches fill and statements are prepared at first; what goes on after that is growth.
    const settled = looks.filter((look) => look.minute >= minutes / 3)
    const delays = looks.map((look) => look.loopP99ms)
    return {
      steps: done,
      rssMb: round(last.rss / mb),
      rssGrowth: round(slope(settled, (look) => look.rss / mb)),
      heapMb: round(last.heap / mb),
      heapGrowth: round(slope(settled, (look) => look.heap / mb)),
      loopWorstP99ms: round(Math.max(...delays)),
      loopP99ms: round(percentile(delays, 0.5)),
      tablesMb: round(last.tables / mb),
      tablesPeakMb: round(Math.max(...looks.map(({ tables }) => tables)) / mb),
      tablesGrowth: round(slope(settled, (look) => look.tables / mb)),
      deadRows: last.dead,
      liveRows: last.live,
    }
  } finally {
    stop.abort()
    inspector.close()
    await db.close()
    await server.stop()
    await database.drop()
  }
}

/** Starts runs and jobs that go on until `end`, which gives the number of steps done; `failed` rejects with the first error. */
function startLoad(
  url: string,
  signal: AbortSignal,
): { failed: Promise<never>; end(stop: AbortController): Promise<number> } {
  const tide = new Tidebase({ url })
  let done = 0
  tide.workflow('job', () => null)
  const runs = async () => {
    while (!signal.aborted) {
      await tide.run('soak', async (run) => {
        for (let n = 0; n < steps; n++) {
          await run.step(`s${n}`, () => ({ n, text: 'x'.repeat(200) }))
          done++
        }
        await run.state.set({ done })
        return null
      })
    }
  }
  const jobs = async () => {
    while (!signal.aborted) {
      await tide.queues.enqueueAll(
        'default',
        Array.from({ length: 20 }, (_, n) => ({ workflowName: 'job', input: { n } })),
      )
      await sleep(200)
    }
  }
  const all = Promise.all([...Array.from({ length: concurrent }, runs), jobs(), tide.work({ signal, waitMs: 200 })])
  return {
    failed: new Promise((_, reject) => all.catch(reject)),
    async end(stop) {
      stop.abort()
      await all
      return done
    },
  }
}

/** Makes what has ended two days old, again and again. */
async function age(db: Database, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await db.cold.query(
      `update tidebase.runs set completed_at = completed_at - interval '2 days', created_at = created_at - interval '2 days'
        where completed_at > now() - interval '1 day' and status = 'completed'`,
    )
    await sleep(2_000, undefined, { signal }).catch(() => {})
  }
}

async function sizes(db: Database): Promise<Pick<Look, 'tables' | 'dead' | 'live'>> {
  const [row] = await db.cold.query<{ tables: number; dead: number; live: number }>(
    `select sum(pg_total_relation_size(relid)) as tables, sum(n_dead_tup)::bigint as dead, sum(n_live_tup)::bigint as live
      from pg_stat_user_tables where schemaname = 'tidebase'`,
  )
  if (!row) throw new Error('the tables have no statistics')
  return row
}

/** By how much the event loop was late since the last call, p99, ms. */
async function loopDelay(url: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text()
  const seconds = Number(/^tidebase_nodejs_eventloop_lag_p99_seconds ([\d.e-]+)$/m.exec(text)?.[1])
  // It is measured by a timer of 10 ms, which the figure includes.
  return Math.max(0, seconds * 1000 - 10)
}

async function residentNow(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) * 1024
}

/** By how much a figure grows a minute: the line through the looks that is nearest to all. */
function slope(looks: readonly Look[], figure: (look: Look) => number): number {
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
  const x = mean(looks.map(({ minute }) => minute))
  const y = mean(looks.map(figure))
  const spread = looks.reduce((sum, { minute }) => sum + (minute - x) ** 2, 0)
  return spread === 0 ? 0 : looks.reduce((sum, look) => sum + (look.minute - x) * (figure(look) - y), 0) / spread
}

/** The processor time of a server that holds connections on which nothing happens. */
async function idle({ options: { quick }, withServer }: Bench): Promise<Figures> {
  return withServer(async (server) => {
    const client = connect(server.url)
    const runId = newRunId()
    await client.post('/runs/soak', { id: runId })
    const streams = await Promise.all(
      Array.from({ length: connections }, () => follow(`${server.url}/runs/${runId}/events`, () => {})),
    )
    let open = true
    const poll = async (n: number) => {
      while (open) await client.post('/queues/claim', { queues: [`idle-${n % 10}`], waitMs: 30_000 })
    }
    const polls = Promise.allSettled(Array.from({ length: connections }, (_, n) => poll(n)))
    // Until V8 has compiled what runs every half a minute, and collected what the start left.
    await sleep(quick ? 1_000 : 120_000)
    const seconds = quick ? 2 : 60
    const from = await processorSeconds(server)
    const began = performance.now()
    await sleep(seconds * 1000)
    const spent = (await processorSeconds(server)) - from
    const idleCpuPercent = round((spent / ((performance.now() - began) / 1000)) * 100)
    open = false
    for (const stream of streams) stream.destroy()
    // It answers the polls.
    await server.stop()
    await polls
    client.close()
    return { idleCpuPercent }
  })
}

/** User and system time of a process so far. Linux counts it in hundredths of a second. */
async function processorSeconds({ pid }: Server): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  // The second field is a name in parentheses that may contain anything.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}
