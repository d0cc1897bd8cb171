// The routes that Studio calls: method, path and who may call, checked by the compiler against the contract. The schemas
// themselves stay on the server; replies are the server's own.
import type { BodyOf, ErrorBody, ParamsOf, QueryOf, ReplyOf, RouteName, Routes } from '@tidebase/wire'
import { forgetKey, key, me } from './session.ts'

type Endpoint<N extends RouteName> = readonly [Routes[N]['method'], Routes[N]['path'], Routes[N]['scopes']]

const all = ['worker', 'enqueue', 'read'] as const
const endpoints = {
  whoAmI: ['GET', '/whoami', all],
  listKeys: ['GET', '/keys', []],
  createKey: ['POST', '/keys', []],
  revokeKey: ['DELETE', '/keys/:keyId', []],
  listRuns: ['GET', '/runs', all],
  countRuns: ['GET', '/runs/count', all],
  cancelRuns: ['POST', '/bulk/cancel', ['worker']],
  retryRuns: ['POST', '/bulk/retry', ['enqueue']],
  getRun: ['GET', '/runs/:runId', all],
  cancelRun: ['POST', '/runs/:runId/cancel', ['worker']],
  forkRun: ['POST', '/runs/:runId/fork', ['worker']],
  retryRun: ['POST', '/runs/:runId/retry', ['enqueue']],
  recoverRun: ['POST', '/runs/:runId/recover', ['worker']],
  redeliver: ['POST', '/runs/:runId/deliveries/:deliveryId/redeliver', ['worker']],
  listWorkers: ['GET', '/workers', ['read']],
  streamEvents: ['GET', '/runs/:runId/events', all],
  streamProjectEvents: ['GET', '/events', ['worker', 'read']],
  resolveStep: ['POST', '/runs/:runId/steps/:stepId/resolve', []],
  listGates: ['GET', '/gates', ['read']],
  resolveGate: ['POST', '/runs/:runId/gates/:gateId/resolve', ['enqueue']],
  sumUsage: ['GET', '/usage', ['read']],
  listQueues: ['GET', '/queues', ['worker', 'read']],
  configureQueue: ['PUT', '/queues/:queue/config', []],
  pauseQueue: ['POST', '/queues/:queue/pause', []],
  resumeQueue: ['POST', '/queues/:queue/resume', []],
  queueStats: ['GET', '/queues/:queue/stats', ['worker', 'read']],
  putSchedule: ['PUT', '/schedules/:name', ['worker']],
  listSchedules: ['GET', '/schedules', ['worker', 'read']],
  triggerSchedule: ['POST', '/schedules/:name/trigger', ['worker', 'enqueue']],
} as const satisfies { [N in RouteName]?: Endpoint<N> }

/** A route that Studio can call. */
export type Callable = keyof typeof endpoints

/** What a call of a route takes. */
export interface CallInput<N extends Callable> {
  params?: ParamsOf<Routes[N]>
  query?: { [K in keyof QueryOf<Routes[N]>]?: string | number | undefined } | Record<string, string>
  body?: Partial<BodyOf<Routes[N]>>
  signal?: AbortSignal
}

/** An answer that is not 2xx, or none at all. */
export class CallError extends Error {
  readonly code: string
  readonly hint: string

  constructor({ error, code, hint }: { error: string; code: string; hint: string }) {
    super(error)
    this.name = 'CallError'
    this.code = code
    this.hint = hint
  }
}

/** Whether the visitor's key may call a route; what it may not is not offered. */
export function can(name: Callable): boolean {
  const scope = me.value?.scope
  const scopes: readonly string[] = endpoints[name][2]
  return scope === 'admin' || (scope !== undefined && scopes.includes(scope))
}

/** Headers that say who is calling. */
export function authorization(): Record<string, string> {
  return key.value === null ? {} : { authorization: `Bearer ${key.value}` }
}

/**
 * Calls a route.
 *
 * @throws CallError with the server's words, or `unreachable`
 */
export async function call<N extends Callable>(name: N, input: CallInput<N> = {}): Promise<ReplyOf<Routes[N]>> {
  const [method, path] = endpoints[name]
  const params = (input.params ?? {}) as Record<string, string>
  const query = new URLSearchParams()
  for (const [field, value] of Object.entries(input.query ?? {}))
    if (value !== undefined && value !== '') query.set(field, String(value))
  const address = path.replace(/:(\w+)/g, (_, param: string) => encodeURIComponent(params[param] ?? ''))
  const sends = method === 'POST' || method === 'PUT'
  let response: Response
  try {
    response = await fetch(query.size ? `${address}?${query}` : address, {
      method,
      headers: { accept: 'application/json', ...authorization(), ...(sends && { 'content-type': 'application/json' }) },
      ...(sends && { body: JSON.stringify(input.body ?? {}) }),
      signal: input.signal ?? null,
    })
  } catch (error) {
    if (input.signal?.aborted) throw error
    throw new CallError({
      error: 'The server does not answer.',
      code: 'unreachable',
      hint: 'Studio goes on by itself when it is back.',
    })
  }
  const body: unknown = await response.json().catch(() => null)
  if (response.ok) return body as ReplyOf<Routes[N]>
  if (response.status === 401) forgetKey()
  throw new CallError(isErrorBody(body) ? body : { error: `HTTP ${response.status}`, code: 'unknown', hint: '' })
}

function isErrorBody(body: unknown): body is ErrorBody {
  return typeof body === 'object' && body !== null && 'error' in body && 'code' in body
}
