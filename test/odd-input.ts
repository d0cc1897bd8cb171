// Requests with values at the edges of what schemas, JSON, JavaScript and Postgres can hold, made from the schemas of a
// route: one odd value at a time, in each field of the body, each query parameter and each part of the path.
import { z } from 'zod'

const texts = ['', "'%", '\0', '\ud800', '__proto__', 'é'.repeat(300), 'a'.repeat(2_000)]
const times = ['0000-01-01T00:00:00Z', '0001-01-01T00:00:00+15:59', '9999-12-31T23:59:59-15:59']
const numbers = [0, -1, 5e-324, 2 ** 31 - 1, 2 ** 31, 2 ** 53 - 1, 1e300, '9'.repeat(20)]
const others = [null, true, ['\0'], {}, { a: '\0' }, `run_${'a'.repeat(32)}`]
const oddities: unknown[] = [...texts, ...times, ...numbers, ...others]

export interface OddRequest {
  /** What is odd, for the message of a failed test. */
  place: string
  params: Record<string, string>
  query: Record<string, string>
  body: unknown
}

/**
 * The odd requests of a route.
 *
 * @param route its path with `:name` for parameters and `*` for a rest, and the schemas of its query and body
 * @param known values that reach further than `x` would, by the name of the field or parameter
 */
export function* oddRequests(
  route: { path: string; query?: z.ZodType; body?: z.ZodType },
  known: Record<string, string> = {},
): Generator<OddRequest> {
  const body = route.body && reader(route.body, known)
  const names = [...route.path.matchAll(/:(\w+)|(\*)/g)].map(([, name, rest]) => name ?? rest ?? '')
  const params = Object.fromEntries(names.map((name) => [name, known[name] ?? 'x']))
  const plain = { params, query: {}, body: body?.example }
  for (const [place, odd] of body?.variants ?? []) yield { ...plain, place, body: odd }
  const fields = Object.keys((route.query && reader(route.query, known).properties) ?? {})
  for (const oddity of oddities) {
    // What an address can carry.
    const value = typeof oddity === 'string' ? oddity.toWellFormed() : JSON.stringify(oddity)
    for (const field of fields) yield { ...plain, place: `?${field}=${value}`, query: { [field]: value } }
    for (const name of names)
      if (value) yield { ...plain, place: `:${name} is ${value}`, params: { ...params, [name]: value } }
  }
}

type Schema = z.core.JSONSchema.BaseSchema

/** What a schema takes, and that with one odd value after the other in each of its places. */
function reader(type: z.ZodType, known: Record<string, string>) {
  const root = z.toJSONSchema(type, { io: 'input', unrepresentable: 'any' })
  const follow = (schema: z.core.JSONSchema._JSONSchema | undefined): Schema => {
    if (typeof schema !== 'object') return {}
    const { $ref, anyOf, oneOf } = schema
    if ($ref) return follow(root.$defs?.[$ref.slice('#/$defs/'.length)])
    const [first] = anyOf ?? oneOf ?? []
    return first ? follow(first) : schema
  }
  const itemsOf = ({ items }: Schema) => follow(Array.isArray(items) ? items[0] : items)
  const example = (schema: Schema, name = ''): unknown => {
    if (schema.const !== undefined) return schema.const
    if (schema.enum) return schema.enum[0]
    if (schema.type === 'array') return [example(itemsOf(schema), name)]
    if (schema.type === 'integer' || schema.type === 'number') return schema.minimum ?? 1
    if (schema.type === 'boolean') return true
    if (schema.type === 'object')
      return Object.fromEntries(
        (schema.required ?? []).map((key) => [key, example(follow(schema.properties?.[key]), key)]),
      )
    if (schema.format === 'date-time') return '2026-01-01T00:00:00Z'
    if (schema.format === 'uri') return 'https://example.com/'
    return known[name] ?? 'x'
  }
  const variants = (
    schema: Schema,
    place: string,
    inside: (value: unknown) => unknown,
  ): [place: string, body: unknown][] => [
    ...oddities.map((value): [string, unknown] => [`${place} = ${JSON.stringify(value)}`, inside(value)]),
    ...(schema.type === 'array'
      ? variants(itemsOf(schema), `${place}[]`, (value) => inside([value]))
      : Object.entries(schema.properties ?? {}).flatMap(([key, property]) =>
          variants(follow(property), `${place}.${key}`, (value) =>
            inside({ ...Object(example(schema)), [key]: value }),
          ),
        )),
  ]
  const schema = follow(root)
  return {
    example: example(schema),
    variants: variants(schema, 'body', (value) => value),
    properties: schema.properties,
  }
}
