// The objects of the contract, under the names programs use.
import type { BodyOf, Chunk, Routes } from '@tidebase/wire'
import type { CallReply } from './endpoints.ts'

/** A run as the server has it. */
export type Run = CallReply<'createRun'>['run']
/** `pending`, `queued`, `running`, `waiting`, `completed`, `failed` or `cancelled`. */
export type RunStatus = Run['status']
/** A run as whoever executes it has it: what a worker's claim answers with. */
export type ExecutedRun = Pick<
  Run,
  'id' | 'workflowName' | 'input' | 'metadata' | 'queue' | 'concurrencyKey' | 'attempt' | 'maxAttempts'
>
/** A run with its history. */
export type RunDetail = CallReply<'getRun'>
/** One entry of a run's event log. */
export type RunEvent = RunDetail['events'][number]
/** A piece of text that a step streams while it runs. */
export type StreamChunk = Chunk
/** A recorded step. */
export type Step = RunDetail['steps'][number]
/** What a resuming worker needs of a completed step. */
export type Checkpoint = NonNullable<CallReply<'beginRun'>['checkpoints']>[number]
/** A question to a human and its answer. */
export type Gate = CallReply<'getGate'>['gate']
/** A timer, or a wait for a signal. */
export type Wait = CallReply<'getWait'>['wait']
/** What was sent to a run. */
export type Signal = CallReply<'sendSignal'>['signal']
/** Current value of a state stream. */
export type State = CallReply<'setState'>['state']
/** One version of a state stream. */
export type StateVersion = CallReply<'saveState'>['stateVersion']
/** One entry of the usage ledger. */
export type Usage = CallReply<'recordUsage'>['usage']
/** Joins a child run to its parent. */
export type Edge = CallReply<'createChild'>['edge']
/** One call of a recovery webhook. */
export type RecoveryAttempt = CallReply<'recoverRun'>['recoveryAttempt']
/** A queue with its counts. */
export type Queue = CallReply<'listQueues'>['queues'][number]
/** Caps and push address of a queue. */
export type QueueConfig = CallReply<'configureQueue'>['config']
/** A project and how long it keeps ended runs. */
export type ProjectInfo = CallReply<'getProject'>['project']
/** A cron schedule. */
export type Schedule = CallReply<'listSchedules'>['schedules'][number]
/** A webhook that is told of a run's events. */
export type ChannelInput = NonNullable<NonNullable<BodyOf<Routes['createRun']>['channels']>[number]>

/** What a new run may carry. */
export interface NewRunOptions<Input = unknown> {
  /** Any JSON; the workflow gets it. `{}` unless given. */
  input?: Input
  /** A JSON object to find the run by. */
  metadata?: Record<string, unknown>
  /** Called (signed) when the run fails or its worker is gone, so that something resumes it. */
  recoveryWebhook?: string
  /** Told (signed) of the run's events. */
  channels?: ChannelInput[]
  /** What it may use up; the usage entry that crosses it cancels the run. */
  budget?: { costUsd?: number; totalTokens?: number }
}

/**
 * What the server recorded, as the type its caller expects: the text that went in is the text that comes out, so the
 * type is as true as the program that recorded it. JSON has no undefined, no Date and no class: an output of these
 * comes back as null, a string and a plain object.
 *
 * @param value parsed JSON
 */
export function recorded<T>(value: unknown): T {
  return value as T
}
