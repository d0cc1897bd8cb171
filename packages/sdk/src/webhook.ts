// Webhooks in: the server asks for a run to be executed (`run.invoke`, `run.resume`). Answered at once; the work goes
// on afterwards. Deliveries are at least once, so a second one meets the first one's lease and is dropped.
// Invariant: nothing in the body is looked at before the signature over its raw bytes is verified.
import { Buffer } from 'node:buffer'
import { createHmac, timingSafeEqual } from 'node:crypto'
import type { Engine } from './engine.ts'
import { RunCancelledError, RunLeasedError, RunParkedError, TidebaseError } from './errors.ts'
import { defaultParkAfterMs } from './parking.ts'
import { errorText, property } from './thrown.ts'

/** The header that carries the signature. */
export const signatureHeader = 'x-tidebase-signature'
const maxBodyBytes = 1_048_576

/** How deliveries are handled. */
export interface WebhookOptions {
  /** Keeps the platform from stopping the work after the answer (`ctx.waitUntil` on edge platforms). */
  waitUntil?: (work: Promise<void>) => void
  /** Told of runs that failed. Prints to stderr unless given. */
  onError?: (error: unknown, runId: string) => void
  /** Stops the executions. */
  signal?: AbortSignal
  /** As for `work`: after how long a run in which everything waits is given up, in milliseconds; 2,000 unless given. */
  parkAfterMs?: number
}

/** Answers a delivery. The second argument may bring `waitUntil` of this request. */
export type WebhookHandler = (request: Request, context?: Pick<WebhookOptions, 'waitUntil'>) => Promise<Response>

/**
 * The signature of a webhook's body.
 *
 * @param secret shared with the sender
 * @param body the raw body
 * @returns `sha256=` and 64 hex digits
 */
export function signWebhook(secret: string, body: Uint8Array | string): string {
  return `sha256=${createHmac('sha256', secret).update(body).digest('hex')}`
}

/**
 * Whether a webhook was signed with a secret; in constant time.
 *
 * @param secret shared with the sender: the webhook secret, or a channel's own
 * @param body the raw body, as received: parsing and printing it again changes it
 * @param signature the header `x-tidebase-signature`
 *
 * @example
 * if (!verifyWebhook(channelSecret, await request.text(), request.headers.get('x-tidebase-signature'))) return forbidden()
 */
export function verifyWebhook(
  secret: string,
  body: Uint8Array | string,
  signature: string | null | undefined,
): boolean {
  if (!secret || !signature) return false
  const expected = Buffer.from(signWebhook(secret, body))
  const given = Buffer.from(signature.trim())
  return given.length === expected.length && timingSafeEqual(given, expected)
}

/** Makes the handler; see `Tidebase.webhook`. */
export function webhook(engine: Engine, secret: string | undefined, options: WebhookOptions): WebhookHandler {
  if (!secret)
    throw new TidebaseError('A webhook handler needs the secret that the server signs with.', {
      code: 'webhook_secret_missing',
      hint: 'Set TIDEBASE_WEBHOOK_SECRET here and on the server, or pass `webhookSecret`.',
    })
  const { onError = print, parkAfterMs = defaultParkAfterMs } = options
  return async (request, context) => {
    if (request.method !== 'POST') return refuse(405, 'method_not_allowed', 'Webhooks are POSTed.', 'Send a POST.')
    const body = await read(request)
    if (!body) return refuse(413, 'body_too_large', 'The body is too large.', 'Tidebase sends less than 1 MiB.')
    if (!verifyWebhook(secret, body, request.headers.get(signatureHeader)))
      return refuse(
        401,
        'invalid_signature',
        'The signature does not match the body.',
        'Use the same TIDEBASE_WEBHOOK_SECRET here and on the server, and pass the raw body on unchanged.',
      )
    const payload = parse(body)
    const type = property(payload, 'type')
    const runId = property(payload, 'runId')
    const workflowName = property(payload, 'workflowName')
    if (
      typeof runId !== 'string' ||
      typeof workflowName !== 'string' ||
      (type !== 'run.invoke' && type !== 'run.resume')
    )
      return refuse(
        422,
        'unknown_webhook',
        'This is not a request to execute a run.',
        'Point recoveryWebhook and invokeUrl here; handle channels with `verifyWebhook` at an address of their own.',
      )
    const fn = engine.workflows.get(workflowName)
    if (!fn)
      return refuse(
        404,
        'workflow_not_registered',
        `No workflow "${workflowName}" is registered here.`,
        `Register it with tide.workflow('${workflowName}', …) before deliveries arrive.`,
      )
    const work = engine.resume(runId, fn, { signal: options.signal, parkAfterMs }).then(
      () => undefined,
      (error: unknown) => {
        // Somebody executes it already, or it is over: what the webhook asked for is taken care of.
        if (error instanceof RunLeasedError || error instanceof RunCancelledError) return
        if (error instanceof RunParkedError) return
        onError(error, runId)
      },
    )
    const waitUntil = context?.waitUntil ?? options.waitUntil
    waitUntil?.(work)
    return Response.json({ accepted: true, runId }, { status: 202 })
  }
}

/** The body; undefined when it is larger than any webhook, of which no more is read. */
async function read(request: Request): Promise<Uint8Array | undefined> {
  const chunks: Uint8Array[] = []
  let size = 0
  const reader = request.body?.getReader()
  for (;;) {
    const { done, value } = (await reader?.read()) ?? { done: true, value: undefined }
    if (done) return Buffer.concat(chunks)
    chunks.push(value)
    size += value.length
    if (size <= maxBodyBytes) continue
    await reader?.cancel()
    return undefined
  }
}

function parse(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch {
    return undefined
  }
}

function refuse(status: number, code: string, error: string, hint: string): Response {
  return Response.json({ error, code, hint }, { status })
}

function print(error: unknown, runId: string): void {
  console.error(`tidebase: run ${runId} failed: ${errorText(error)}`)
}
