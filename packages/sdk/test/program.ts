// A program as users write it, for the tests that start one: `program.ts <url> [run id]`. Says what it does on stdout.
import { Tidebase } from '../src/index.ts'

const [url = '', runId] = process.argv.slice(2)
const tide = new Tidebase({ url })
const result = await tide.run('program', { runId }, async (run) => {
  console.log(`run ${run.id} attempt ${run.attempt}`)
  for (const n of [1, 2, 3]) {
    await run.step('work', { each: true }, () => console.log(`step ${n}`))
    // Killed here the first time.
    if (n === 2 && run.attempt === 1) await new Promise((resolve) => setTimeout(resolve, 60_000))
  }
  await run.gate('quick', 'Quick?', { timeoutMs: 1 })
  return 'done'
})
for await (const event of tide.runs.subscribe((await tide.runs.list({ workflow: 'program' })).runs[0]?.id ?? ''))
  if (event.type === 'run.completed') console.log(result)
