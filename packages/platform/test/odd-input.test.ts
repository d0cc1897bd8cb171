import { afterAll, beforeAll, expect, test } from 'vitest'
import { oddRequests } from '../../../test/odd-input.ts'
import { endpoints } from '../src/endpoints.ts'
import { startTestPlatform, type TestPlatform } from './harness.ts'

let platform: TestPlatform
beforeAll(async () => {
  platform = await startTestPlatform()
}, 120_000)
afterAll(() => platform.stop())

test('whatever the control plane is asked is answered, and never with a failure of it', async () => {
  const answered = new Map<number, number>()
  const failed: string[] = []
  for (const [name, endpoint] of Object.entries(endpoints)) {
    // Some of what is asked ends the pod or the key.
    const agent = await platform.agent()
    const made = await agent.call('POST', '/api/pods', { name: name.toLowerCase() })
    const { pod }: { pod: { id: string } } = JSON.parse(made.text)
    const key = endpoint.access === 'operator' ? platform.operatorKey : agent.key
    const requests = oddRequests(endpoint, { pod: pod.id, id: pod.id, agent: agent.id, email: 'odd@example.com' })
    const sender = async () => {
      for (const { place, params, query, body } of requests) {
        const path = endpoint.path.replace(/:(\w+)|\*/g, (all, named) => encodeURIComponent(params[named ?? all] ?? ''))
        const search = new URLSearchParams(query)
        const reply = await platform.call(endpoint.method, search.size ? `${path}?${search}` : path, { key, body })
        answered.set(reply.status, (answered.get(reply.status) ?? 0) + 1)
        const { error, code, hint } = reply.body
        if (reply.status >= 500 || (reply.status >= 400 && !(error && code && hint)))
          failed.push(`${name}, ${place.slice(0, 80)}: ${reply.status} ${reply.text.slice(0, 100)}`)
      }
    }
    await Promise.all(Array.from({ length: 8 }, sender))
  }
  expect(failed).toEqual([])
  // It has come to the handlers, not only to the schemas.
  expect(answered.get(200)).toBeGreaterThan(100)
}, 120_000)
