// What old rows cost: the same load on an empty database and on a full one, in turn, each with a server of its own.
import { connect, repeat } from './client.ts'
import { loadOldRows, type OldRows } from './old-data.ts'
import { enqueueMany, enqueueOne, workOff } from './queue.ts'
import type { Bench } from './servers.ts'
import { benchSteps, settingOf } from './steps.ts'
import type { Benchmark, Figures, Measure } from './suite.ts'

/** A load, giving one rate. */
type Load = (url: string) => Promise<number>

/** Steps/s beside many old steps. */
export const oldStepsBenchmark: Benchmark = {
  says: 'Executes runs of 20 steps, 128 at a time by the SDK, on an empty database and on one with 10 million old steps and 1 million old runs (times --scale).',
  ours: 'tidebase',
  figures: figures('steps/s'),
  async plan(bench) {
    const { quick } = bench.options
    const concurrent = quick ? 8 : 128
    const run: Load = async (url) => {
      const { stepsPerSecond = Number.NaN } = await benchSteps(url, {
        mode: 'sdk',
        concurrent,
        steps: 20,
        runs: concurrent * (quick ? 1 : 10),
      })
      return stepsPerSecond
    }
    return [await emptyAndFull(bench, { runs: 1_000_000, stepsPerRun: 10 }, run, settingOf(concurrent))]
  },
}

/** Claims/s beside many finished and delayed jobs of the queue. */
export const oldJobsBenchmark: Benchmark = {
  says: 'Claims and completes jobs (ours by HTTP, 50 a call) on an empty queue and on one with 1 million finished and 100,000 delayed jobs (times --scale).',
  ours: 'tidebase',
  figures: figures('claim + complete /s'),
  async plan(bench) {
    const { quick, peers, scale } = bench.options
    const jobs = quick ? 500 : 20_000
    const queue = 'bench'
    const work: Load = async (url) => {
      const client = connect(url)
      // A server's first calls prepare its statements.
      await repeat(64, 64, (n) => enqueueOne(client, queue, n))
      await workOff(client, url, queue, 'http', 64)
      await repeat(jobs / 500, 4, () => enqueueMany(client, queue, 500))
      const seconds = await workOff(client, url, queue, 'http', jobs)
      client.close()
      return Math.round(jobs / seconds)
    }
    const [finished, delayed] = [1_000_000, 100_000]
    const ours = await emptyAndFull(bench, { runs: finished, stepsPerRun: 1, queue, delayed }, work, '')
    if (!peers) return [ours]
    const theirs =
      (script: string): Measure =>
      async () => {
        const [empty] = await bench.peer(script, [jobs, 64, 0, 0, 0])
        const [full] = await bench.peer(script, [
          jobs,
          64,
          0,
          Math.round(finished * scale),
          Math.round(delayed * scale),
        ])
        if (!empty || !full) return []
        const rate = (figures: Figures) => figures.claimCompletePerSecond ?? Number.NaN
        return [{ system: full.system, setting: '', figures: rates(rate(empty.figures), rate(full.figures)) }]
      }
    return [ours, theirs('graphile-queue'), theirs('pgboss-queue')]
  },
}

function figures(what: string): Benchmark['figures'] {
  return {
    empty: { title: `${what}, empty`, better: 'more' },
    full: { title: `${what}, full`, better: 'more' },
    share: { title: 'full ÷ empty', better: 'more' },
  }
}

const rates = (empty: number, full: number): Figures => ({ empty, full, share: full / empty })

/** Loads a database and gives the measure: one load on an empty one and on this, whichever is first by turns. */
async function emptyAndFull(bench: Bench, rows: OldRows, load: Load, setting: string): Promise<Measure> {
  const { scale } = bench.options
  const old = await bench.createDatabase()
  // Its start makes the tables.
  await (await bench.startServer(old.url)).stop()
  await loadOldRows(old.url, {
    ...rows,
    runs: Math.round(rows.runs * scale),
    delayed: Math.round((rows.delayed ?? 0) * scale),
  })
  let round = 0
  const onFull = async () => {
    const server = await bench.startServer(old.url)
    try {
      return await load(server.url)
    } finally {
      await server.stop()
    }
  }
  const onEmpty = () => bench.withServer(({ url }) => load(url))
  return async () => {
    const fullFirst = round++ % 2 === 1
    const first = await (fullFirst ? onFull() : onEmpty())
    const second = await (fullFirst ? onEmpty() : onFull())
    const figures = fullFirst ? rates(second, first) : rates(first, second)
    return [{ system: 'tidebase', setting, figures }]
  }
}
