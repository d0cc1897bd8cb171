// A request that every route accepts far enough to look for what its path names.
import { type Route, type RouteName, routes } from '@tidebase/wire'
import type { Request } from './server.ts'

const body = {
  leaseOwner: 'w',
  name: 'n',
  inputHash: 'h',
  prompt: 'p',
  label: 'l',
  error: 'e',
  workflowName: 'w',
  value: {},
  queues: ['none'],
  cron: '0 0 * * *',
  delayMs: 1,
  signal: 's',
  waitingFor: ['wait_x'],
  jobs: [{ workflowName: 'w' }],
  stream: 's',
  offset: 0,
  chunk: '',
  scope: 'read',
  calls: [],
  filter: { workflow: 'none' },
}
const none = '0'.repeat(32)

/** @param params in place of those that name nothing */
export function anyRequest(name: RouteName, params: Record<string, string> = {}): Request {
  const { method }: Route = routes[name]
  return {
    params: {
      runId: `run_${none}`,
      stepId: `step_${none}`,
      gateId: `gate_${none}`,
      waitId: `wait_${none}`,
      keyId: `key_${none}`,
      deliveryId: `del_${none}`,
      queue: 'q',
      project: 'other',
      name: 'n',
      workflowName: 'w',
      ...params,
    },
    ...(method === 'GET' || method === 'DELETE'
      ? {}
      : { body: { ...body, decision: name === 'resolveStep' ? 'retry' : 'approved' } }),
  }
}
