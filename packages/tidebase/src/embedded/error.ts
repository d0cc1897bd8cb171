// The one error of the embedded database. Every throw says what happened (`message`), and what the person who
// started the server can do about it (`hint`).

export type EmbeddedErrorCode =
  /** Another process uses the data folder. */
  | 'data_dir_in_use'
  /** No Postgres binaries for this machine. */
  | 'embedded_unsupported'
  /** Postgres, or what it stands on (folders, users, binaries), does not work. */
  | 'embedded_failed'
  /** The data was written by another major version of Postgres. */
  | 'embedded_version'

/** Why the embedded database cannot be used. */
export class EmbeddedError extends Error {
  override readonly name = 'EmbeddedError'
  readonly code: EmbeddedErrorCode
  readonly hint: string

  constructor(code: EmbeddedErrorCode, message: string, hint: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
    this.hint = hint
  }
}

/**
 * The code of a failed system call.
 * @param error anything that was caught
 * @returns for example `ENOENT`; '' when the error is of another kind
 */
export function errnoOf(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : ''
}

/**
 * The text of anything that was thrown.
 * @param error anything that was caught
 * @returns its message
 */
export function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
