/**
 * Errors of the runtime and the CLI: one class, one table of codes, one shape on the wire.
 *
 * Invariants: every error that leaves the process has a code from `codes`; its message and hint are safe to show
 * to anybody (the private reason is `cause`). To add one: a line in `codes`, with what it means and what to do;
 * a test proves that the reference lists it.
 */

/** Every code: the HTTP status it maps to, what it means, and what to do about it when the thrower says nothing better. */
export const codes = {
  bad_request: [400, 'The request is not valid HTTP for this route.', 'Check the path, query and headers.'],
  bad_json: [400, 'The body says it is JSON and is not.', 'Send valid JSON, or another content-type.'],
  bad_encoding: [400, 'The body is not UTF-8.', 'Send text as UTF-8.'],
  bad_form: [400, 'The multipart body is malformed or cut off.', 'Send a complete multipart/form-data body.'],
  unauthorized: [401, 'Nobody is logged in.', 'Log in at /_auth/login.'],
  forbidden: [403, 'Not allowed.', 'Use an account that may do this.'],
  cross_site: [
    403,
    'A form or script on another site tried to change something here.',
    'Send the request from a page of this app, or set {crossSite: true} on a route that checks its callers itself.',
  ],
  bad_signature: [400, 'The webhook is not signed as it must be.', 'Check the signing secret and the clock.'],
  payment_failed: [502, 'The payment provider did not do what was asked.', 'Try again; the log of the app says why.'],
  no_tidebase: [
    503,
    'There is no Tidebase to keep durable runs.',
    'Run the app with `tidepool dev`, or set TIDEBASE_URL and TIDEBASE_API_KEY.',
  ],
  unknown_workflow: [500, 'No workflow of this name is registered.', 'Register it with tp.workflow.'],
  not_found: [404, 'Nothing answers at this path.', 'Check the path; tp.route and tp.page register paths.'],
  method_not_allowed: [405, 'The path exists, with other methods.', 'Add the method to {methods: […]} of the route.'],
  conflict: [409, 'Somebody else changed this in the meantime.', 'Read it again and repeat.'],
  too_large: [413, 'The body or an uploaded file is larger than allowed.', 'Send less at a time.'],
  invalid: [422, 'A value is not what it must be.', 'See issues.'],
  rate_limited: [429, 'Too many in too short a time.', 'Wait as long as Retry-After says.'],
  mail_limit: [
    429,
    'A handler sent more than 5 mails in one call.',
    'Send the others from tp.background or tp.workflow.',
  ],
  http_limit: [429, 'More than 200 requests by tp.http in 60 seconds.', 'Cache answers, or spread requests over time.'],
  task_limit: [500, 'More than 5 background tasks.', 'Do several things in one task.'],
  internal: [500, 'The handler threw.', 'See the log for the error with this id.'],
  unserialisable: [500, 'The handler returned something that cannot be sent.', 'Return plain JSON data or a string.'],
  empty_reply: [500, 'A GET handler returned nothing.', 'Return a string, an object or tp.redirect(…).'],
  template: [500, 'A template could not be rendered.', 'Check the template at the named line.'],
  handler_timeout: [504, 'The handler did not answer in time.', 'Answer sooner and do long work in tp.background.'],
  too_many_streams: [503, '100 event streams are open already.', 'Close streams that are no longer read.'],
  unavailable: [503, 'The app is starting or stopping.', 'Try again in a moment.'],
  blocked_address: [
    403,
    'tp.http does not call addresses inside the network.',
    'Use a public address. While developing, TIDEPOOL_ALLOW_HOSTS=host:port,… lists exceptions.',
  ],
  http_failed: [502, 'tp.http could not get an answer.', 'Check the address; the service may be down.'],
  quota_exceeded: [507, 'The storage of this app is full.', 'Delete what is no longer needed.'],
  storage: [500, 'Storage could not be written.', 'Check free disk space and permissions of tp_data/.'],
  bad_key: [500, 'A key of tp.db or a name of tp.files is not allowed.', 'See the message for what is allowed.'],
  bad_value: [
    500,
    'A value of tp.db is not JSON.',
    'Store plain data: objects, arrays, strings, numbers, booleans, null.',
  ],
  not_a_number: [500, 'tp.db.increment on something that is not a number.', 'Use another key, or set a number first.'],
  bad_data_file: [500, 'A file in tp_data/ is not valid JSON.', 'Mend it at the named line and column.'],
  locked: [500, 'Another process uses this folder.', 'Stop it first.'],
  not_started: [500, 'Storage was used outside a running pod.', 'Run the pod with `tidepool dev`.'],
  bad_route: [500, 'A route was registered wrongly.', 'Paths start with "/"; parameters look like /post/:slug.'],
  bad_config: [500, 'A setting of the pod is wrong.', 'See issues.'],
  build_failed: [500, 'The source does not compile.', 'Mend the named line; the server picks it up by itself.'],
  main_failed: [500, 'main.ts threw while it started.', 'Mend the named line; the server picks it up by itself.'],
  no_main: [500, 'The folder has no main.ts or main.js.', 'Run `tidepool init <name>` to make an app.'],
  folder_exists: [500, 'The folder exists and is not empty.', 'Choose another name or empty it.'],
  port_taken: [500, 'Another program listens on this port.', 'Use --port N.'],
  usage: [400, 'The command was not understood.', 'See --help.'],
} as const satisfies Record<string, readonly [status: number, meaning: string, hint: string]>

/** A code of the table above. */
export type Code = keyof typeof codes

/** One thing that is wrong with an input: where (`['price']`, `['products', 0, 'id']`) and what. */
export interface Issue {
  path: (string | number)[]
  message: string
}

/** The one shape of an error: in answers, `--json` output and logs. */
export interface ErrorBody {
  error: string
  code: string
  hint: string
  issues?: Issue[]
  docs?: string
  file?: string
  line?: number
  column?: number
  next?: string[]
  id?: string
}

/** What an error may carry besides its code and message. */
export interface ErrorDetails {
  hint?: string
  status?: number
  issues?: Issue[]
  file?: string
  line?: number
  column?: number
  /** Commands to try. */
  next?: string[]
  /** Seconds after which trying again makes sense; sent as Retry-After. */
  retryAfter?: number
  cause?: unknown
}

/**
 * An error with a code, safe to show. Thrown by every `tp` member; a handler may throw it too.
 * @example throw new TpError('not_found', 'There is no such post')
 */
export class TpError extends Error {
  readonly code: Code
  readonly status: number
  readonly hint: string
  readonly details: ErrorDetails

  constructor(code: Code, message?: string, details: ErrorDetails = {}) {
    super(message ?? codes[code][1], details.cause === undefined ? undefined : { cause: details.cause })
    this.name = 'TpError'
    this.code = code
    this.status = details.status ?? codes[code][0]
    this.hint = details.hint ?? codes[code][2]
    this.details = details
  }
}

/** The wire shape of an error. Anything but a TpError becomes `internal`, without its message. */
export function errorBody(error: unknown, extra: Partial<ErrorBody> = {}): ErrorBody {
  const known = error instanceof TpError ? error : new TpError('internal', 'Something went wrong in this app')
  const { issues, file, line, column, next } = known.details
  return {
    error: known.message,
    code: known.code,
    hint: known.hint,
    ...(issues && { issues }),
    docs: `tidepool docs errors/${known.code}`,
    ...(file !== undefined && { file }),
    ...(line !== undefined && { line }),
    ...(column !== undefined && { column }),
    ...(next && { next }),
    ...extra,
  }
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
