import { type Route, type RouteName, routes } from '@tidebase/wire'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type OddRequest, oddRequests } from '../../../test/odd-input.ts'
import { startServer } from '../../../test/server.ts'

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer({ reconciler: false })
})
afterAll(() => server.stop())

interface Answer {
  status: number
  body: unknown
}

/** Odd bodies travel together, which is quicker; what is odd about an address needs a request of its own. */
async function ask(name: RouteName, odd: OddRequest[]): Promise<[OddRequest, Answer][]> {
  const route: Route = routes[name]
  const together = odd.filter(({ place }) => place.startsWith('body') && !route.alone)
  const alone = odd.filter((request) => !together.includes(request))
  const answered: [OddRequest, Answer][] = []
  for (let from = 0; from < together.length; from += 250) {
    const some = together.slice(from, from + 250)
    const calls = some.map(({ params, body }) => ({ route: name, params, body }))
    const { answers } = await server.ok('batch', { body: { calls } })
    for (const [n, request] of some.entries()) answered.push([request, answers[n] ?? { status: 0, body: undefined }])
  }
  for (const request of alone) answered.push([request, await server.send(name, request)])
  return answered
}

test('whatever is asked is answered, and never with a failure of the server', async () => {
  const { run } = await server.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  await server.ok('beginRun', { params: { runId: run.id }, headers: { 'x-tidebase-worker': 'w1' } })
  const id = 'a'.repeat(32)
  const known = { runId: run.id, stepId: `step_${id}`, gateId: `gate_${id}`, leaseOwner: 'w1' }
  // What is answered as it happens has no end.
  const names = Object.keys(routes).filter((name): name is RouteName => routes[name as RouteName].reply !== null)
  expect(names.length).toBeGreaterThan(55)
  const failed: string[] = []
  let done = 0
  for (const name of names)
    for (const [{ place }, { status, body }] of await ask(name, [...oddRequests(routes[name], known)])) {
      if (status === 200) done++
      else if (status < 400 || status > 499) failed.push(`${name}, ${place.slice(0, 80)}: ${status}`)
      else expect(body).toMatchObject({ error: expect.any(String), code: expect.any(String), hint: expect.any(String) })
    }
  expect(failed).toEqual([])
  // It has come to the handlers, not only to the schemas.
  expect(done).toBeGreaterThan(1_000)
}, 120_000)
