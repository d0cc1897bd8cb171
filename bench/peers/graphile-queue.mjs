// graphile-worker: node graphile-queue.mjs <jobs> <enqueues in flight> <pick-ups> <finished> <delayed>, with
// DATABASE_URL. It deletes jobs that are done, so `finished` changes nothing; `delayed` jobs are there before.
import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import { rate, repeat } from './measure.mjs'

const [jobs, inFlight, pickUps, , delayed] = process.argv.slice(2).map(Number)
const connectionString = process.env.DATABASE_URL
const utils = await makeWorkerUtils({ connectionString, maxPoolSize: 10 })
await utils.migrate()
if (delayed) {
  await utils.withPgClient(async (db) => {
    await db.query(
      `select count(*) from generate_series(1, ${delayed}) n
        cross join lateral graphile_worker.add_job('bench', '{"old":true}', run_at => now() + interval '1 day')`,
    )
    await db.query('vacuum (analyze)')
    await db.query('checkpoint')
  })
}
let began = performance.now()
await repeat(jobs, inFlight, (n) => utils.addJob('bench', { n }))
const enqueuePerSecond = rate(jobs, began)
const batches = Math.ceil(jobs / 500)
const batch = Array.from({ length: 500 }, (_, n) => ({ identifier: 'bench', payload: { n } }))
began = performance.now()
await repeat(batches, 4, () => utils.addJobs(batch))
const enqueueBatchPerSecond = rate(batches * 500, began)
const all = jobs + batches * 500
let done = 0
let called = () => {}
const finished = new Promise((resolve) => {
  called = () => {
    if (++done === all) resolve()
  }
})
began = performance.now()
const runner = await run({
  connectionString,
  concurrency: 16,
  pollInterval: 100,
  noHandleSignals: true,
  logger: new Logger(() => () => {}),
  taskList: { bench: async () => called() },
})
await finished
const claimCompletePerSecond = rate(all, began)
const ms = []
for (let n = 0; n < pickUps; n++) {
  await new Promise((resolve) => setTimeout(resolve, 15))
  const has = new Promise((resolve) => {
    called = () => resolve(performance.now())
  })
  const sent = performance.now()
  await utils.addJob('bench', { n })
  ms.push((await has) - sent)
}
ms.sort((a, b) => a - b)
const at = (share) => Math.round((ms[Math.floor(ms.length * share)] ?? 0) * 100) / 100
console.log(
  JSON.stringify({
    system: 'graphile-worker 0.17.3',
    enqueuePerSecond,
    enqueueBatchPerSecond,
    claimCompletePerSecond,
    ...(pickUps ? { pickUpP50ms: at(0.5), pickUpP99ms: at(0.99) } : {}),
  }),
)
await runner.stop()
await utils.release()
process.exit(0)
