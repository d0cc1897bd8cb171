/**
 * The data files of the local backend: `db.json`, a plain JSON object that people and agents may read and edit, and
 * `system/<space>.json` for everything else, `{key: {value, expires?}}`.
 *
 * Invariants: a file is replaced whole (written beside, synced, renamed); one that cannot be parsed is reported with
 * its line and column and never overwritten.
 */

import { readFileSync } from 'node:fs'
import { mkdir, open, rename, stat, unlink } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import type { Space } from '../backend.ts'
import { messageOf, TpError } from '../errors.ts'
import { syncFolder } from './journal.ts'
import type { Row, Tree } from './tables.ts'

const require = createRequire(import.meta.url)
/** How much text is gathered before it is written, which is also how long a large fold keeps the event loop. */
const chunkLength = 512 * 1024

/** Which version of a file was seen last. */
export type Stamp = string

/** Where a space lies. */
export function fileOf(dir: string, space: Space): string {
  return space === 'db' ? join(dir, 'db.json') : join(dir, 'system', `${space}.json`)
}

/** What tells one version of a file from another; '' when there is none. */
export async function stampOf(file: string): Promise<Stamp> {
  try {
    const { mtimeNs, size, ino } = await stat(file, { bigint: true })
    return `${mtimeNs}-${size}-${ino}`
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return ''
    throw error
  }
}

/** Parses a JSON object. @throws TpError `bad_data_file` with file, line and column */
export function parseObject(text: string, file: string): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    const { parse, printParseErrorCode }: typeof import('jsonc-parser') = require('jsonc-parser')
    const errors: import('jsonc-parser').ParseError[] = []
    parse(text, errors, { disallowComments: true, allowTrailingComma: false })
    const first = errors[0]
    const offset = first?.offset ?? 0
    const before = text.slice(0, offset)
    const line = before.split('\n').length
    const column = offset - before.lastIndexOf('\n')
    const reason = first
      ? printParseErrorCode(first.error)
          .replace(/([a-z])([A-Z])/g, '$1 $2')
          .toLowerCase()
      : messageOf(cause)
    throw new TpError(
      'bad_data_file',
      `${basename(file)} is not valid JSON: ${reason} at line ${line}, column ${column}`,
      {
        file,
        line,
        column,
        cause,
      },
    )
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new TpError('bad_data_file', `${basename(file)} must be one JSON object, {"key": value, …}`, {
      file,
      line: 1,
      column: 1,
    })
  return Object.fromEntries(Object.entries(value))
}

/** The rows of a data file, as key → JSON text and expiry; empty when there is no file. */
export function readDataFile(dir: string, space: Space): Map<string, { json: string; expires: number }> {
  const file = fileOf(dir, space)
  const rows = new Map<string, { json: string; expires: number }>()
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return rows
    throw error
  }
  // An editor may leave a byte order mark, and an empty file is an empty database.
  for (const [key, value] of Object.entries(parseObject(text.replace(/^\ufeff/, '').trim() || '{}', file))) {
    if (space === 'db') rows.set(key, { json: JSON.stringify(value), expires: 0 })
    else if (typeof value === 'object' && value !== null && 'value' in value) {
      const expires = 'expires' in value && typeof value.expires === 'number' ? value.expires : 0
      rows.set(key, { json: JSON.stringify(value.value), expires })
    }
  }
  return rows
}

function* text(space: Space, rows: Tree, isLive: (row: Row) => boolean): Generator<string> {
  let chunk = '{'
  let comma = ''
  for (const [key, row] of rows.entries()) {
    if (!isLive(row)) continue
    // db.json is for people: indented. A row of many lines stays one value, so indenting it cannot change it.
    const value =
      space === 'db'
        ? JSON.stringify(JSON.parse(row.json), null, 2).replaceAll('\n', '\n  ')
        : `{"value":${row.json}${row.expires ? `,"expires":${row.expires}` : ''}}`
    chunk += `${comma}\n  ${JSON.stringify(key)}: ${value}`
    comma = ','
    if (chunk.length > chunkLength) {
      yield chunk
      chunk = ''
    }
  }
  yield `${chunk}\n}\n`
}

/**
 * Replaces the data file of a space by `rows`.
 * @param confirm asked right before the file is replaced; false leaves the old one
 */
export async function writeDataFile(
  dir: string,
  space: Space,
  rows: Tree,
  isLive: (row: Row) => boolean,
  confirm: () => Promise<boolean>,
): Promise<boolean> {
  const file = fileOf(dir, space)
  const beside = `${file}.new`
  await mkdir(dirname(file), { recursive: true, mode: 0o700 })
  const handle = await open(beside, 'w', 0o600)
  try {
    for (const chunk of text(space, rows, isLive)) await handle.appendFile(chunk)
    await handle.sync()
  } finally {
    await handle.close()
  }
  if (!(await confirm())) {
    await unlink(beside)
    return false
  }
  await rename(beside, file)
  await syncFolder(dirname(file))
  return true
}
