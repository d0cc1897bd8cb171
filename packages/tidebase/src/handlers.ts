// Which operation answers which route. A missing handler or a reply of the wrong form does not compile.
import {
  type BodyOf,
  openApiDocument,
  type ParamsOf,
  type QueryOf,
  type ReplyOf,
  type RouteName,
  type Routes,
  routes,
} from '@tidebase/wire'
import { beginRun, completeRun, failRun, heartbeatRun } from './attempts.ts'
import { cancelRun } from './cancel.ts'
import { createChild } from './children.ts'
import { appendStream, parseOffsets } from './chunks.ts'
import { claim } from './claims.ts'
import { getRun } from './detail.ts'
import type { Encoded } from './encoded.ts'
import type { Caller, Engine } from './engine.ts'
import { enqueue, enqueueBatch } from './enqueue.ts'
import { forkRun } from './fork.ts'
import { decideGate, gatePage } from './gate-page.ts'
import { beginGate, getGate, listGates, resolveGate } from './gates.ts'
import { createKeyIn, createProjectKey, keysOfProject, revokeProjectKey, whoAmI } from './keys.ts'
import { cancelRuns, countRuns, listRuns, retryRuns } from './lists.ts'
import type { Streams } from './live.ts'
import { llmsText } from './llms.ts'
import type { Metrics } from './metrics.ts'
import { parkRun } from './park.ts'
import { queueStats } from './queue-stats.ts'
import { configureQueue, listQueues, setPaused } from './queues.ts'
import { recordStep } from './records.ts'
import { configureProject, getProject } from './retention.ts'
import { retryRun } from './retry.ts'
import { resolveStep } from './reviews.ts'
import { createRun, readRun, runKey } from './runs.ts'
import { deleteSchedule, listSchedules, putSchedule, triggerSchedule } from './schedules.ts'
import { createSnapshot, listSnapshots, listStateVersions, patchState, saveState, setState } from './states.ts'
import { beginStep, completeStep, failStep } from './steps.ts'
import { recordUsage, sumUsage } from './usage.ts'
import { createTimer, getWait, sendSignal, waitForSignal } from './waits.ts'
import { recoverRun, redeliver } from './webhooks.ts'
import { listWorkers } from './workers.ts'

/** A request that was authenticated and validated. */
export interface Input<Name extends RouteName> {
  caller: Caller
  params: ParamsOf<Routes[Name]>
  query: QueryOf<Routes[Name]>
  body: BodyOf<Routes[Name]>
  headers: Headers
  /** As it came; its body is unread where the route has none. */
  request: Request
  /** Abort when the client goes away and when the server stops. Made when asked for. */
  readonly signals: readonly AbortSignal[]
}

/** One function per route; a batch is the edge's own. */
export type Handlers = {
  [Name in Exclude<RouteName, 'batch'>]: (
    input: Input<Name>,
  ) => Promise<Routes[Name]['reply'] extends null ? Response : ReplyOf<Routes[Name]> | Encoded<ReplyOf<Routes[Name]>>>
}

/** The handlers of one server. */
export function handlersOf(
  engine: Engine,
  streams: Streams,
  metrics: Metrics,
  answer: (request: Request) => Promise<Response>,
): Handlers {
  const llms = llmsText()
  let document: string | undefined
  const { cold, hot } = engine.db
  /** The stored id of the path's run, once it is known that the caller may read it. */
  const readable = async (caller: Caller, runId: string) => {
    const run = runKey(runId)
    await readRun(cold, caller, run)
    return run
  }
  return {
    health: async () => {
      await cold.query('select 1')
      return { ok: true }
    },
    llms: async () => new Response(llms, { headers: { 'content-type': 'text/plain; charset=utf-8' } }),
    metrics: async ({ caller }) =>
      new Response(await metrics.text(cold, caller), { headers: { 'content-type': metrics.contentType } }),
    // Loaded when it is asked for the first time: most servers never are.
    mcp: async ({ caller, request }) => (await import('./mcp.ts')).serveMcp(request, caller.scope, answer),
    // Made when it is asked for: it takes a tenth of a server's start.
    openapi: async () => {
      document ??= JSON.stringify(openApiDocument(routes))
      return new Response(document, { headers: { 'content-type': 'application/json' } })
    },

    whoAmI: ({ caller }) => whoAmI(engine, caller),
    listKeys: ({ caller }) => keysOfProject(cold, caller),
    createKey: ({ caller, body }) => createProjectKey(cold, caller, body),
    revokeKey: ({ caller, params }) => revokeProjectKey(cold, caller, params.keyId),

    createRun: ({ caller, params, body }) => createRun(engine, caller, params.workflowName, body),
    listRuns: ({ caller, query }) => listRuns(cold, caller, query),
    countRuns: ({ caller, query }) => countRuns(cold, caller, query),
    cancelRuns: ({ caller, body }) => cancelRuns(engine, caller, body),
    retryRuns: ({ caller, body }) => retryRuns(engine, caller, body),
    getRun: ({ caller, params, query }) => getRun(engine, caller, runKey(params.runId), query),
    beginRun: ({ caller, params, query, headers }) =>
      beginRun(
        engine,
        caller,
        runKey(params.runId),
        headers.get('x-tidebase-worker') ?? undefined,
        query.include === 'checkpoints',
      ),
    heartbeatRun: ({ caller, params, body }) => heartbeatRun(engine, caller, runKey(params.runId), body),
    completeRun: ({ caller, params, body }) => completeRun(engine, caller, runKey(params.runId), body),
    failRun: ({ caller, params, body }) => failRun(engine, caller, runKey(params.runId), body),
    cancelRun: ({ caller, params, body }) => cancelRun(engine, caller, runKey(params.runId), body),
    forkRun: ({ caller, params, body }) => forkRun(engine, caller, runKey(params.runId), body),
    retryRun: async ({ caller, params, body }) => {
      const run = runKey(params.runId)
      if (caller.scope === 'enqueue') await readRun(hot, caller, run)
      return retryRun(engine, caller, run, body)
    },
    recoverRun: ({ caller, params, body }) => recoverRun(engine, caller, runKey(params.runId), body),
    redeliver: ({ caller, params }) => redeliver(engine, caller, runKey(params.runId), params.deliveryId),
    listWorkers: ({ caller }) => listWorkers(engine, caller),
    streamEvents: async ({ caller, params, query, headers }) => {
      const run = await readable(caller, params.runId)
      const after = resumedAt(headers) ?? query.after ?? 0
      return eventStream(streams.run.stream(caller, run, after, parseOffsets(query.offsets)))
    },
    streamProjectEvents: async ({ caller, query, headers }) =>
      eventStream(streams.project.stream(caller, resumedAt(headers) ?? query.after ?? 0)),

    beginStep: ({ caller, params, body }) => beginStep(engine, caller, runKey(params.runId), body),
    recordStep: ({ caller, params, body }) => recordStep(engine, caller, runKey(params.runId), body),
    completeStep: ({ caller, params, body }) => completeStep(engine, caller, runKey(params.runId), params.stepId, body),
    failStep: ({ caller, params, body }) => failStep(engine, caller, runKey(params.runId), params.stepId, body),
    resolveStep: ({ caller, params, body }) => resolveStep(engine, caller, runKey(params.runId), params.stepId, body),

    setState: ({ caller, params, body }) => setState(engine, caller, runKey(params.runId), body),
    patchState: ({ caller, params, body }) => patchState(engine, caller, runKey(params.runId), body),
    saveState: ({ caller, params, body }) => saveState(engine, caller, runKey(params.runId), body),
    listStateVersions: async ({ caller, params, query }) =>
      listStateVersions(cold, caller, await readable(caller, params.runId), {
        stream: query.stream,
        labeled: query.labeled === 'true' || query.labeled === '1',
      }),
    createSnapshot: ({ caller, params, body }) => createSnapshot(engine, caller, runKey(params.runId), body),
    listSnapshots: async ({ caller, params }) => listSnapshots(cold, caller, await readable(caller, params.runId)),

    listGates: ({ caller, query }) => listGates(cold, caller, query),
    beginGate: ({ caller, params, body }) => beginGate(engine, caller, runKey(params.runId), body),
    getGate: ({ caller, params, query, signals }) =>
      getGate(engine, caller, runKey(params.runId), params.gateId, query.waitMs ?? 0, signals),
    resolveGate: async ({ caller, params, body }) => {
      const run = runKey(params.runId)
      if (caller.scope !== 'admin') await readRun(hot, caller, run)
      return resolveGate(engine, caller, run, params.gateId, body)
    },

    gatePage: ({ params, query }) => gatePage(engine, params.runId, params.gateId, query.token),
    decideGate: ({ params, body }) => decideGate(engine, params.runId, params.gateId, body),

    createTimer: ({ caller, params, body }) => createTimer(engine, caller, runKey(params.runId), body),
    waitForSignal: ({ caller, params, body }) => waitForSignal(engine, caller, runKey(params.runId), body),
    getWait: ({ caller, params, query, signals }) =>
      getWait(engine, caller, runKey(params.runId), params.waitId, query.waitMs ?? 0, signals),
    sendSignal: async ({ caller, params, body }) => {
      const run = runKey(params.runId)
      if (caller.scope === 'enqueue') await readRun(hot, caller, run)
      return sendSignal(engine, caller, run, body)
    },
    parkRun: ({ caller, params, body }) => parkRun(engine, caller, runKey(params.runId), body),

    appendStream: ({ caller, params, body }) => appendStream(engine, caller, runKey(params.runId), body),
    createChild: ({ caller, params, body }) => createChild(engine, caller, runKey(params.runId), body),
    recordUsage: ({ caller, params, body }) => recordUsage(engine, caller, runKey(params.runId), body),

    sumUsage: ({ caller, query }) => sumUsage(cold, caller, query),

    enqueue: ({ caller, params, body }) => enqueue(engine, caller, params.queue, body),
    enqueueBatch: ({ caller, params, body }) => enqueueBatch(engine, caller, params.queue, body),
    pauseQueue: ({ caller, params }) => setPaused(engine, caller, params.queue, true),
    resumeQueue: ({ caller, params }) => setPaused(engine, caller, params.queue, false),
    queueStats: ({ caller, params, query }) => queueStats(cold, caller, params.queue, query.minutes ?? 60),
    claim: ({ caller, body, signals }) => claim(engine, caller, body, signals),
    listQueues: ({ caller }) => listQueues(cold, caller),
    configureQueue: ({ caller, params, body }) => configureQueue(engine, caller, params.queue, body),

    getProject: ({ caller }) => getProject(engine, caller),
    configureProject: ({ caller, body }) => configureProject(engine, caller, body),
    createProjectKey: ({ caller, params, body }) => createKeyIn(cold, caller, params.project, body),

    putSchedule: ({ caller, params, body }) => putSchedule(engine, caller, params.name, body),
    listSchedules: ({ caller }) => listSchedules(engine, caller),
    triggerSchedule: ({ caller, params, body }) => triggerSchedule(engine, caller, params.name, body),
    deleteSchedule: ({ caller, params }) => deleteSchedule(engine, caller, params.name),
  }
}

/** The number in `Last-Event-ID`, when it is one. */
function resumedAt(headers: Headers): number | undefined {
  const resumed = Number(headers.get('last-event-id') ?? Number.NaN)
  return Number.isSafeInteger(resumed) && resumed >= 0 ? resumed : undefined
}

function eventStream(body: ReadableStream<Uint8Array>): Response {
  return new Response(body, {
    headers: {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      // Tells nginx not to hold frames back.
      'x-accel-buffering': 'no',
    },
  })
}
