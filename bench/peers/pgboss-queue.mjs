// pg-boss: node pgboss-queue.mjs <jobs> <enqueues in flight> <pick-ups> <finished> <delayed>, with DATABASE_URL. Claims
// and completes batches of 50. `finished` and `delayed` jobs are there before. Its worker polls, twice a second at most.
import PgBoss from 'pg-boss'
import { rate, repeat } from './measure.mjs'

const [jobs, inFlight, pickUps, finished, delayed] = process.argv.slice(2).map(Number)
const boss = new PgBoss({ connectionString: process.env.DATABASE_URL })
boss.on('error', console.error)
await boss.start()
await boss.createQueue('bench')
const db = boss.getDb()
if (finished || delayed) {
  await db.executeSql(
    `insert into pgboss.job (name, data, state, start_after, completed_on, policy)
      select 'bench', '{"old":true}'::jsonb, 'completed'::pgboss.job_state, now() - interval '1 hour', now(), 'standard'
      from generate_series(1, ${finished})
      union all
      select 'bench', '{"old":true}'::jsonb, 'created'::pgboss.job_state, now() + interval '1 day', null, 'standard'
      from generate_series(1, ${delayed})`,
  )
  await db.executeSql('vacuum (analyze)')
  await db.executeSql('checkpoint')
}
let began = performance.now()
await repeat(jobs, inFlight, (n) => boss.send('bench', { n }))
const enqueuePerSecond = rate(jobs, began)
const batches = Math.ceil(jobs / 500)
const batch = Array.from({ length: 500 }, (_, n) => ({ name: 'bench', data: { n } }))
began = performance.now()
await repeat(batches, 4, () => boss.insert(batch))
const enqueueBatchPerSecond = rate(batches * 500, began)
let done = 0
began = performance.now()
const work = async () => {
  for (;;) {
    const claimed = await boss.fetch('bench', { batchSize: 50 })
    if (claimed.length === 0) return
    const ids = claimed.map(({ id }) => id)
    await boss.complete('bench', ids)
    done += ids.length
  }
}
await Promise.all(Array.from({ length: 8 }, work))
const claimCompletePerSecond = rate(done, began)
if (done !== jobs + batches * 500) throw new Error(`${done} of ${jobs + batches * 500} jobs were completed`)
const ms = []
let called = () => {}
if (pickUps) await boss.work('bench', { pollingIntervalSeconds: 0.5 }, async () => called(performance.now()))
for (let n = 0; n < pickUps; n++) {
  const has = new Promise((resolve) => {
    called = resolve
  })
  const sent = performance.now()
  await boss.send('bench', { n })
  ms.push((await has) - sent)
}
ms.sort((a, b) => a - b)
const at = (share) => Math.round((ms[Math.floor(ms.length * share)] ?? 0) * 100) / 100
console.log(
  JSON.stringify({
    system: 'pg-boss 10.4.2',
    enqueuePerSecond,
    enqueueBatchPerSecond,
    claimCompletePerSecond,
    ...(pickUps ? { pickUpP50ms: at(0.5), pickUpP99ms: at(0.99) } : {}),
  }),
)
process.exit(0)
