/**
 * Models of the admin panel: records in `tp.db` under `model:id`, with typed fields. Without a configuration they are
 * told from what lies there.
 */
import type { Backend, Json } from '../backend.ts'
import type { FieldType, Model } from '../config.ts'

export type Record_ = { [field: string]: Json }

/** How many records of a kind are looked at to tell its fields. */
const samples = 50

/** A value as a form field shows it. */
export function toInput(value: Json | undefined, type: FieldType): string {
  if (value === null || value === undefined) return ''
  if (type === 'date') return String(value).slice(0, 10)
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}

/** A form field as the value to store, or what is wrong with it. */
export function fromInput(text: unknown, type: FieldType): { value: Json } | { problem: string } {
  const given = typeof text === 'string' ? text : ''
  if (type === 'bool') return { value: given !== '' && given !== 'false' }
  if (type === 'string' && given.length > 10_000) return { problem: 'is longer than 10,000 characters' }
  if (type === 'number') {
    if (given.trim() === '') return { value: null }
    const value = Number(given)
    return Number.isFinite(value) ? { value } : { problem: 'must be a number' }
  }
  if (type === 'date') {
    if (given === '') return { value: null }
    const real = /^\d{4}-\d\d-\d\d$/.test(given) && new Date(`${given}T00:00:00Z`).toISOString?.().startsWith(given)
    return real ? { value: given } : { problem: 'must be a date such as 2026-01-31' }
  }
  if (type.startsWith('choice:')) {
    const choices = choicesOf(type)
    return choices.includes(given) ? { value: given } : { problem: `must be one of ${choices.join(', ')}` }
  }
  return { value: given.replaceAll('\r\n', '\n') }
}

/** `choice:free,pro` → `['free', 'pro']` */
export const choicesOf = (type: FieldType) =>
  type
    .slice('choice:'.length)
    .split(',')
    .map((each) => each.trim())

/** The fields that a list shows. */
export const displayed = ({ fields, display }: Model) => display ?? Object.keys(fields).slice(0, 3)

function typeOf(values: Json[]): FieldType | undefined {
  const known = values.filter((value) => value !== null)
  const all = (test: (value: Json) => boolean) => known.length > 0 && known.every(test)
  if (all((value) => typeof value === 'boolean')) return 'bool'
  if (all((value) => typeof value === 'number')) return 'number'
  if (all((value) => typeof value === 'string' && /^\d{4}-\d\d-\d\d$/.test(value))) return 'date'
  if (all((value) => typeof value === 'string' && value.length < 120 && !value.includes('\n'))) return 'string'
  // What is neither text nor a plain value (lists, objects) has no form field: it stays as it is.
  return all((value) => typeof value === 'string') ? 'text' : undefined
}

const isRecord = (value: Json): value is Record_ => typeof value === 'object' && value !== null && !Array.isArray(value)

/** Tells the models from keys of the form `model:id`; one look-up for each kind of key. */
export async function inferModels(backend: Backend): Promise<{ [name: string]: Model }> {
  const models: { [name: string]: Model } = {}
  for (let after: string | undefined; ; ) {
    const [first] = await backend.scan('db', { after, limit: 1 })
    if (!first) return models
    const name = /^([\w-]+):./.exec(first.key)?.[1]
    if (name === undefined) {
      after = first.key
      continue
    }
    const found = (await backend.scan('db', { prefix: `${name}:`, limit: samples })).map(({ value }) => value)
    if (found.every(isRecord)) {
      const names = [...new Set(found.flatMap((each) => Object.keys(each)))]
      const fields = names.flatMap((field) => {
        const type = typeOf(found.flatMap((each) => (each[field] === undefined ? [] : [each[field]])))
        return type ? [[field, type] as const] : []
      })
      if (fields.length > 0) models[name] = { fields: Object.fromEntries(fields) }
    }
    // Beyond every key that begins so.
    after = `${name}:\uffff`
  }
}
