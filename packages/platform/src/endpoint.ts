// An endpoint of the control plane is a value: who may call it, what it takes, what it answers, and what it does.
// Validation, /api, /openapi.json and the cross-tenant tests are made from the list of them (endpoints.ts).
// To add one: a value in its noun's file, its line in endpoints.ts, a test through HTTP.
import type { IncomingMessage, ServerResponse } from 'node:http'
import { z } from 'zod'
import type { Caller } from './agents.ts'
import type { Code } from './errors.ts'
import type { Platform } from './platform.ts'
import type { PodRow } from './pods.ts'

/** What a narrower key may be confined to. */
export const verbs = ['read', 'deploy', 'data', 'secrets', 'manage'] as const
export type Verb = (typeof verbs)[number]

/** Who may call: anybody, an agent (verified or not), a verified agent's key with a verb, the operator. */
export type Access = 'public' | 'agent' | 'operator' | Verb

export interface Call<Body, Query> {
  platform: Platform
  caller: Caller
  /** The pod that the path names, of the caller; only where the path has `:pod`. */
  pod: PodRow
  params: Record<string, string>
  body: Body
  query: Query
  req: IncomingMessage
  res: ServerResponse
  /** Aborted when the client is gone or the platform stops. */
  signal: AbortSignal
}

export interface Endpoint {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** `:name` takes one segment, `*` at the end the rest of the path. */
  path: string
  summary: string
  access: Access
  body?: z.ZodType
  /** The body is bytes: the handler reads `req`. */
  bytes?: true
  query?: z.ZodType
  reply: z.ZodType | null
  errors: readonly Code[]
  example?: string
  handler: (call: Call<never, never>) => Promise<unknown>
}

type Typed<B extends z.ZodType | undefined, Q extends z.ZodType | undefined> = Omit<
  Endpoint,
  'body' | 'query' | 'handler'
> & {
  body?: B
  query?: Q
  handler: (
    call: Call<B extends z.ZodType ? z.output<B> : undefined, Q extends z.ZodType ? z.output<Q> : undefined>,
  ) => Promise<unknown>
}

/** Ties the types of a handler to its schemas. The edge checks by the same schemas before it calls. */
export function endpoint<B extends z.ZodType | undefined = undefined, Q extends z.ZodType | undefined = undefined>(
  value: Typed<B, Q>,
): Endpoint {
  const { handler, ...rest } = value
  return { ...rest, handler: (call) => handler(call) }
}

/** A time on the wire. */
export const Time = z.string().meta({ format: 'date-time' })

/** A number in a query. */
export const IntParam = (min: number, max: number) => z.coerce.number().int().min(min).max(max)
