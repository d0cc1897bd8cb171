// Errors: everything the SDK throws by itself is a TidebaseError with a code and a hint; the few that programs branch
// on have a class of their own. What a workflow's own code throws passes through unchanged (steps wrap it: StepError).
// To add one: a class here with its code, and a case in `errorFromReply` when the server is the one who says it.

import { errorText, failureClassOf, property } from './thrown.ts'

/** One thing wrong with a request, as the server names it. */
export interface Issue {
  /** JSON path of the field, such as `jobs[3].priority`; empty for the whole body. */
  path: string
  /** What is wrong there. */
  message: string
}

/** What an error is made of. */
export interface ErrorDetails {
  /** HTTP status; 0 when the error did not come in an answer. */
  status?: number
  /** snake_case name that programs may branch on. */
  code: string
  /** What to do next. */
  hint: string
  issues?: Issue[] | undefined
  /** Whether the same call may succeed later. */
  retryable?: boolean
  /** Recorded with the run when this error ends it. */
  failureClass?: string | undefined
  cause?: unknown
}

/**
 * Any failure that Tidebase or this SDK reports.
 *
 * @example
 * try {
 *   await tide.runs.get(id)
 * } catch (error) {
 *   if (error instanceof TidebaseError && error.code === 'run_not_found') return null
 *   throw error
 * }
 */
export class TidebaseError extends Error {
  override readonly name: string = 'TidebaseError'
  readonly status: number
  readonly code: string
  readonly hint: string
  readonly issues: Issue[]
  readonly retryable: boolean
  readonly failureClass: string | undefined

  constructor(message: string, details: ErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.status = details.status ?? 0
    this.code = details.code
    this.hint = details.hint
    this.issues = details.issues ?? []
    this.retryable = details.retryable ?? false
    this.failureClass = details.failureClass
  }
}

/** The run was cancelled. It never changes again; stop working on it. */
export class RunCancelledError extends TidebaseError {
  override readonly name = 'RunCancelledError'
  /** The run, as far as known. */
  readonly runId: string

  constructor(
    runId: string,
    message = 'The run is cancelled.',
    hint = 'Stop working on it; a cancelled run never changes again.',
  ) {
    super(message, { status: 409, code: 'run_cancelled', hint })
    this.runId = runId
  }
}

/** Another worker has the run now. Whatever this one still writes is refused. */
export class LeaseLostError extends TidebaseError {
  override readonly name = 'LeaseLostError'
  readonly runId: string

  constructor(
    runId: string,
    message = 'The lease is not yours any more.',
    hint = 'Stop working on this run: another worker took over.',
  ) {
    super(message, { status: 409, code: 'lease_lost', hint })
    this.runId = runId
  }
}

/** Another worker is executing the run. */
export class RunLeasedError extends TidebaseError {
  override readonly name = 'RunLeasedError'
  readonly runId: string
  /** Who executes it. */
  readonly leaseOwner: string | null

  constructor(runId: string, leaseOwner: string | null) {
    super(`Run ${runId} is being executed by ${leaseOwner ?? 'another worker'}.`, {
      status: 409,
      code: 'run_leased',
      hint: 'Try again when its lease has ended, wait for it with `leaseWaitMs`, or begin as the same `leaseOwner`.',
      retryable: true,
    })
    this.runId = runId
    this.leaseOwner = leaseOwner
  }
}

/**
 * The run was given up while it waits for a gate, a timer or a signal; it is executed again when that is over.
 * Workers and webhooks take care of it; a workflow never sees it.
 */
export class RunParkedError extends TidebaseError {
  override readonly name = 'RunParkedError'
  readonly runId: string

  constructor(runId: string) {
    super(`Run ${runId} is parked: it waits without a worker.`, {
      code: 'run_parked',
      hint: 'Nothing to do: it goes on by itself when what it waits for is over.',
    })
    this.runId = runId
  }
}

/** A worker died in the middle of a step that may not be repeated blindly. Somebody has to decide about it. */
export class ManualReviewError extends TidebaseError {
  override readonly name = 'ManualReviewError'
  readonly runId: string
  /** `step_…` */
  readonly stepId: string

  constructor(runId: string, stepId: string, message: string) {
    super(message, {
      status: 409,
      code: 'manual_review',
      hint: `Find out whether it happened, then tide.runs.resolveStep('${runId}', '${stepId}', { decision: 'retry' }), 'complete' with its output, or 'fail'.`,
      failureClass: 'manual_review',
    })
    this.runId = runId
    this.stepId = stepId
  }
}

/** No usable answer came: the server is down, restarting, or elsewhere. */
export class UnreachableError extends TidebaseError {
  override readonly name = 'UnreachableError'
  readonly url: string

  constructor(url: string, what: string, cause: unknown) {
    super(`Cannot reach Tidebase at ${url}: ${what}.`, {
      code: 'unreachable',
      hint: 'Start a server with `npx tidebase start`, or set TIDEBASE_URL to the one you mean.',
      retryable: true,
      cause,
    })
    this.url = url
  }
}

/** A step was recorded under another input than the one it is called with now. */
export class InputMismatchError extends TidebaseError {
  override readonly name = 'InputMismatchError'
  readonly step: string
  /** Hash of the recorded input. */
  readonly expectedInputHash: string
  /** Hash of the input given now. */
  readonly actualInputHash: string

  constructor(step: string, expectedInputHash: string, actualInputHash: string) {
    super(
      `Step "${step}" was recorded with another input (recorded ${expectedInputHash}, given now ${actualInputHash}).`,
      {
        status: 409,
        code: 'input_mismatch',
        hint: 'Give the step the input it had before, or another name when it is other work.',
        failureClass: 'input_mismatch',
      },
    )
    this.step = step
    this.expectedInputHash = expectedInputHash
    this.actualInputHash = actualInputHash
  }
}

/** A step failed for good in this attempt of the run. `cause` is what its function threw last. */
export class StepError extends TidebaseError {
  override readonly name = 'StepError'
  readonly step: string
  /** How often the function was tried. */
  readonly attempts: number

  constructor(step: string, attempts: number, cause: unknown) {
    super(`Step "${step}" failed${attempts > 1 ? ` after ${attempts} attempts` : ''}: ${errorText(cause)}`, {
      code: 'step_failed',
      hint: 'See `cause`. Begin the run again to resume it: completed steps are not repeated.',
      retryable: true,
      failureClass: failureClassOf(cause),
      cause,
    })
    this.step = step
    this.attempts = attempts
  }
}

/** A step's function did not end within its `timeoutMs`. */
export class StepTimeoutError extends TidebaseError {
  override readonly name = 'StepTimeoutError'
  readonly step: string
  readonly timeoutMs: number

  constructor(step: string, timeoutMs: number) {
    super(`Step "${step}" did not end within ${timeoutMs} ms.`, {
      code: 'step_timeout',
      hint: 'Raise `timeoutMs`, or allow `retries`. Pass the `signal` on so that the work stops too.',
      retryable: true,
      failureClass: 'timeout',
    })
    this.step = step
    this.timeoutMs = timeoutMs
  }
}

/** Some items of a fanout failed. The others are recorded and are not repeated when the run is resumed. */
export class FanoutError extends TidebaseError {
  override readonly name = 'FanoutError'
  readonly fanout: string
  /** One entry per item, in order; an item that was never started is rejected with code `fanout_stopped`. */
  readonly results: PromiseSettledResult<unknown>[]

  constructor(fanout: string, results: PromiseSettledResult<unknown>[]) {
    const failed = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []))
    const cause = failed.find((reason) => !(reason instanceof TidebaseError && reason.code === 'fanout_stopped'))
    super(`${failed.length} of ${results.length} items of "${fanout}" failed: ${errorText(cause)}`, {
      code: 'fanout_failed',
      hint: '`results` tells which. Begin the run again to repeat the failed items only.',
      retryable: true,
      failureClass: failureClassOf(cause),
      cause,
    })
    this.fanout = fanout
    this.results = results
  }
}

/**
 * The error for an answer that is not 2xx.
 *
 * @param status HTTP status
 * @param body the parsed body; anything when it was not JSON
 * @param runId the run the call was about, or ''
 */
export function errorFromReply(status: number, body: unknown, runId: string): TidebaseError {
  const text = (key: string) => {
    const value = property(body, key)
    return typeof value === 'string' ? value : undefined
  }
  const message = text('error') ?? `Tidebase answered ${status}.`
  const code = text('code') ?? (message === 'run is leased' ? 'run_leased' : 'http_error')
  const hint = text('hint') ?? 'Check that TIDEBASE_URL is the address of a Tidebase server.'
  if (code === 'run_cancelled') return new RunCancelledError(runId, message, hint)
  if (code === 'lease_lost') return new LeaseLostError(runId, message, hint)
  if (code === 'run_leased') return new RunLeasedError(runId, text('leaseOwner') ?? null)
  if (code === 'manual_review') return new ManualReviewError(runId, text('stepId') ?? '', message)
  const issues = property(body, 'issues')
  return new TidebaseError(issues ? `${message} ${issueText(issues)}`.trim() : message, {
    status,
    code,
    hint,
    issues: Array.isArray(issues) ? issues : undefined,
    retryable: status === 408 || status === 425 || status === 429 || status >= 500,
  })
}

function issueText(issues: unknown): string {
  if (!Array.isArray(issues)) return ''
  const shown = issues.slice(0, 3).map((issue) => `${property(issue, 'path')}: ${property(issue, 'message')}`)
  return `(${shown.join('; ')}${issues.length > 3 ? '; …' : ''})`
}
