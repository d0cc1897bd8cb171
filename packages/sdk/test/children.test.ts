// Child runs against a real server.
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { RunCancelledError, type RunContext } from '../src/index.ts'
import { signalled, watched } from './helpers.ts'

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer({ leaseMs: 600 })
})
afterAll(() => server.stop(500))

const detail = (runId: string) => server.ok('getRun', { params: { runId } })

test('children execute, are found again, and stop with their parent', async () => {
  const { tide } = watched(server)
  const ran: string[] = []
  const square = tide.workflow('square', async (run, input: { n: number }) => {
    ran.push(run.workflowName)
    return run.step('multiply', () => input.n ** 2)
  })
  let id = ''
  let broken = true
  const parent = async (run: RunContext) => {
    id = run.id
    const a = await run.child('a', square, { input: { n: 3 } })
    const b = await run.child('b', 'square', { input: { n: 4 }, metadata: { k: 'v' } })
    if (broken) throw new Error('stop')
    return [a, b, await run.child('c', (_child, input: string) => `hello ${input}`, { input: 'you' })]
  }
  await expect(tide.run('parent', parent)).rejects.toThrow('stop')
  broken = false
  expect(await tide.run('parent', { runId: id }, parent)).toEqual([9, 16, 'hello you'])
  expect(ran).toEqual(['square', 'square'])
  const { childRuns, runEdges } = await detail(id)
  expect(runEdges.map(({ name }) => name)).toEqual(['a', 'b', 'c'])
  expect(childRuns).toMatchObject([
    { workflowName: 'square', status: 'completed', metadata: { parentRunId: id, parentEdgeName: 'a' } },
    { workflowName: 'square', status: 'completed', metadata: { k: 'v' } },
    { workflowName: 'c', status: 'completed' },
  ])
  await expect(tide.run('bad', (run) => run.child('x', 'unknown'))).rejects.toMatchObject({
    code: 'workflow_not_registered',
  })

  const started = signalled()
  const cancelled = tide.run('parent2', (run) => {
    id = run.id
    return run.child('endless', () => {
      started.done()
      return new Promise(() => {})
    })
  })
  await started.promise
  await tide.runs.cancel(id)
  await expect(cancelled).rejects.toBeInstanceOf(RunCancelledError)
  await vi.waitFor(async () => {
    expect((await detail(id)).childRuns).toMatchObject([{ status: expect.stringMatching(/cancelled|failed/) }])
  })
})
