// DBOS Transact: the same workflow, a library in this process that writes to Postgres.
// node dbos-steps.mjs <concurrent runs> <steps per run> <runs>, with DATABASE_URL
import { DBOS } from '@dbos-inc/dbos-sdk'

const [concurrent, steps, runs] = process.argv.slice(2).map(Number)
DBOS.setConfig({ name: 'bench', systemDatabaseUrl: process.env.DATABASE_URL, logLevel: 'error', runAdminServer: false })
const ms = []
const bench = DBOS.registerWorkflow(
  async () => {
    for (let n = 0; n < steps; n++) {
      const began = performance.now()
      await DBOS.runStep(async () => ({ ok: n }), { name: `s${n}` })
      ms.push(performance.now() - began)
    }
  },
  { name: 'bench' },
)
const many = async (total) => {
  let next = 0
  const worker = async () => {
    while (next++ < total) await bench()
  }
  await Promise.all(Array.from({ length: Math.min(concurrent, total) }, worker))
}
await DBOS.launch()
await many(Math.min(concurrent, runs))
ms.length = 0
const began = performance.now()
await many(runs)
const seconds = (performance.now() - began) / 1000
ms.sort((a, b) => a - b)
const at = (share) => Math.round((ms[Math.floor(ms.length * share)] ?? 0) * 100) / 100
const stepsPerSecond = Math.round(ms.length / seconds)
console.log(JSON.stringify({ system: 'DBOS 5.3.0', stepsPerSecond, p50ms: at(0.5), p99ms: at(0.99) }))
await DBOS.shutdown()
process.exit(0)
