// @tidebase/sdk: everything a program may import.
export type { ChildOptions, Children } from './children.ts'
export { type RunOptions, Tidebase, type TidebaseOptions } from './client.ts'
export type { BeginOptions, Workflow, WorkflowFn } from './engine.ts'
export {
  FanoutError,
  InputMismatchError,
  type Issue,
  LeaseLostError,
  ManualReviewError,
  RunCancelledError,
  RunLeasedError,
  RunParkedError,
  StepError,
  StepTimeoutError,
  TidebaseError,
  UnreachableError,
} from './errors.ts'
export type { FanoutFn, FanoutOptions } from './fanout.ts'
export type { GateDecision, GateOptions, Gates } from './gates.ts'
export { inputHash } from './hash.ts'
export { newRunId } from './ids.ts'
export type { Project } from './project.ts'
export type { EnqueueOptions, Queues, Schedules } from './queues.ts'
export type { RunContext, UsageEntry } from './run.ts'
export type { Attached, ListOptions, Runs } from './runs.ts'
export type { Fetch } from './send.ts'
export type { SaveNote, SnapshotNote, Snapshots, StateNote, States } from './state.ts'
export type { StepOptions } from './steps.ts'
export type { StreamWriter } from './streams.ts'
export type { FeedOptions, SubscribeOptions } from './subscribe.ts'
export type { StepContext, StepFn } from './tries.ts'
export type {
  ChannelInput,
  Checkpoint,
  Edge,
  ExecutedRun,
  Gate,
  NewRunOptions,
  ProjectInfo,
  Queue,
  QueueConfig,
  RecoveryAttempt,
  Run,
  RunDetail,
  RunEvent,
  RunStatus,
  Schedule,
  Signal,
  State,
  StateVersion,
  Step,
  StreamChunk,
  Usage,
  Wait,
} from './types.ts'
export type { ReceivedSignal } from './waits.ts'
export { signatureHeader, signWebhook, verifyWebhook, type WebhookHandler, type WebhookOptions } from './webhook.ts'
export type { WorkOptions } from './worker.ts'
