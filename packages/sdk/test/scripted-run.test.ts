// One run, described in a file that every SDK executes: the server must see the same of each.
import { afterAll, beforeAll, expect, test } from 'vitest'
import script from '../../../test/conformance/scripted-run.json' with { type: 'json' }
import { startServer } from '../../../test/server.ts'
import { type GateOptions, type RunContext, StepError, type StepOptions, Tidebase } from '../src/index.ts'

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer({ reconcileMs: 20 })
})
afterAll(() => server.stop(500))

/** An operation of the script; which fields are there depends on `do`. */
interface Operation {
  do: string
  name: string
  options?: StepOptions & GateOptions
  failures?: number
  message?: string
  output?: unknown
  caught?: boolean
  inputs?: unknown[]
  items?: unknown[]
  concurrency?: number
  value?: unknown
  label?: string
  state?: unknown
  note?: object
  entry?: object
  ms?: number
  timeoutMs?: number
  received?: unknown
  workflow?: string
  input?: unknown
  result?: unknown
  prompt?: string
  decision?: string
}

async function step(run: RunContext, { name, options = {}, failures = 0, message, output, caught }: Operation) {
  let tries = 0
  const done = run.step(name, options, () => {
    if (++tries <= failures) throw new Error(message)
    return output
  })
  if (!caught) return expect(await done).toEqual(output)
  const error = await done.catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(StepError)
}

async function perform(run: RunContext, operation: Operation): Promise<void> {
  const { name, label = '', note, value } = operation
  switch (operation.do) {
    case 'state.set':
      return void (await run.state.set(value, note))
    case 'state.patch':
      return void (await run.state.patch({ ...(value as object) }, note))
    case 'state.save':
      return void (await run.state.save(label, note))
    case 'snapshot':
      return void (await run.snapshots.create(label, { ...note, state: operation.state }))
    case 'usage':
      return void (await run.usage({ ...operation.entry }))
    case 'step':
      return step(run, operation)
    case 'each':
      for (const input of operation.inputs ?? []) await run.step(name, { each: true, input }, () => input)
      return
    case 'fanout': {
      const { items = [], concurrency } = operation
      return expect(await run.fanout(name, items, (item) => item, { concurrency })).toEqual(items)
    }
    case 'sleep':
      return run.sleep(operation.ms ?? 0)
    case 'signal': {
      const signal = await run.waitForSignal(name, { timeoutMs: operation.timeoutMs })
      return expect(signal?.payload ?? null).toEqual(operation.received)
    }
    case 'child': {
      const result = await run.child(name, operation.workflow ?? '', { input: operation.input })
      return expect(result).toEqual(operation.result)
    }
    case 'gate': {
      const { decision } = await run.gate(name, operation.prompt, operation.options)
      return expect(decision).toBe(operation.decision)
    }
    default:
      throw new Error(`the script says "${operation.do}"`)
  }
}

test('the scripted run', async () => {
  const tide = new Tidebase({ url: server.url })
  tide.workflow('scripted-child', (run, input) => run.step('work', { input }, () => input))
  tide.workflow(script.workflow, async (run, input) => {
    expect(input).toEqual(script.input)
    for (const operation of script.script as Operation[]) {
      if (operation.do === 'return') return operation.value
      await perform(run, operation)
    }
    return undefined
  })
  const { id } = await tide.runs.create(script.workflow, { input: script.input })
  for (const { name, payload } of script.signals) await tide.runs.signal(id, name, payload)
  await tide.run(script.workflow, { runId: id })
  const { run, steps: recorded, events } = await tide.runs.get(id)
  const steps = recorded.map((each) => ({ ...each, error: each.error?.split('\n    at ')[0] ?? null }))
  expect(run).toMatchObject(script.run)
  expect(steps.map((each, index) => ({ ...each, ...script.steps[index] }))).toEqual(steps)
  expect(steps.map(({ name }) => name)).toEqual(script.steps.map(({ name }) => name))
  expect(events.map(({ type }) => type)).toEqual(script.events.map(({ type }) => type))
  for (const [index, { payload }] of script.events.entries()) expect(events[index]?.payload).toMatchObject(payload)
})
