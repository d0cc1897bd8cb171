// POST /batch: many calls in one request. Its calls start in one turn of the event loop, so the coalescers make few
// statements of them. Each is admitted, checked and answered as if it came alone; the answer leaves when all are done.
//
// What one request can make the server hold is bounded: few reads at a time, and an end to the length of the answers.
// A call that was done but whose answer no longer fits says so; every operation may be repeated.
import { type BatchCall, type Route, type RouteName, routes } from '@tidebase/wire'
import { check, checkStorable, readBatch } from './body.ts'
import { textOf } from './encoded.ts'
import { ApiError } from './errors.ts'
import { type Match, namedParams, type Router } from './router.ts'

/** An answer that is not 2xx, taken apart. */
export interface Failure {
  status: number
  headers: Record<string, string>
  body: object
}

/** What the edge lends to a batch. */
export interface Edge {
  find: Router<RouteName>
  /** Does one call for the batch's caller. @throws what the call is refused for */
  perform(match: Match<RouteName>, query: object, body: unknown): Promise<unknown>
  failure(error: unknown): Failure
  observe(route: string, status: number, ms: number): void
  /** Largest body, bytes. */
  maxBody: number
}

const readsAtOnce = 4

/**
 * Answers a batch.
 *
 * @throws ApiError when the batch itself is malformed; then none of its calls was done
 */
export async function answerBatch(edge: Edge, request: Request): Promise<Response> {
  const { value, suspect } = await readBatch(request, edge.maxBody)
  const calls = plainCalls(value) ?? check(routes.batch.body, value, 'invalid_body').calls
  const readers = new Readers()
  let room = 4 * edge.maxBody
  const one = async (call: BatchCall): Promise<string> => {
    const began = performance.now()
    let name = 'none'
    let status = 200
    let text: string
    try {
      if (suspect) checkStorable(call.body)
      const match = matchOf(edge.find, call)
      name = match.name
      const { route } = match
      if (route.alone || route.reply === null) throw new ApiError('not_in_batch', `${name} cannot be part of a batch.`)
      // As an address would carry it: all text, and well formed.
      const query = call.query ? Object.fromEntries(new URLSearchParams(textual(call.query))) : {}
      const work = () => edge.perform(match, query, call.body === undefined ? {} : call.body)
      const reply = await (route.method === 'GET' ? readers.run(work) : work())
      text = `{"status":200,"body":${textOf(reply)}}`
      if (text.length > room) throw new ApiError('not_in_batch', 'The answers of this batch are too long together.')
      room -= text.length
    } catch (error) {
      const { headers, body, ...failed } = edge.failure(error)
      status = failed.status
      text = JSON.stringify({ status, ...(Object.keys(headers).length > 0 ? { headers } : {}), body })
    }
    edge.observe(name, status, performance.now() - began)
    return text
  }
  const answers = await Promise.all(calls.map(one))
  return new Response(`{"answers":[${answers.join(',')}]}`, { headers: { 'content-type': 'application/json' } })
}

const most = 500
const plainFields: ReadonlySet<string> = new Set(['route', 'params', 'body'])

/**
 * The calls of a batch as SDKs write them: named, with text as parameters. They need no schema, which would cost more
 * than the rest of their reading; whatever looks otherwise is the schema's to judge.
 */
function plainCalls(value: unknown): BatchCall[] | undefined {
  if (typeof value !== 'object' || value === null || !('calls' in value)) return undefined
  const { calls } = value
  return Array.isArray(calls) && calls.length <= most && calls.every(isPlain) ? calls : undefined
}

function isPlain(call: unknown): call is BatchCall {
  if (typeof call !== 'object' || call === null || !('route' in call) || typeof call.route !== 'string') return false
  for (const field in call) if (!plainFields.has(field)) return false
  if (!('params' in call)) return true
  const { params } = call
  if (typeof params !== 'object' || params === null || Array.isArray(params)) return false
  return Object.values(params).every((param) => typeof param === 'string')
}

function matchOf(
  find: Router<RouteName>,
  { route: name, method = '', path = '', params }: BatchCall,
): Match<RouteName> {
  if (name !== undefined) {
    if (!isRoute(name))
      throw new ApiError('route_not_found', `There is no operation ${JSON.stringify(name.slice(0, 100))}.`)
    const route: Route = routes[name]
    return { name, route, params: namedParams(route, params ?? {}) }
  }
  const match = find(method, path)
  if (match === null) throw new ApiError('route_not_found', `There is no route ${method} ${path.slice(0, 200)}.`)
  if ('allowed' in match) {
    throw new ApiError('method_not_allowed', `This path does not take ${method}.`, { allow: match.allowed.join(', ') })
  }
  return match
}

const isRoute = (name: string): name is RouteName => Object.hasOwn(routes, name)

function textual(query: NonNullable<BatchCall['query']>): Record<string, string> {
  return Object.fromEntries(Object.entries(query).map(([key, value]) => [key, String(value)]))
}

/** So many reads at a time: each may hold a long answer and a connection. */
class Readers {
  #free = readsAtOnce
  readonly #waiting: (() => void)[] = []

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--
    else await new Promise<void>((resolve) => this.#waiting.push(resolve))
    try {
      return await work()
    } finally {
      const next = this.#waiting.shift()
      if (next) next()
      else this.#free++
    }
  }
}
