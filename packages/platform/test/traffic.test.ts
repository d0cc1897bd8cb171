import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createTraffic } from '../src/gateway/traffic.ts'
import { attacker, read, runInPod } from './attacker.ts'
import { type Agent, startTestPlatform, type TestPlatform } from './harness.ts'

let platform: TestPlatform
let a: Agent
beforeAll(async () => {
  platform = await startTestPlatform()
  a = await platform.agent()
  await platform.deploy(a, 'alpha', attacker)
})
afterAll(() => platform.stop())

describe('what the gateway counts', () => {
  test('requests, errors and times of a pod, for its owner', async () => {
    const before = read<{ hour: { requests: number; errors: number } }>(
      await a.call('GET', '/api/pods/alpha/metrics'),
    ).hour
    for (let at = 0; at < 5; at++) await platform.fetchPod('alpha', '/')
    await platform.fetchPod('alpha', '/none')
    await runInPod(platform, 'alpha', 'process.exit(1)')
    const { hour, minutes } = read<{
      hour: { requests: number; errors: number; p50Ms: number; p99Ms: number }
      minutes: { requests: number }[]
    }>(await a.call('GET', '/api/pods/alpha/metrics'))
    expect(hour.requests - before.requests).toBeGreaterThanOrEqual(7)
    expect(hour.errors - before.errors).toBeGreaterThanOrEqual(1)
    expect(hour.p50Ms).toBeGreaterThan(0)
    expect(hour.p99Ms).toBeGreaterThanOrEqual(hour.p50Ms)
    expect(minutes).toHaveLength(60)
    expect(minutes.reduce((sum, { requests }) => sum + requests, 0)).toBe(hour.requests)
  })

  test('is kept by the minute for an hour, and then forgotten', () => {
    let now = 1_000_000 * 60_000
    const traffic = createTraffic(() => now)
    for (let ms = 1; ms <= 100; ms++) traffic.count('p', ms > 90 ? 500 : 200, ms)
    const { hour } = traffic.of('p')
    expect(hour).toMatchObject({ requests: 100, errors: 10 })
    expect(Math.abs((hour.p50Ms ?? 0) / 50 - 1)).toBeLessThan(0.1)
    expect(Math.abs((hour.p99Ms ?? 0) / 99 - 1)).toBeLessThan(0.1)
    now += 59 * 60_000
    traffic.count('p', 200, 1)
    expect(traffic.of('p')).toMatchObject({
      hour: { requests: 101 },
      minutes: { 0: { requests: 100 }, 59: { requests: 1 } },
    })
    now += 60_000
    expect(traffic.of('p').hour.requests).toBe(1)
    now += 60 * 60_000
    traffic.sweep()
    expect(traffic.of('p').hour).toEqual({ requests: 0, errors: 0, p50Ms: null, p99Ms: null })
  })
})
