// Ids: 16 bytes, shown as a prefix and 32 lowercase hex digits. Made ids are UUIDv7 (RFC 9562), so that new rows land
// at the end of every index. Ids of things that a run names (steps, gates, children) are derived from the name, which
// makes "begin" idempotent by primary key.
import { hash, randomFillSync } from 'node:crypto'

const pool = Buffer.alloc(4096)
let unused = pool.length
let lastMs = 0
/** The first 12 digits of ids of `lastMs`. */
let time = ''
let counter = 0

/**
 * A new UUIDv7 as 32 hex digits. Rises within this process: the 12 bits after the time count up within a millisecond.
 */
export function newId(): string {
  if (unused + 10 > pool.length) {
    randomFillSync(pool)
    unused = 0
  }
  const now = Date.now()
  if (now > lastMs) setTime(now, pool.readUInt16BE(unused) & 0x7ff)
  else if (++counter > 0xfff) setTime(lastMs + 1, 0)
  // Version and counter, variant, and what stays random.
  pool.writeUInt16BE(0x7000 | counter, unused)
  pool.writeUInt8(0x80 | (pool.readUInt8(unused + 2) & 0x3f), unused + 2)
  const rest = pool.toString('hex', unused, unused + 10)
  unused += 10
  return time + rest
}

function setTime(ms: number, count: number): void {
  lastMs = ms
  time = ms.toString(16).padStart(12, '0')
  counter = count
}

/**
 * The id of the thing that `run` calls `name`: the run's time followed by a hash (UUIDv8).
 *
 * @param run the run's id as 32 hex digits
 * @param kind what is named, so that a step and a gate of one name differ
 */
export function derivedId(
  run: string,
  kind: 'step' | 'gate' | 'child' | 'edge' | 'timer' | 'wait' | 'signal',
  name: string,
): string {
  const digest = hash('sha256', `${kind}\0${run}\0${name}`, 'hex')
  return `${run.slice(0, 12)}8${digest.slice(0, 3)}8${digest.slice(3, 18)}`
}

/** The wire form of a stored id: `run_…` of a uuid with or without dashes. */
export function wireId(prefix: string, uuid: string): string {
  return `${prefix}_${uuid.length === 36 ? uuid.replaceAll('-', '') : uuid}`
}

const form = /^[0-9a-f]{32}$/

/** The 32 hex digits of a wire id, or null when it is not an id of that prefix. */
export function parseId(prefix: string, id: string): string | null {
  const digits = id.slice(prefix.length + 1)
  return id.startsWith(`${prefix}_`) && form.test(digits) ? digits : null
}

/** SQL that turns a uuid expression into its wire form. */
export function wireIdSql(prefix: string, expression: string): string {
  return `'${prefix}_' || replace(${expression}::text, '-', '')`
}
