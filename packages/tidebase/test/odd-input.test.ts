import { type Route, type RouteName, routes } from '@tidebase/wire'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import { type Request, startServer } from '../../../test/server.ts'

// Every field, query parameter and part of a path of every route, with values at the edges of what the schemas, JSON,
// JavaScript and Postgres can hold: whatever is asked, the answer is one of the contract's, and never that the server
// failed.

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer({ reconciler: false })
})
afterAll(() => server.stop())

const texts = ['', 'x', '%', "'", '\0', '\ud800', '__proto__', 'é'.repeat(300), 'a'.repeat(2_000)]
const times = ['0000-01-01T00:00:00Z', '0001-01-01T00:00:00+15:59', '9999-12-31T23:59:59-15:59']
const numbers = [0, -1, 0.1, 5e-324, 100, 2 ** 31 - 1, 2 ** 31, 2 ** 53 - 1, 1e300, '9'.repeat(20)]
const others = [null, true, [], ['\0'], {}, { a: '\0' }, `run_${'a'.repeat(32)}`]
const oddities: unknown[] = [...texts, ...times, ...numbers, ...others]

type Schema = z.core.JSONSchema.BaseSchema
/** A body, and where it is odd. */
type Variant = [place: string, body: unknown]

/** What a schema takes, and that with one odd value after the other in each of its places. */
function reader(type: z.ZodType) {
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
    return name === 'leaseOwner' ? 'w1' : 'x'
  }
  const variants = (schema: Schema, place: string, inside: (value: unknown) => unknown): Variant[] => [
    ...oddities.map((value): Variant => [`${place} = ${JSON.stringify(value)}`, inside(value)]),
    ...(schema.type === 'array'
      ? variants(itemsOf(schema), `${place}[]`, (value) => inside([value]))
      : Object.entries(schema.properties ?? {}).flatMap(([key, property]) =>
          variants(follow(property), `${place}.${key}`, (value) =>
            inside({ ...Object(example(schema)), [key]: value }),
          ),
        )),
  ]
  const schema = follow(root)
  return { example: example(schema), variants: variants(schema, 'body', (value) => value), fields: schema.properties }
}

/** What is asked of a route. */
function* asked(route: Route, runId: string): Generator<[place: string, Request]> {
  const { example: body, variants = [] } = route.body ? reader(route.body) : {}
  const names = [...route.path.matchAll(/:(\w+)/g)].map(([, name = '']) => name)
  const params = Object.fromEntries(
    names.map((name) => [
      name,
      name === 'runId' ? runId : name.endsWith('Id') ? `${name.slice(0, -2)}_${'a'.repeat(32)}` : 'x',
    ]),
  )
  for (const [place, odd] of variants) yield [place, { params, body: odd }]
  const text = (value: unknown) => (typeof value === 'string' ? value.toWellFormed() : JSON.stringify(value))
  for (const value of oddities.map(text)) {
    for (const field of Object.keys((route.query && reader(route.query).fields) ?? {}))
      yield [`?${field}=${value}`, { params, query: { [field]: value }, body }]
    for (const name of names) if (value) yield [`:${name} is ${value}`, { params: { ...params, [name]: value }, body }]
  }
}

test('whatever is asked is answered, and never with a failure of the server', async () => {
  const { run } = await server.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  await server.ok('beginRun', { params: { runId: run.id }, headers: { 'x-tidebase-worker': 'w1' } })
  // What is answered as it happens has no end.
  const names = Object.keys(routes).filter((name): name is RouteName => routes[name as RouteName].reply !== null)
  expect(names.length).toBeGreaterThan(55)
  const answered = new Map<number, number>()
  const failed: string[] = []
  for (const name of names) {
    const all = asked(routes[name], run.id)
    const sender = async () => {
      for (const [place, request] of all) {
        const { status, body } = await server.send(name, request)
        answered.set(status, (answered.get(status) ?? 0) + 1)
        if (status >= 500 || (status >= 400 && !(body.error && body.code && body.hint)))
          failed.push(`${name}, ${place.slice(0, 80)}: ${status} ${body.code}`)
      }
    }
    await Promise.all(Array.from({ length: 16 }, sender))
  }
  expect(failed).toEqual([])
  // It has come to the handlers, not only to the schemas.
  expect(answered.get(200)).toBeGreaterThan(1_000)
}, 120_000)
