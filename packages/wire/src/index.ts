// Tidebase's contract as data. Everything about a noun is in its file; `routes` is all of it.
import { batch } from './batch.ts'
import { cancelRuns, countRuns, retryRuns } from './bulk.ts'
import { createChild } from './children.ts'
import { getRun } from './detail.ts'
import { streamEvents, streamProjectEvents } from './events.ts'
import { beginGate, decideGate, gatePage, getGate, listGates, resolveGate } from './gates.ts'
import { createKey, listKeys, revokeKey, whoAmI } from './keys.ts'
import { health, llms, mcp, metrics, openapi } from './operations.ts'
import { configureProject, createProjectKey, getProject } from './projects.ts'
import {
  claim,
  configureQueue,
  enqueue,
  enqueueBatch,
  listQueues,
  pauseQueue,
  queueStats,
  resumeQueue,
} from './queues.ts'
import {
  beginRun,
  cancelRun,
  completeRun,
  createRun,
  failRun,
  forkRun,
  heartbeatRun,
  listRuns,
  recoverRun,
  retryRun,
} from './runs.ts'
import { deleteSchedule, listSchedules, putSchedule, triggerSchedule } from './schedules.ts'
import { createSnapshot, listSnapshots, listStateVersions, patchState, saveState, setState } from './state.ts'
import { beginStep, completeStep, failStep, recordStep, resolveStep } from './steps.ts'
import { appendStream } from './streams.ts'
import { recordUsage, sumUsage } from './usage.ts'
import { createTimer, getWait, parkRun, sendSignal, waitForSignal } from './waits.ts'
import { redeliver } from './webhooks.ts'
import { listWorkers } from './workers.ts'

/** Every route of the contract, by the name of its operation. */
export const routes = {
  health,
  openapi,
  llms,
  metrics,
  mcp,
  batch,
  whoAmI,
  listKeys,
  createKey,
  revokeKey,
  createRun,
  listRuns,
  countRuns,
  cancelRuns,
  retryRuns,
  getRun,
  beginRun,
  heartbeatRun,
  completeRun,
  failRun,
  cancelRun,
  forkRun,
  retryRun,
  recoverRun,
  redeliver,
  listWorkers,
  streamEvents,
  streamProjectEvents,
  beginStep,
  recordStep,
  completeStep,
  failStep,
  resolveStep,
  setState,
  patchState,
  saveState,
  listStateVersions,
  createSnapshot,
  listSnapshots,
  listGates,
  beginGate,
  getGate,
  resolveGate,
  gatePage,
  decideGate,
  createTimer,
  waitForSignal,
  getWait,
  sendSignal,
  parkRun,
  appendStream,
  createChild,
  recordUsage,
  sumUsage,
  enqueue,
  enqueueBatch,
  claim,
  listQueues,
  configureQueue,
  pauseQueue,
  resumeQueue,
  queueStats,
  getProject,
  configureProject,
  createProjectKey,
  putSchedule,
  listSchedules,
  deleteSchedule,
  triggerSchedule,
}
export type Routes = typeof routes
export type RouteName = keyof Routes

export type { BatchAnswer, BatchCall } from './batch.ts'
export { type ContractOptions, type ResumeDecision, resumeContract, resumeDecision, stableJson } from './contract.ts'
export { type ErrorBody, type ErrorCode, type ErrorMeaning, errorCodes, type Issue } from './errors.ts'
export { Event, EventType } from './events.ts'
export { openApiDocument } from './openapi.ts'
export type { BodyOf, ParamsOf, QueryOf, ReplyOf, Route, Scope } from './route.ts'
export { Chunk } from './streams.ts'
