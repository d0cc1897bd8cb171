// Reading a run with a long history: `GET /runs/:id` as a dashboard asks it, one request at a time.
import { type Client, connect, percentile, round } from './client.ts'
import { recordedRun } from './resume.ts'
import type { Benchmark, Figures, Sample } from './suite.ts'

const events = 5_000
const steps = (events - 2) / 2

/** The first page of a run with 5,000 events. */
export const detailBenchmark: Benchmark = {
  says: 'Reads a run with 5,000 events, one request after the other, until the last byte: 2,499 steps. Its first page (500 steps, 500 events, all other parts), all its parts with the first 1,000 events (what is asked unless told otherwise), and the run with its events alone.',
  ours: 'tidebase, first page',
  figures: {
    p50ms: { title: 'p50, ms', better: 'less' },
    p99ms: { title: 'p99, ms', better: 'less' },
    answerKb: { title: 'answer, KB' },
  },
  plan({ options: { quick }, withServer }) {
    const reads = quick ? 5 : 200
    return [
      () =>
        withServer(async ({ url }) => {
          const client = connect(url)
          const path = `/runs/${await longRun(client)}`
          const samples: Sample[] = []
          for (const [name, query] of [
            ['first page', '?stepsLimit=500&eventsLimit=500'],
            ['GET /runs/:id', ''],
            ['GET /runs/:id?include=run,events', '?include=run,events'],
          ] as const) {
            const figures = await readTimes(client, path + query, reads)
            samples.push({ system: `tidebase, ${name}`, setting: '5,000 events', figures })
          }
          client.close()
          return samples
        }),
    ]
  },
}

async function readTimes(client: Client, path: string, reads: number): Promise<Figures> {
  const ms: number[] = []
  let answer = ''
  for (let n = -2; n < reads; n++) {
    const began = performance.now()
    answer = await client.getText(path)
    if (n >= 0) ms.push(performance.now() - began)
  }
  const answerKb = Math.round(answer.length / 1024)
  return { p50ms: round(percentile(ms, 0.5)), p99ms: round(percentile(ms, 0.99)), answerKb }
}

async function longRun(client: Client): Promise<string> {
  const runId = await recordedRun(client, steps)
  const { events: last } = await client.get<{ events: object[] }>(
    `/runs/${runId}?include=events&eventsAfter=${events - 1}`,
  )
  if (last.length !== 1) throw new Error(`the run has not ${events} events`)
  return runId
}
