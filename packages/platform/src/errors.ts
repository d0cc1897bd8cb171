// Errors of the platform: one class, one table of codes, one shape on the wire. Messages and hints may be shown to
// anybody; the private reason is `cause`. To add one: a line in `codes`.
import { type ErrorBody, TpError } from 'tidepool/kit'

/** Every code: its HTTP status, what it means, and what to do when the thrower says nothing better. */
export const codes = {
  bad_json: [400, 'The body is not valid JSON.', 'Send JSON with content-type: application/json.'],
  invalid: [400, 'A field is not what it must be.', 'See issues; GET /api documents every field.'],
  unauthorized: [401, 'There is no valid key.', 'Send Authorization: Bearer <key>; `tidepool register` makes one.'],
  unverified: [
    403,
    'The address of this agent is not verified yet.',
    'Open the mailed link, or run `tidepool verify <token>`.',
  ],
  forbidden: [403, 'This key may not do that.', 'Use a key with the verb named in the message.'],
  not_found: [404, 'There is no such thing here.', 'Check the id; GET /api/pods lists your pods.'],
  no_route: [404, 'No endpoint has this path.', 'GET /api lists all endpoints.'],
  method_not_allowed: [405, 'The endpoint takes other methods.', 'See the Allow header.'],
  name_taken: [409, 'The name is taken.', 'Choose another name.'],
  deploy_running: [409, 'A deployment of this pod is under way.', 'Wait for it, or cancel it, then try again.'],
  not_deployed: [409, 'The pod has no live deployment.', 'Deploy it first: `tidepool deploy`.'],
  missing_files: [
    409,
    'Files of the deployment were not uploaded.',
    'PUT each missing file to …/source/<sha256>, then repeat.',
  ],
  nothing_to_undo: [409, 'There is nothing to bring back.', 'GET …/deployments lists what there is.'],
  conflict: [409, 'Somebody else changed this in the meantime.', 'Read it again and repeat.'],
  link_used: [410, 'The link was used, has expired, or never was.', 'Run `tidepool register` again for a new one.'],
  too_large: [413, 'The body is larger than allowed.', 'Send less.'],
  rate_limited: [429, 'Too many in too short a time.', 'Wait as long as Retry-After says.'],
  unavailable: [503, 'The platform cannot do that at the moment.', 'Try again in a moment; nothing was lost.'],
  no_sandbox: [
    503,
    'This machine cannot run pods safely.',
    'Install bubblewrap, or start the platform with --unsandboxed.',
  ],
  internal: [500, 'The platform failed.', 'Try again; the operator finds the reason in the log under this id.'],
  install_failed: [
    422,
    'npm could not install the dependencies.',
    'Run `npm ci` in the folder, mend it, and deploy again.',
  ],
  boot_failed: [
    422,
    'The new version did not start; the old one goes on serving.',
    'Mend the named line and deploy again.',
  ],
  unhealthy: [
    422,
    'The new version started and does not answer as it should.',
    'See `tidepool logs`, mend it, deploy again.',
  ],
  cancelled: [409, 'The deployment was cancelled.', 'Deploy again.'],
} as const satisfies Record<string, readonly [status: number, meaning: string, hint: string]>

export type Code = keyof typeof codes

export interface Issue {
  path: (string | number)[]
  message: string
}

export interface Details extends Partial<Omit<ErrorBody, 'error' | 'code'>> {
  /** Seconds; sent as Retry-After. */
  retryAfter?: number
  /** Further fields of the answer, such as `missing`. */
  fields?: Record<string, unknown>
  cause?: unknown
}

/** An error with a code, safe to show. */
export class PlatformError extends Error {
  readonly code: Code
  readonly status: number
  readonly details: Details

  constructor(code: Code, message?: string, details: Details = {}) {
    super(message ?? codes[code][1], details.cause === undefined ? undefined : { cause: details.cause })
    this.name = 'PlatformError'
    this.code = code
    this.status = codes[code][0]
    this.details = details
  }
}

/** The wire shape of an error; of anything unexpected only that it happened. */
export function errorBody(error: unknown): { status: number; body: ErrorBody & Record<string, unknown> } {
  if (error instanceof TpError) {
    const { retryAfter, issues } = error.details
    const body = { error: error.message, code: error.code, hint: error.hint, docs: '/api' }
    return { status: error.status, body: { ...body, ...(issues && { issues }), ...(retryAfter && { retryAfter }) } }
  }
  const known = error instanceof PlatformError ? error : new PlatformError('internal')
  const { cause: _, fields, ...rest } = known.details
  return {
    status: known.status,
    body: { error: known.message, code: known.code, hint: codes[known.code][2], docs: '/api', ...rest, ...fields },
  }
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
