/**
 * `tidepool docs`: the reference of `tp`, as made from its types (reference.json).
 */
import pc from 'picocolors'
import reference from '../reference.json' with { type: 'json' }
import { TpError } from '../src/errors.ts'
import type { Output } from './output.ts'

/** One thing an app can call or set, as scripts/reference.ts writes it. */
export interface Entry {
  name: string
  /** As the compiler writes it. */
  signatures: string[]
  description: string
  parameters: { name: string; description: string }[]
  returns: string
  limits: string[]
  /** Codes, explained under `errors`. */
  errors: string[]
  examples: string[]
  /** What lies under it: `tp.db` → `tp.db.get` …, or the fields of a setting. */
  members?: Entry[]
}

const tools: Entry[] = reference.tools
const { errors } = reference
const firstSentence = (text: string) => (/^[\s\S]*?\.(?=\s|$)/.exec(text)?.[0] ?? text).replaceAll('\n', ' ')

/**
 * Prints all of the reference, or a topic of it.
 * @throws TpError `usage` for a topic that there is not
 */
export function docs(topic: string | undefined, output: Output): void {
  output.result(...lookUp(topic?.replace(/^tp\./, '')))
}

/** A topic for programs and as text. */
function lookUp(topic: string | undefined): [document: unknown, text: string] {
  if (topic === undefined) return [reference, overview()]
  if (topic === 'errors') return [errors, errors.map(errorLine).join('\n')]
  const error = errors.find(({ code }) => `errors/${code}` === topic)
  if (error) return [error, errorLine(error)]
  const found = [...tools, ...tools.flatMap(({ members = [] }) => members)].find(({ name }) => name === `tp.${topic}`)
  if (found) return [found, page(found)]
  throw new TpError('usage', `There is nothing called ${JSON.stringify(topic)}`, {
    hint: `Topics: ${tools.map(({ name }) => name.slice(3)).join(', ')}, errors.`,
    next: ['tidepool docs'],
  })
}

function overview(): string {
  const width = Math.max(...tools.map(({ name }) => name.length)) + 2
  const lines = tools.map(({ name, description }) => `  ${pc.bold(name.padEnd(width))}${firstSentence(description)}`)
  return [
    "import tp from 'tidepool'",
    '',
    ...lines,
    '',
    '  tidepool docs <tool>        parameters, limits, errors, examples',
    '  tidepool docs errors        every error code and what to do about it',
    '  tidepool docs --json        all of it for programs',
  ].join('\n')
}

function errorLine({ code, status, meaning, hint }: (typeof errors)[number]): string {
  return `${pc.bold(code)} (${status})  ${meaning} ${hint}`
}

function page(entry: Entry): string {
  const lines = [pc.bold(entry.name), ...entry.signatures.map((each) => pc.dim(`  ${each}`)), '', entry.description]
  for (const { name, description } of entry.parameters) lines.push(`  ${name}: ${description}`)
  if (entry.returns) lines.push(`Returns ${entry.returns}`)
  for (const limit of entry.limits) lines.push(`Limit: ${limit}`)
  if (entry.errors.length > 0) lines.push(`Errors: ${entry.errors.join(', ')}`)
  for (const example of entry.examples) lines.push('', ...example.split('\n').map((line) => `  ${line}`))
  for (const member of entry.members ?? []) lines.push('', '', page(member))
  return lines.join('\n')
}
