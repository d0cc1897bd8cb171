// A route is a value: the server dispatches on it, the SDKs and the OpenAPI document are typed from it.
// To add one: write it in the noun's file, list it in index.ts; the server does not compile until it is handled.
import type { z } from 'zod'
import type { ErrorCode } from './errors.ts'

/** What an API key may do. `admin` may do everything in its project. */
export type Scope = 'admin' | 'worker' | 'enqueue' | 'read'

/** One endpoint of the contract. */
export interface Route {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** Path with `:name` parameters; a parameter takes exactly one segment. */
  path: string
  /** One sentence for the OpenAPI document. */
  summary: string
  /** Scopes that may call it besides `admin`. An empty list means admin only. */
  scopes: readonly Scope[]
  /** Nobody needs a key: what is in the address or the form is the right to call it. */
  keyless?: true
  /** Not inside a batch: it may wait for long, or is a batch itself. Nor is a route whose `reply` is null. */
  alone?: true
  /** The body is a form of a web page, not JSON. */
  form?: true
  /** Query string parameters, already split into strings. */
  query?: z.ZodType
  /** JSON body; a missing body counts as `{}`. */
  body?: z.ZodType
  /** JSON body of a 200 answer. `null` for a route that answers in another form (a stream, a file). */
  reply: z.ZodType | null
  /** Codes this route answers with besides those any route may give. */
  errors: readonly ErrorCode[]
}

/** Keeps the literal types of a route's fields. */
export function route<const R extends Route>(value: R): R {
  return value
}

/** The parsed body of a route. */
export type BodyOf<R extends Route> = R['body'] extends z.ZodType ? z.output<R['body']> : undefined
/** The parsed query of a route. */
export type QueryOf<R extends Route> = R['query'] extends z.ZodType ? z.output<R['query']> : undefined
/** The reply of a route. */
export type ReplyOf<R extends Route> = R['reply'] extends z.ZodType ? z.input<R['reply']> : null
/** The names of a route's path parameters. */
export type ParamsOf<R extends Route> = PathParams<R['path']>
type PathParams<P extends string> = P extends `${string}:${infer Name}/${infer Rest}`
  ? { [K in Name]: string } & PathParams<`/${Rest}`>
  : P extends `${string}:${infer Name}`
    ? { [K in Name]: string }
    : unknown
