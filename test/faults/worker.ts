// A worker that says what it does, for tests that stop it in the middle: `worker.ts <name>`.
import { LeaseLostError, Tidebase } from '@tidebase/sdk'

const [name = 'worker'] = process.argv.slice(2)
const say = (what: string) => console.log(`${what} ${name}`)
const tide = new Tidebase()

tide.workflow('slow', async (run) => {
  try {
    const one = await run.step('one', () => {
      say('one')
      return `one by ${name}`
    })
    const two = await run.step('two', async () => {
      say('two')
      // Long enough to be stopped in; the one who takes over is quick.
      if (name === 'stopped') await new Promise((resolve) => setTimeout(resolve, 3_000))
      return `two by ${name}`
    })
    say('done')
    return [one, two]
  } catch (error) {
    if (error instanceof LeaseLostError) say('lost')
    throw error
  }
})
tide.workflow('pay', (run) =>
  run.step('charge', { sideEffects: ['charge'] }, async () => {
    say('charging')
    if (name === 'killed') await new Promise((resolve) => setTimeout(resolve, 30_000))
    return `charged by ${name}`
  }),
)
tide.workflow('ask', async (run) => {
  const one = await run.step('one', () => {
    say('one')
    return `one by ${name}`
  })
  const heard = await run.waitForSignal('go')
  return [one, heard?.payload, await run.step('two', () => `two by ${name}`)]
})
await tide.work({ queues: ['q'], concurrency: 1, parkAfterMs: name === 'patient' ? 60_000 : 50 })
