// What a pod's visitors and processes amount to: counted by the gateway (gateway/traffic.ts) and by the driver.
import { z } from 'zod'
import { endpoint, Time } from './endpoint.ts'

const counts = {
  requests: z.int(),
  errors: z.int().describe('Answers of 500 and above, the gateway’s own among them'),
  p50Ms: z.number().nullable().describe('Until the answer began'),
  p99Ms: z.number().nullable(),
}

const metrics = endpoint({
  method: 'GET',
  path: '/api/pods/:pod/metrics',
  summary:
    'Requests, errors and times of the last hour, in all and by the minute, oldest first; kept in memory. Memory and processor are told by replica: GET /api/pods/:pod.',
  access: 'read',
  reply: z.object({ hour: z.object(counts), minutes: z.array(z.object({ at: Time, ...counts })) }),
  errors: [],
  async handler({ platform, pod }) {
    const { hour, minutes } = platform.traffic.of(pod.id)
    return { hour, minutes: minutes.map(({ at, ...rest }) => ({ at: new Date(at).toISOString(), ...rest })) }
  },
})

export const metricEndpoints = { getMetrics: metrics }
