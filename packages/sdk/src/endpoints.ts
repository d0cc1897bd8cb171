// The routes this SDK calls: method and path of each, checked by the compiler against the contract.
// To add one: a line here; `Transport.call` is typed from it. Every call is repeated when its answer is lost, so what
// creates something must carry an id of ours.
import type { BodyOf, ParamsOf, ReplyOf, RouteName, Routes } from '@tidebase/wire'

type Endpoint<N extends RouteName> = readonly [Routes[N]['method'], Routes[N]['path']]

export const endpoints = {
  health: ['GET', '/health'],
  createRun: ['POST', '/runs/:workflowName'],
  listRuns: ['GET', '/runs'],
  getRun: ['GET', '/runs/:runId'],
  beginRun: ['POST', '/runs/:runId/begin'],
  heartbeatRun: ['POST', '/runs/:runId/heartbeat'],
  completeRun: ['POST', '/runs/:runId/complete'],
  failRun: ['POST', '/runs/:runId/fail'],
  cancelRun: ['POST', '/runs/:runId/cancel'],
  forkRun: ['POST', '/runs/:runId/fork'],
  retryRun: ['POST', '/runs/:runId/retry'],
  recoverRun: ['POST', '/runs/:runId/recover'],
  streamEvents: ['GET', '/runs/:runId/events'],
  streamProjectEvents: ['GET', '/events'],
  beginStep: ['POST', '/runs/:runId/steps/begin'],
  recordStep: ['POST', '/runs/:runId/steps/record'],
  completeStep: ['POST', '/runs/:runId/steps/:stepId/complete'],
  failStep: ['POST', '/runs/:runId/steps/:stepId/fail'],
  resolveStep: ['POST', '/runs/:runId/steps/:stepId/resolve'],
  setState: ['PUT', '/runs/:runId/state'],
  patchState: ['PATCH', '/runs/:runId/state'],
  saveState: ['POST', '/runs/:runId/state/save'],
  listStateVersions: ['GET', '/runs/:runId/state/versions'],
  createSnapshot: ['POST', '/runs/:runId/snapshots'],
  listSnapshots: ['GET', '/runs/:runId/snapshots'],
  listGates: ['GET', '/gates'],
  beginGate: ['POST', '/runs/:runId/gates/begin'],
  getGate: ['GET', '/runs/:runId/gates/:gateId'],
  resolveGate: ['POST', '/runs/:runId/gates/:gateId/resolve'],
  createTimer: ['POST', '/runs/:runId/timers'],
  waitForSignal: ['POST', '/runs/:runId/signals/wait'],
  getWait: ['GET', '/runs/:runId/waits/:waitId'],
  sendSignal: ['POST', '/runs/:runId/signals'],
  parkRun: ['POST', '/runs/:runId/park'],
  appendStream: ['POST', '/runs/:runId/stream'],
  createChild: ['POST', '/runs/:runId/children'],
  recordUsage: ['POST', '/runs/:runId/usage'],
  sumUsage: ['GET', '/usage'],
  enqueue: ['POST', '/queues/:queue/enqueue'],
  enqueueBatch: ['POST', '/queues/:queue/enqueue/batch'],
  claim: ['POST', '/queues/claim'],
  getProject: ['GET', '/project'],
  configureProject: ['PUT', '/project'],
  listQueues: ['GET', '/queues'],
  configureQueue: ['PUT', '/queues/:queue/config'],
  pauseQueue: ['POST', '/queues/:queue/pause'],
  resumeQueue: ['POST', '/queues/:queue/resume'],
  putSchedule: ['PUT', '/schedules/:name'],
  listSchedules: ['GET', '/schedules'],
  deleteSchedule: ['DELETE', '/schedules/:name'],
  triggerSchedule: ['POST', '/schedules/:name/trigger'],
} as const satisfies { [N in RouteName]?: Endpoint<N> }

/** A route this SDK can call. */
export type CallName = keyof typeof endpoints

/** The values of a query string; absent ones are left out. */
export type Query = Record<string, string | number | boolean | null | undefined>

/** How a call is to be made, beside what it says. */
export interface CallOptions {
  headers?: Record<string, string>
  /** Gives the call up; it then throws the signal's reason. */
  signal?: AbortSignal | undefined
  /** How long one try may take, in milliseconds. */
  timeoutMs?: number | undefined
  /** How long the call is repeated while no usable answer comes, in milliseconds; 0 tries once. */
  retryForMs?: number | undefined
}

/** What is said in a call: path parameters, query, and body as the contract has them. */
export type CallRequest<N extends CallName> = CallOptions & { query?: Query } & (ParamsOf<Routes[N]> extends Record<
    string,
    string
  >
    ? { params: ParamsOf<Routes[N]> }
    : unknown) &
  (BodyOf<Routes[N]> extends undefined ? unknown : { body: BodyOf<Routes[N]> })

/** The JSON a route answers with. */
export type CallReply<N extends CallName> = ReplyOf<Routes[N]>
