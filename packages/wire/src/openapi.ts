// Builds the OpenAPI 3.1 document from the routes.
import { z } from 'zod'
import { errorCodes } from './errors.ts'
import type { Route } from './route.ts'

type Json = { [key: string]: unknown }

const errorSchema = {
  type: 'object',
  required: ['error', 'code', 'hint'],
  properties: {
    error: { type: 'string', description: 'One human sentence' },
    code: { type: 'string', enum: Object.keys(errorCodes) },
    hint: { type: 'string', description: 'What to do next' },
    issues: {
      type: 'array',
      items: {
        type: 'object',
        required: ['path', 'message'],
        properties: { path: { type: 'string' }, message: { type: 'string' } },
      },
    },
  },
}

/**
 * The OpenAPI 3.1 document of some routes.
 *
 * @param routes the routes by operation name
 * @returns a JSON object; schemas that carry an id are shared under `components`
 */
export function openApiDocument(routes: Record<string, Route>): Json {
  const schemas: Json = { Error: errorSchema }
  const schema = (type: z.ZodType): Json => {
    const { $schema, $defs, ...rest } = z.toJSONSchema(type, {
      io: 'input',
      reused: 'inline',
      target: 'draft-2020-12',
    }) as Json
    for (const [name, definition] of Object.entries(($defs ?? {}) as Json)) schemas[name] = relocate(definition)
    return relocate(rest) as Json
  }
  const paths: { [path: string]: Json } = {}
  for (const [name, route] of Object.entries(routes)) {
    const path = route.path.replace(/:(\w+)/g, '{$1}')
    paths[path] ??= {}
    paths[path][route.method.toLowerCase()] = operation(name, route, schema)
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Tidebase',
      version: '0.1.0',
      description: 'Durable runs for AI agents. Unknown request fields are ignored; replies may carry more fields.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    security: [{ key: [] }, {}],
    paths,
    components: { securitySchemes: { key: { type: 'http', scheme: 'bearer' } }, schemas },
  }
}

function operation(name: string, route: Route, schema: (type: z.ZodType) => Json): Json {
  const inPath = [...route.path.matchAll(/:(\w+)/g)].map(([, param]) => ({
    name: param,
    in: 'path',
    required: true,
    schema: { type: 'string' },
  }))
  const query = route.query ? (schema(route.query) as { properties?: Json; required?: string[] }) : {}
  const inQuery = Object.entries(query.properties ?? {}).map(([param, type]) => ({
    name: param,
    in: 'query',
    // A default makes it optional on the wire although it is always there after parsing.
    required: false,
    schema: type,
  }))
  const failures: Json = {}
  for (const code of new Set(route.errors)) {
    const { status, meaning } = errorCodes[code]
    const known = failures[status] as { description: string } | undefined
    if (known) known.description += ` \`${code}\`: ${meaning}`
    else
      failures[status] = {
        description: `\`${code}\`: ${meaning}`,
        content: json({ $ref: '#/components/schemas/Error' }),
      }
  }
  return {
    operationId: name,
    summary: route.summary,
    'x-scopes': ['admin', ...route.scopes],
    ...(inPath.length + inQuery.length ? { parameters: [...inPath, ...inQuery] } : {}),
    ...(route.keyless ? { security: [] } : {}),
    ...(route.body ? { requestBody: { content: content(schema(route.body), route.form) } } : {}),
    responses: {
      200: route.reply
        ? { description: 'Done', content: json(schema(route.reply)) }
        : { description: 'Done; see the summary for its form' },
      ...failures,
      default: { description: 'Any other error', content: json({ $ref: '#/components/schemas/Error' }) },
    },
  }
}

function json(schema: Json): Json {
  return content(schema, false)
}

function content(schema: object, form: boolean | undefined) {
  return { [form ? 'application/x-www-form-urlencoded' : 'application/json']: { schema } }
}

/** zod writes references relative to one document (`#/$defs/Run`); ours live under components. */
function relocate(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(relocate)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) =>
      key === '$ref' && typeof item === 'string'
        ? [key, item.replace('#/$defs/', '#/components/schemas/')]
        : [key, relocate(item)],
    ),
  )
}
