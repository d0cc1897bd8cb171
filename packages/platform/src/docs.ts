// What the control plane says of itself, made from its endpoints: GET /api for machines, /openapi.json, /llms.txt.
import { createRequire } from 'node:module'
import { z } from 'zod'
import type { Endpoint } from './endpoint.ts'
import { endpoints } from './endpoints.ts'
import { codes } from './errors.ts'
import { sourceLimits } from './source.ts'

const require = createRequire(import.meta.url)
const schema = (type: z.ZodType) => {
  const { $schema: _, ...rest } = z.toJSONSchema(type, { io: 'input', unrepresentable: 'any' })
  return rest
}
const openPath = (path: string) => path.replace(/:(\w+)/g, '{$1}').replace(/\*$/, '{path}')

/** What is limited, for people. */
export const limits = {
  podsCreated: '10 an hour and 100 a day per agent',
  mails: '5 per handler call, 100 a day per pod',
  source: `${sourceLimits.files} files, ${sourceLimits.fileBytes / 1024 ** 2} MB a file, ${sourceLimits.totalBytes / 1024 ** 2} MB in all`,
  db: '1 GB a pod',
  files: '50 GB a pod',
  replicas: '1 to 10 a pod',
  http: '200 requests by tp.http in 60 s a process',
}

/** GET /api. @param url where this platform is */
export function apiDocument(url: string): object {
  // The runtime's own reference: every tool of `tp` with an example.
  const tp: unknown = require('tidepool/reference.json')
  return {
    name: 'Tidepool',
    about:
      'Deploy full web apps from a folder with a main.ts. Every error is {error, code, hint} with file and line where they are known.',
    start: [
      `tidepool --url ${url} register --email you@example.com`,
      'tidepool verify <link or token of the mail>',
      'tidepool init my-app && cd my-app && tidepool deploy',
    ],
    authorization: 'Authorization: Bearer <key>',
    endpoints: Object.entries(endpoints).map(
      ([name, { method, path, summary, access, query, body, bytes, reply, errors, example }]) => ({
        name,
        method,
        path,
        summary,
        access,
        ...(query && { query: schema(query) }),
        ...(body && { body: schema(body) }),
        ...(bytes && { body: 'bytes' }),
        reply: reply ? schema(reply) : 'see the summary',
        errors,
        ...(example && { example: example.replace('$URL', url) }),
      }),
    ),
    errors: Object.fromEntries(
      Object.entries(codes).map(([code, [status, meaning, hint]]) => [code, { status, meaning, hint }]),
    ),
    limits,
    tp,
  }
}

function operation(name: string, { summary, access, path, query, body, bytes, reply, errors }: Endpoint): object {
  const params = [...path.matchAll(/:(\w+)/g)].map(([, param]) => param ?? '')
  if (path.endsWith('*')) params.push('path')
  const fields: Record<string, object> = query ? (schema(query).properties as Record<string, object>) : {}
  return {
    operationId: name,
    summary,
    ...(access !== 'public' && { security: [{ key: [] }] }),
    parameters: [
      ...params.map((param) => ({ name: param, in: 'path', required: true, schema: { type: 'string' } })),
      ...Object.entries(fields).map(([field, type]) => ({ name: field, in: 'query', required: false, schema: type })),
    ],
    ...(body && { requestBody: { content: { 'application/json': { schema: schema(body) } } } }),
    ...(bytes && { requestBody: { content: { 'application/octet-stream': {} } } }),
    responses: {
      200: { description: 'Done.', ...(reply && { content: { 'application/json': { schema: schema(reply) } } }) },
      ...Object.fromEntries(
        errors.map((code) => [codes[code][0], { description: `\`${code}\`: ${codes[code][1]}`, $ref: undefined }]),
      ),
    },
  }
}

/** GET /openapi.json */
export function openApi(): object {
  const paths: Record<string, Record<string, object>> = {}
  for (const [name, endpoint] of Object.entries(endpoints)) {
    const at = openPath(endpoint.path)
    paths[at] = { ...paths[at], [endpoint.method.toLowerCase()]: operation(name, endpoint) }
  }
  return {
    openapi: '3.1.0',
    info: { title: 'Tidepool', version: '0.1.0' },
    paths,
    components: { securitySchemes: { key: { type: 'http', scheme: 'bearer' } } },
  }
}

/** GET /llms.txt */
export function llmsText(url: string): string {
  const lines = Object.values(endpoints).map(({ method, path, summary }) => `- \`${method} ${path}\` ${summary}`)
  return `# Tidepool at ${url}

Deploy full web apps (pages, login, payments, database, files, mail, background work) from a folder with a main.ts.

1. \`tidepool --url ${url} register --email you@example.com\`, then \`tidepool verify <token of the mail>\`
2. \`tidepool init my-app && cd my-app && tidepool deploy\`

Every tool of \`tp\` and every endpoint with its schemas, as JSON: ${url}/api · OpenAPI: ${url}/openapi.json
Errors are \`{error, code, hint}\`; the command line prints them as JSON with --json.

## Endpoints (Authorization: Bearer <key>)

${lines.join('\n')}
`
}
