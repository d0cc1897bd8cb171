// The one error that the API answers with (`app.ts` maps it to HTTP; nothing else does), and the one of the command line.
import { type ErrorBody, type ErrorCode, errorCodes, type Issue } from '@tidebase/wire'

/** An answer that is not 2xx, with a code of the contract. */
export class ApiError extends Error {
  readonly code: ErrorCode
  readonly status: number
  readonly hint: string
  readonly issues: Issue[] | undefined
  /** Further fields of the body, such as `leaseOwner`. */
  readonly details: Record<string, unknown>

  /**
   * @param code one of the contract's codes
   * @param message one human sentence; the code's own meaning unless given
   * @param extra `issues` (what is wrong where), `hint` (instead of the code's), any further field of the body
   */
  constructor(
    code: ErrorCode,
    message?: string,
    extra: { issues?: Issue[]; hint?: string; cause?: unknown; [field: string]: unknown } = {},
  ) {
    const { issues, hint, cause, ...details } = extra
    super(message ?? errorCodes[code].meaning, { cause })
    this.name = 'ApiError'
    this.code = code
    this.status = errorCodes[code].status
    this.hint = hint ?? errorCodes[code].hint
    this.issues = issues
    this.details = details
  }

  /** The JSON body of the answer. */
  body(): ErrorBody {
    return {
      ...this.details,
      error: this.message,
      code: this.code,
      hint: this.hint,
      ...(this.issues ? { issues: this.issues } : {}),
    }
  }
}

/** A reason not to start, with what to do about it. */
export class StartError extends Error {
  readonly code: string
  readonly hint: string

  constructor(code: string, message: string, hint: string) {
    super(message)
    this.name = 'StartError'
    this.code = code
    this.hint = hint
  }
}
