// pg-boss: node pgboss-queue.mjs <jobs> <enqueues in flight>, with DATABASE_URL. Claims and completes batches of 50.
import PgBoss from 'pg-boss'

const [jobs, inFlight] = process.argv.slice(2).map(Number)
const boss = new PgBoss({ connectionString: process.env.DATABASE_URL })
boss.on('error', console.error)
await boss.start()
await boss.createQueue('bench')
let next = 0
let began = performance.now()
const enqueue = async () => {
  while (next < jobs) await boss.send('bench', { n: next++ })
}
await Promise.all(Array.from({ length: inFlight }, enqueue))
const enqueuePerSecond = Math.round((jobs * 1000) / (performance.now() - began))
let done = 0
began = performance.now()
const work = async () => {
  for (;;) {
    const batch = await boss.fetch('bench', { batchSize: 50 })
    if (batch.length === 0) return
    const ids = batch.map(({ id }) => id)
    await boss.complete('bench', ids)
    done += ids.length
  }
}
await Promise.all(Array.from({ length: 8 }, work))
const claimCompletePerSecond = Math.round((done * 1000) / (performance.now() - began))
console.log(JSON.stringify({ system: 'pg-boss 10.4.2', enqueuePerSecond, claimCompletePerSecond }))
process.exit(0)
