// JSON Schema for people: types as TypeScript would write them, and a value that fits.
import { z } from 'zod'

type Schema = z.core.JSONSchema.BaseSchema
type Subschema = z.core.JSONSchema._JSONSchema

/** The JSON Schema of what a caller sends, or is answered. */
export const schemaOf = (type: z.ZodType): Schema => z.toJSONSchema(type, { io: 'input', unrepresentable: 'any' })

function resolve(schema: Subschema | undefined, root: Schema): Schema {
  if (schema === undefined || typeof schema === 'boolean') return {}
  const name = schema.$ref?.replace('#/$defs/', '')
  return name === undefined ? schema : resolve(root.$defs?.[name], root)
}

/** What a number or text must be, as far as it is said. */
function limitsOf({ minimum, maximum, minLength, maxLength, pattern, format, description }: Schema): string {
  const safe = (value: number | undefined) => value !== undefined && Math.abs(value) < Number.MAX_SAFE_INTEGER
  const said = [
    format,
    (safe(minimum) || safe(maximum)) &&
      `${safe(minimum) ? minimum : ''}${safe(maximum) ? ` to ${maximum}` : ' or more'}`.trim(),
    maxLength !== undefined && `${minLength ? `${minLength} to` : 'at most'} ${maxLength} characters`,
    pattern !== undefined && pattern.length < 60 && pattern,
    description,
  ]
  return said.filter(Boolean).join('; ')
}

/** A type as text, objects over several lines. @param inside the references that led here: JSON contains JSON */
export function typeText(given: Subschema, root: Schema, indent = '', inside: readonly string[] = []): string {
  const ref = typeof given === 'boolean' ? undefined : given.$ref
  if (ref !== undefined && inside.includes(ref)) return 'JSON'
  const path = ref === undefined ? inside : [...inside, ref]
  const text = (each: Subschema, at = indent) => typeText(each, root, at, path)
  const schema = resolve(given, root)
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(' | ')
  if (schema.const !== undefined) return JSON.stringify(schema.const)
  const choices = schema.anyOf ?? schema.oneOf
  if (choices) {
    const all = [...new Set(choices.map((each) => text(each)))]
    return all.includes('JSON') ? 'JSON' : all.join(' | ')
  }
  if (schema.type === 'array') {
    if (schema.prefixItems) return `[${schema.prefixItems.map((each) => text(each)).join(', ')}]`
    const items = Array.isArray(schema.items) ? schema.items[0] : schema.items
    const item = text(items ?? {})
    return item.includes(' | ') && !item.startsWith('{') ? `(${item})[]` : `${item}[]`
  }
  if (schema.type === 'object' && schema.properties) {
    const inner = `${indent}  `
    const lines = Object.entries(schema.properties).map(([name, value]) => {
      const field = resolve(value, root)
      const optional = schema.required?.includes(name) ? '' : '?'
      const preset = field.default === undefined ? '' : ` = ${JSON.stringify(field.default)}`
      const said = limitsOf(field)
      return `${inner}${name}${optional}: ${text(value, inner)}${preset}${said && `  // ${said}`}`
    })
    return `{\n${lines.join('\n')}\n${indent}}`
  }
  if (schema.type === 'object') {
    const values = text(schema.additionalProperties ?? {})
    return `{ [name: string]: ${values} }`
  }
  const type: unknown = schema.type
  return Array.isArray(type) ? type.join(' | ') : typeof type === 'string' ? type : 'any'
}

/** The parameters of a query. */
export function fieldsOf(type: z.ZodType): { name: string; type: string; preset: string; says: string }[] {
  const root = schemaOf(type)
  return Object.entries(root.properties ?? {}).map(([name, value]) => {
    const field = resolve(value, root)
    return {
      name,
      type: typeText(field, root),
      preset: field.default === undefined ? '' : JSON.stringify(field.default),
      says: limitsOf(field),
    }
  })
}

const samples: Record<string, unknown> = {
  email: 'you@example.com',
  name: 'my-app',
  token: 'link_…',
  files: [['main.ts', '<sha256 of its bytes>', 56]],
  set: { api_key: 'value' },
  replicas: 2,
}

/** A body that shows what is needed. */
export function sampleOf(given: Subschema, root: Schema, name = ''): unknown {
  if (Object.hasOwn(samples, name)) return samples[name]
  const schema = resolve(given, root)
  if (schema.enum) return schema.enum[0]
  if (schema.type === 'object' && schema.properties) {
    const all = Object.entries(schema.properties)
    const needed = all.filter(([field]) => schema.required?.includes(field))
    const shown = needed.length > 0 ? needed : all.slice(0, 1)
    return Object.fromEntries(shown.map(([field, value]) => [field, sampleOf(value, root, field)]))
  }
  if (schema.type === 'object') return { key: 'value' }
  if (schema.type === 'array') return []
  if (schema.type === 'boolean') return true
  if (schema.type === 'integer' || schema.type === 'number') return Math.max(1, schema.minimum ?? 1)
  return schema.anyOf?.[0] ? sampleOf(schema.anyOf[0], root, name) : '…'
}
