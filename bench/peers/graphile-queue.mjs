// graphile-worker: node graphile-queue.mjs <jobs> <enqueues in flight>, with DATABASE_URL
import { Logger, makeWorkerUtils, run } from 'graphile-worker'

const [jobs, inFlight] = process.argv.slice(2).map(Number)
const connectionString = process.env.DATABASE_URL
const utils = await makeWorkerUtils({ connectionString, maxPoolSize: 10 })
await utils.migrate()
let next = 0
let began = performance.now()
const enqueue = async () => {
  while (next < jobs) await utils.addJob('bench', { n: next++ })
}
await Promise.all(Array.from({ length: inFlight }, enqueue))
const enqueuePerSecond = Math.round((jobs * 1000) / (performance.now() - began))
let done = 0
let finish
const all = new Promise((resolve) => {
  finish = resolve
})
const bench = async () => {
  if (++done === jobs) finish()
}
began = performance.now()
const runner = await run({
  connectionString,
  concurrency: 16,
  pollInterval: 100,
  noHandleSignals: true,
  logger: new Logger(() => () => {}),
  taskList: { bench },
})
await all
const claimCompletePerSecond = Math.round((jobs * 1000) / (performance.now() - began))
console.log(JSON.stringify({ system: 'graphile-worker 0.17.3', enqueuePerSecond, claimCompletePerSecond }))
await runner.stop()
await utils.release()
process.exit(0)
