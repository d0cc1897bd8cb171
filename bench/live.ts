// Live events: two servers on one database, clients on both follow runs, the writer changes those on the first server.
import { type ClientRequest, get, type IncomingMessage } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { newRunId } from '@tidebase/sdk'
import { type Client, connect, percentile, round } from './client.ts'
import type { Benchmark, Figures } from './suite.ts'

interface Load {
  clients: number
  /** Runs that are followed; each by as many clients of one server as of the other. */
  runs: number
  perSecond: number
  seconds: number
}

/** From the sending of a write until a client of either server has its event. */
export const liveBenchmark: Benchmark = {
  says: '200 clients of server-sent events spread over two servers on one Postgres follow 10 runs; one of them gets a step every 20 ms on the first server. From the sending of the write until a client has the event.',
  ours: 'tidebase',
  figures: {
    p50ms: { title: 'p50, ms', better: 'less' },
    p99ms: { title: 'p99, ms', better: 'less' },
    sameP99ms: { title: 'clients of the writer’s server p99, ms' },
    otherP99ms: { title: 'of the other server p99, ms' },
    writeP50ms: { title: 'the write itself p50, ms' },
  },
  plan({ options: { quick }, withServer, startServer }) {
    const load = { clients: quick ? 20 : 200, runs: quick ? 2 : 10, perSecond: 50, seconds: quick ? 0.5 : 15 }
    return [
      () =>
        withServer(async (writer, databaseUrl) => {
          const other = await startServer(databaseUrl)
          try {
            const figures = await benchLive([writer.url, other.url], load)
            return [{ system: 'tidebase', setting: `${load.clients} clients`, figures }]
          } finally {
            await other.stop()
          }
        }),
    ]
  },
}

async function benchLive([writer, other]: [string, string], load: Load): Promise<Figures> {
  const client = connect(writer)
  const runs = await Promise.all(Array.from({ length: load.runs }, () => begunRun(client)))
  const sentAt = new Map<string, number>()
  const ms = { same: [] as number[], other: [] as number[] }
  const arrived = (where: 'same' | 'other') => (step: string) => {
    const sent = sentAt.get(step)
    if (sent !== undefined) ms[where].push(performance.now() - sent)
  }
  const streams = await Promise.all(
    Array.from({ length: load.clients }, (_, n) => {
      const path = `/runs/${runs[Math.floor(n / 2) % runs.length]}/events`
      return n % 2 === 0 ? follow(writer + path, arrived('same')) : follow(other + path, arrived('other'))
    }),
  )
  // The servers must have seen each other: one that is alone sends no notifications.
  await sleep(1_500)

  const writes = Math.ceil(load.perSecond * load.seconds)
  const writeMs: number[] = []
  const began = performance.now()
  const underWay: Promise<void>[] = []
  for (let n = 0; n < writes; n++) {
    await sleep(Math.max(0, began + (n * 1000) / load.perSecond - performance.now()))
    const name = `s${n}`
    const runId = runs[n % runs.length] ?? ''
    const sent = performance.now()
    sentAt.set(name, sent)
    underWay.push(record(client, runId, name).then(() => void writeMs.push(performance.now() - sent)))
  }
  await Promise.all(underWay)
  const expected = (writes * load.clients) / runs.length
  const all = () => ms.same.length + ms.other.length
  for (const giveUp = Date.now() + 20_000; all() < expected && Date.now() < giveUp; ) await sleep(20)
  for (const stream of streams) stream.destroy()
  client.close()
  if (all() !== expected) throw new Error(`${all()} of ${expected} events arrived`)
  const together = [...ms.same, ...ms.other]
  return {
    p50ms: round(percentile(together, 0.5)),
    p99ms: round(percentile(together, 0.99)),
    sameP99ms: round(percentile(ms.same, 0.99)),
    otherP99ms: round(percentile(ms.other, 0.99)),
    writeP50ms: round(percentile(writeMs, 0.5)),
  }
}

const leaseOwner = 'bench'

async function begunRun(client: Client): Promise<string> {
  const runId = newRunId()
  await client.post('/runs/bench', { id: runId })
  await client.post(`/runs/${runId}/begin`, {}, { 'x-tidebase-worker': leaseOwner })
  return runId
}

const record = (client: Client, runId: string, name: string) =>
  client.post(`/runs/${runId}/steps/record`, { name, inputHash: 'b'.repeat(64), leaseOwner, output: null })

/**
 * Opens a stream of events.
 *
 * @param completed called with the name of each step whose completion arrives
 * @returns when the server has said that it is open
 */
export async function follow(url: string, completed: (step: string) => void): Promise<ClientRequest> {
  const request = get(url, { agent: false })
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    request.once('response', resolve).once('error', reject)
  })
  if (response.statusCode !== 200) throw new Error(`${url}: ${response.statusCode}`)
  // From now on an error is the stream's end.
  request.on('error', () => {})
  response.on('error', () => {})
  let rest = ''
  response.setEncoding('utf8').on('data', (chunk: string) => {
    const frames = (rest + chunk).split('\n\n')
    rest = frames.pop() ?? ''
    for (const frame of frames) {
      const name = frame.includes('"step.completed"') && /"name":"([^"]+)"/.exec(frame)?.[1]
      if (name) completed(name)
    }
  })
  return request
}
