// What Postgres says: <data>/postgres.log, and postgres.log.1, which is what it said before. Postgres appends to the
// file by itself, so that its last words are there also when the server was killed first.

import { copyFile, readFile, stat, truncate } from 'node:fs/promises'
import { textOf } from './error.ts'

const limitBytes = 5_000_000

/**
 * Keeps the log bounded: beyond its limit it becomes `postgres.log.1`. Postgres, which has it open, writes on at the
 * start of the emptied file.
 * @param file the log
 * @throws an errno error, for example when the disk is full
 */
export async function boundLog(file: string): Promise<void> {
  if ((await logSize(file)) < limitBytes) return
  await copyFile(file, `${file}.1`)
  await truncate(file)
}

/**
 * How much Postgres has said.
 * @param file the log, which need not exist
 * @returns bytes
 */
export async function logSize(file: string): Promise<number> {
  return (await stat(file).catch(() => undefined))?.size ?? 0
}

/**
 * What Postgres has said since then.
 * @param file the log
 * @param size its size then, in bytes
 * @returns text; all there is when the log was emptied meanwhile, the reason when it cannot be read
 */
export async function wordsSince(file: string, size: number): Promise<string> {
  const log = await readFile(file).catch((error: unknown) => Buffer.from(textOf(error)))
  return log.subarray(log.length < size ? 0 : size).toString()
}

/**
 * The end of a text, for a message.
 * @returns at most twelve lines
 */
export function lastLines(text: string): string {
  return text.trim().split('\n').slice(-12).join('\n')
}
