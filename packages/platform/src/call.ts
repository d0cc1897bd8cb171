/**
 * Calling an endpoint for somebody: may they, which pod of theirs is it, are query and body as they must be. Whose
 * things a call may touch is decided here, once, for the API and for the pages: a handler is given the caller's pod, not
 * an id.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Caller } from './agents.ts'
import type { Access, Endpoint } from './endpoint.ts'
import { PlatformError } from './errors.ts'
import type { Platform } from './platform.ts'
import { findPod } from './pods.ts'

function check(type: NonNullable<Endpoint['body']>, value: unknown): unknown {
  const { success, data, error } = type.safeParse(value)
  if (success) return data
  const issues = error.issues.slice(0, 20).map((issue) => ({
    path: issue.path.map((each) => (typeof each === 'number' ? each : String(each))),
    // What is wrong with a key is said one level deeper.
    message: (issue.code === 'invalid_key' && issue.issues[0]?.message) || issue.message,
  }))
  const first = issues[0]
  throw new PlatformError('invalid', `${first?.path.join('.') || 'The body'}: ${first?.message ?? 'is wrong'}.`, {
    issues,
  })
}

/** Refuses who may not call. @throws PlatformError `unauthorized`, `unverified`, `forbidden` */
export function allow(access: Access, caller: Caller): void {
  if (access === 'public') return
  if (caller.kind === 'nobody') throw new PlatformError('unauthorized')
  if (access === 'operator' || caller.kind === 'operator') {
    if (access !== 'operator' || caller.kind !== 'operator')
      throw new PlatformError(
        'forbidden',
        access === 'operator' ? 'Only the operator may do that.' : 'The operator has no pods: use an agent’s key.',
      )
    return
  }
  if (access === 'agent') return
  if (!caller.verified) throw new PlatformError('unverified')
  if (caller.verbs && !caller.verbs.includes(access))
    throw new PlatformError('forbidden', `This key lacks the verb "${access}".`, {
      hint: 'Make a key with it: POST /api/keys.',
    })
}

/** Whether somebody may call: what a page shows no button for would fail. */
export function may(access: Access, caller: Caller): boolean {
  try {
    allow(access, caller)
    return true
  } catch {
    return false
  }
}

/** What a call consists of, as it came. */
export interface Request {
  params: Record<string, string>
  query: Record<string, string>
  /** JSON; read when the caller has been found to be allowed. */
  body: () => Promise<unknown>
  req: IncomingMessage
  res: ServerResponse
  signal: AbortSignal
}

/** Calls an endpoint. @throws PlatformError @returns its answer; undefined when it has answered by itself */
export async function invoke(
  platform: Platform,
  caller: Caller,
  endpoint: Endpoint,
  { params, query, body, req, res, signal }: Request,
): Promise<unknown> {
  allow(endpoint.access, caller)
  const named =
    params.pod === undefined
      ? undefined
      : await findPod(platform.db, caller, params.pod, endpoint.path.endsWith('/restore'))
  // The schemas that the handler's types come from accept both.
  return endpoint.handler({
    platform,
    caller,
    get pod() {
      if (!named) throw new Error(`${endpoint.path} names no pod`)
      return named
    },
    params,
    query: (endpoint.query ? check(endpoint.query, query) : undefined) as never,
    body: (endpoint.body ? check(endpoint.body, await body()) : undefined) as never,
    req,
    res,
    signal,
  })
}
