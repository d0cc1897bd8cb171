// Every error code of the API: its status, what it means, and what to do next. A test proves that each is documented.
// To add one: add it here, list it on the routes that answer with it, run `npm run gen`.

/** What a code stands for. */
export interface ErrorMeaning {
  /** HTTP status. */
  status: number
  /** One sentence: what happened. Shown as `error` when the server has nothing more exact to say. */
  meaning: string
  /** What the caller does next. */
  hint: string
}

const define = <const T extends Record<string, ErrorMeaning>>(codes: T): { [K in keyof T]: ErrorMeaning } => codes

/** All codes, by name. */
export const errorCodes = define({
  bad_request: {
    status: 400,
    meaning: 'This is not a valid HTTP request.',
    hint: 'Use an HTTP client; a proxy in between may have damaged the request.',
  },
  request_timeout: {
    status: 408,
    meaning: 'The request did not come to its end in time.',
    hint: 'Send the headers within 20 s and the body within 60 s, then repeat the call.',
  },
  headers_too_large: {
    status: 431,
    meaning: 'The headers of the request are too large.',
    hint: 'Send less than 16 KB of headers; long texts belong into the body.',
  },
  invalid_json: {
    status: 400,
    meaning: 'The body is not valid JSON.',
    hint: 'Send UTF-8 encoded JSON; `error` says where parsing stopped.',
  },
  invalid_body: {
    status: 400,
    meaning: 'The body does not match the schema.',
    hint: 'Correct the fields listed in `issues`; the schema is at /openapi.json.',
  },
  invalid_query: {
    status: 400,
    meaning: 'A query parameter does not match the schema.',
    hint: 'Correct the parameters listed in `issues`; the schema is at /openapi.json.',
  },
  invalid_cron: {
    status: 400,
    meaning: 'The cron expression is not one this server can run.',
    hint: 'Use five fields, for example "0 9 * * 1-5" for nine o\'clock on weekdays.',
  },
  invalid_timezone: {
    status: 400,
    meaning: 'The time zone is not known.',
    hint: 'Use an IANA name such as "Europe/Berlin", or leave it out for UTC.',
  },
  unauthorized: {
    status: 401,
    meaning: 'The API key is missing or not valid.',
    hint: 'Send `Authorization: Bearer <key>`; make a key with `tidebase keys create`.',
  },
  forbidden: {
    status: 403,
    meaning: 'This API key may not do that.',
    hint: 'Use a key with a wider scope; `tidebase keys list` shows the scopes.',
  },
  cross_site: {
    status: 403,
    meaning: 'A web page of another origin may not call this server.',
    hint: 'Set TIDEBASE_CORS_ORIGIN to the page’s origin, or call the server from your backend.',
  },
  webhook_target_refused: {
    status: 422,
    meaning: 'A webhook may not point at a private, loopback or metadata address.',
    hint: 'Use a public address, or start the server with TIDEBASE_ALLOW_PRIVATE_WEBHOOKS=1.',
  },
  route_not_found: {
    status: 404,
    meaning: 'No such route.',
    hint: 'The routes are listed at /openapi.json.',
  },
  method_not_allowed: {
    status: 405,
    meaning: 'This path does not take that method.',
    hint: 'The allowed methods are in the `Allow` header.',
  },
  run_not_found: {
    status: 404,
    meaning: 'No such run in this project.',
    hint: 'Check the id and the key’s project; GET /runs lists the runs of the project.',
  },
  step_not_found: {
    status: 404,
    meaning: 'No such step in this run.',
    hint: 'GET /runs/:runId lists the steps; a step exists once it was begun.',
  },
  gate_not_found: {
    status: 404,
    meaning: 'No such gate in this run.',
    hint: 'GET /runs/:runId lists the gates; a gate exists once it was begun.',
  },
  wait_not_found: {
    status: 404,
    meaning: 'No such timer or wait in this run.',
    hint: 'GET /runs/:runId?include=waits lists them; one exists once it was begun.',
  },
  state_not_found: {
    status: 404,
    meaning: 'This run has no state to save yet.',
    hint: 'Write it first with PUT /runs/:runId/state.',
  },
  delivery_not_found: {
    status: 404,
    meaning: 'No such webhook to a channel or for recovery in this run.',
    hint: 'GET /runs/:runId?include=channelDeliveries,recoveryAttempts lists them.',
  },
  key_not_found: {
    status: 404,
    meaning: 'No such key in this project.',
    hint: 'GET /keys lists them.',
  },
  schedule_not_found: {
    status: 404,
    meaning: 'No such schedule in this project.',
    hint: 'GET /schedules lists them.',
  },
  run_cancelled: {
    status: 409,
    meaning: 'The run is cancelled.',
    hint: 'Stop working on it; a cancelled run never changes again.',
  },
  run_leased: {
    status: 409,
    meaning: 'run is leased',
    hint: 'Another worker is executing this run. Try again when its lease has ended; `leaseOwner` names it.',
  },
  run_completed: {
    status: 409,
    meaning: 'The run is already completed.',
    hint: 'Nothing to do: its result is recorded.',
  },
  dedupe_conflict: {
    status: 409,
    meaning: 'Another active run of the queue holds this run’s dedupe key.',
    hint: 'Wait until that run has ended, or work on it instead; GET /runs?queue=… shows it.',
  },
  run_not_failed: {
    status: 409,
    meaning: 'Only a failed run can be retried.',
    hint: 'GET /runs/:runId shows its status. To run a completed one again, start a new run with its input.',
  },
  run_conflict: {
    status: 409,
    meaning: 'Another run already has this id.',
    hint: 'Leave `id` out, or send a new one.',
  },
  lease_lost: {
    status: 409,
    meaning: 'The lease is not yours any more.',
    hint: 'Stop working: another worker took over. Nothing you write is accepted until you begin again.',
  },
  manual_review: {
    status: 409,
    meaning: 'A worker died in the middle of this step and nobody knows whether its effect happened.',
    hint: 'Find out, then POST /runs/:runId/steps/:stepId/resolve with {"decision":"retry"}, "complete" with the output, or "fail".',
  },
  step_not_in_review: {
    status: 409,
    meaning: 'The step does not wait for a decision.',
    hint: 'GET /runs/:runId shows its status.',
  },
  step_failed: {
    status: 409,
    meaning: 'It was decided that this step failed.',
    hint: 'The run cannot go on past it: let it fail, or start a new run.',
  },
  gate_resolved: {
    status: 409,
    meaning: 'The gate is already resolved.',
    hint: 'Read the decision with GET /runs/:runId/gates/:gateId.',
  },
  gate_token: {
    status: 409,
    meaning: 'The token does not open this gate.',
    hint: 'Use the `resolveToken` that came with the gate, or an admin key without a token.',
  },
  stream_gap: {
    status: 409,
    meaning: 'The stream does not reach this offset yet.',
    hint: 'Go on at `expectedOffset`, or start over with {"offset":0,"reset":true}.',
  },
  no_recovery_webhook: {
    status: 422,
    meaning: 'The run has no recovery webhook to call.',
    hint: 'Create the run with `recoveryWebhook`, or resume it yourself: run your program again with the run’s id.',
  },
  body_too_large: {
    status: 413,
    meaning: 'The body is too large.',
    hint: 'Keep large data elsewhere and store its address, or raise TIDEBASE_MAX_BODY (bytes).',
  },
  not_in_batch: {
    status: 400,
    meaning: 'This call cannot be answered inside a batch.',
    hint: 'Send it as a request of its own.',
  },
  unsupported_media_type: {
    status: 415,
    meaning: 'The body must be JSON.',
    hint: 'Send `content-type: application/json`.',
  },
  contention: {
    status: 503,
    meaning: 'Too many callers change this run at once.',
    hint: 'Nothing was written. Try again in a moment.',
  },
  database_unavailable: {
    status: 503,
    meaning: 'The database is not reachable at the moment.',
    hint: 'Try again with backoff; GET /health tells when it is back. Whatever was acknowledged is safe.',
  },
  shutting_down: {
    status: 503,
    meaning: 'This server is stopping.',
    hint: 'Try again; another server, or this one restarted, will answer.',
  },
  internal: {
    status: 500,
    meaning: 'The server failed to answer.',
    hint: 'Try again; if it stays, report the `requestId`, which is in the server’s log with the cause.',
  },
})

/** The name of an error. */
export type ErrorCode = keyof typeof errorCodes

/** One thing wrong with a request. */
export interface Issue {
  /** JSON path, such as `jobs[3].priority`; empty for the whole body. */
  path: string
  /** What is wrong there. */
  message: string
}

/** The body of every answer that is not 2xx. */
export interface ErrorBody {
  /** One human sentence. */
  error: string
  code: ErrorCode
  /** What to do next. */
  hint: string
  issues?: Issue[]
}
