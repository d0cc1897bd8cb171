// Request bodies: from bytes to checked JSON. What Postgres could not store, or what would be stored as something
// else, is refused here with its path, before any statement sees it.
import type { Issue } from '@tidebase/wire'
import type { z } from 'zod'
import { ApiError } from './errors.ts'

const maxDepth = 200
const decoder = new TextDecoder('utf-8', { fatal: true })

/**
 * The JSON of a request.
 *
 * @param limit bytes
 * @returns the value; an empty body counts as `{}`
 * @throws ApiError `body_too_large`, `unsupported_media_type`, `invalid_json`, `invalid_body`
 */
export async function readJson(request: Request, limit: number): Promise<unknown> {
  const { value, suspect } = await parseBody(request, limit, maxDepth)
  if (suspect) checkStorable(value)
  return value
}

/**
 * The JSON of a batch. What cannot be stored is a matter of the call that says it: when `suspect`, every call must pass
 * `checkStorable`.
 *
 * @throws ApiError `body_too_large`, `unsupported_media_type`, `invalid_json`
 */
export function readBatch(request: Request, limit: number): Promise<{ value: unknown; suspect: boolean }> {
  // A call's body stands three levels deep.
  return parseBody(request, limit, maxDepth + 3)
}

/** @throws ApiError `code`, with the places of what Postgres could not store, or compare, as it is */
export function checkStorable(value: unknown, code: 'invalid_body' | 'invalid_query' = 'invalid_body'): void {
  const issues: Issue[] = []
  findUnstorable(value, '', issues)
  if (issues.length > 0) throw invalid(code, issues)
}

async function parseBody(
  request: Request,
  limit: number,
  depth: number,
): Promise<{ value: unknown; suspect: boolean }> {
  const bytes = await readBytes(request, limit)
  if (bytes.byteLength === 0) return { value: {}, suspect: false }
  const type = request.headers.get('content-type') ?? ''
  if (!/^application\/(?:[\w.+-]*\+)?json\s*(?:;|$)/i.test(type)) {
    throw new ApiError('unsupported_media_type', `The body must be JSON, not ${JSON.stringify(type.slice(0, 80))}.`)
  }
  let text: string
  try {
    text = decoder.decode(bytes)
  } catch {
    throw new ApiError('invalid_json', 'The body is not valid UTF-8.')
  }
  checkDepth(text, depth)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    const where = error instanceof Error ? error.message : String(error)
    throw new ApiError('invalid_json', `The body is not valid JSON: ${where.slice(0, 200)}.`)
  }
  // Only texts that contain one of these can hold something that must be refused; the walk is for naming the place.
  return { value, suspect: /\\u0000|\\ud[89a-f]|__proto__/i.test(text) }
}

/**
 * The fields of a form that a web page has posted.
 *
 * @param limit bytes
 * @throws ApiError `body_too_large`, `unsupported_media_type`, `invalid_json`, `invalid_body`
 */
export async function readForm(request: Request, limit: number): Promise<unknown> {
  const type = request.headers.get('content-type') ?? ''
  if (!type.startsWith('application/x-www-form-urlencoded')) {
    throw new ApiError('unsupported_media_type', 'This route takes the form of a web page.')
  }
  const bytes = await readBytes(request, limit)
  // An object of its own making: a field called __proto__ is only a field.
  const fields = Object.fromEntries(new URLSearchParams(Buffer.from(bytes as Uint8Array).toString('utf8')))
  checkStorable(fields)
  return fields
}

async function readBytes(request: Request, limit: number): Promise<ArrayBuffer | Uint8Array> {
  const tooLarge = () => new ApiError('body_too_large', `The body is larger than ${limit} bytes.`)
  const declared = request.headers.get('content-length')
  if (declared !== null) {
    if (Number(declared) > limit) throw tooLarge()
    return request.arrayBuffer()
  }
  if (!request.body) return new Uint8Array()
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of request.body) {
    size += chunk.byteLength
    if (size > limit) throw tooLarge()
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

/** Refuses JSON nested deeper than any parser behind us takes, without parsing it. */
function checkDepth(text: string, most: number): void {
  if (text.length < most * 2) return
  let depth = 0
  let inString = false
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (inString) {
      if (code === 92) at++
      else if (code === 34) inString = false
    } else if (code === 34) inString = true
    else if (code === 91 || code === 123) {
      if (++depth > most) {
        throw new ApiError('invalid_json', `The body is nested deeper than ${most} levels, at position ${at}.`)
      }
    } else if (code === 93 || code === 125) depth--
  }
}

function findUnstorable(value: unknown, path: string, issues: Issue[]): void {
  if (issues.length >= 20) return
  if (typeof value === 'string') checkText(value, path, issues)
  else if (Array.isArray(value)) {
    for (const [n, item] of value.entries()) findUnstorable(item, `${path}[${n}]`, issues)
  } else if (value !== null && typeof value === 'object') {
    for (const [key, item] of Object.entries(value)) {
      const inside = path === '' ? key : `${path}.${key}`
      if (key === '__proto__') issues.push({ path: inside, message: 'the key __proto__ is not allowed' })
      checkText(key, inside, issues)
      findUnstorable(item, inside, issues)
    }
  }
}

function checkText(text: string, path: string, issues: Issue[]): void {
  if (text.includes('\0')) issues.push({ path, message: 'contains the character NUL, which Postgres cannot store' })
  else if (!text.isWellFormed()) issues.push({ path, message: 'contains half of a surrogate pair' })
}

/** Checks a value against a schema. @throws ApiError with `code` and one issue per bad field */
export function check<Schema extends z.ZodType>(
  schema: Schema,
  value: unknown,
  code: 'invalid_body' | 'invalid_query',
): z.output<Schema> {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const issues = parsed.error.issues.map(({ path, message }) => ({ path: jsonPath(path), message }))
  throw invalid(code, issues)
}

function invalid(code: 'invalid_body' | 'invalid_query', issues: Issue[]): ApiError {
  const [first] = issues
  const where = first?.path ? `${first.path}: ` : ''
  const what = code === 'invalid_body' ? 'body does' : 'query parameters do'
  return new ApiError(code, `The ${what} not match the schema: ${where}${first?.message ?? 'invalid'}.`, { issues })
}

function jsonPath(path: PropertyKey[]): string {
  return path.reduce<string>(
    (text, part) =>
      typeof part === 'number' ? `${text}[${part}]` : text === '' ? String(part) : `${text}.${String(part)}`,
    '',
  )
}
