/**
 * What the CLI prints: for people on a terminal, or with `--json` one JSON document on stdout and nothing else there.
 */
import pc from 'picocolors'
import type { Place } from '../src/error-page.ts'
import { type ErrorBody, errorBody, TpError } from '../src/errors.ts'
import { ApiFailure } from './api.ts'

export interface Output {
  json: boolean
  /** A line for people; nothing with --json. */
  line(text?: string): void
  /** Something to know about, on stderr. */
  warn(text: string): void
  /** How far something is: a line that the next one replaces; on a terminal only. Without text it goes. */
  progress(text?: string): void
  /** The result: a document with --json, else `text`. */
  result(document: unknown, text: string): void
}

/** Output for this run. */
export function createOutput(json: boolean): Output {
  const live = !json && process.stderr.isTTY
  let shown = false
  function progress(text = ''): void {
    if (!live || (text === '' && !shown)) return
    shown = text !== ''
    process.stderr.write(`\r\x1b[K${text}`)
  }
  return {
    json,
    line: (text = '') => {
      progress()
      if (!json) process.stdout.write(`${text}\n`)
    },
    warn: (text) => void process.stderr.write(`${pc.yellow('!')} ${text}\n`),
    progress,
    result: (document, text) => {
      progress()
      process.stdout.write(json ? `${JSON.stringify(document)}\n` : `${text}\n`)
    },
  }
}

/** An error as text: what, where, what to do. */
export function errorText(body: ErrorBody, place?: Place): string {
  const lines = [`${pc.red('✖')} ${pc.bold(body.error)} ${pc.dim(`(${body.code})`)}`]
  const at = body.file && `${body.file}${body.line ? `:${body.line}${body.column ? `:${body.column}` : ''}` : ''}`
  if (at) lines.push(`  ${pc.cyan(at)}`)
  for (const { number, text } of place?.source ?? []) {
    const row = `${number === place?.line ? '>' : ' '} ${String(number).padStart(5)} | ${text}`
    lines.push(`  ${number === place?.line ? pc.red(row) : pc.dim(row)}`)
  }
  for (const { path, message } of body.issues ?? []) lines.push(`  ${path.join('.')}: ${message}`)
  lines.push(`  ${body.hint}`)
  for (const command of body.next ?? []) lines.push(`  ${pc.dim('$')} ${command}`)
  return lines.join('\n')
}

/** Prints an error and returns the exit code: 2 for usage, else 1. */
export function printError(error: unknown, json: boolean): number {
  const known = error instanceof TpError || error instanceof ApiFailure
  const body =
    error instanceof ApiFailure
      ? error.body
      : known
        ? errorBody(error)
        : { ...errorBody(error), error: error instanceof Error ? error.message : String(error) }
  if (json) process.stdout.write(`${JSON.stringify(body)}\n`)
  else {
    process.stderr.write(`${errorText(body)}\n`)
    if (!known && error instanceof Error && error.stack) process.stderr.write(`${pc.dim(error.stack)}\n`)
  }
  return error instanceof TpError && error.code === 'usage' ? 2 : 1
}
