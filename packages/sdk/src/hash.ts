// The input hash: tells whether a recorded step was called with the input it is called with now.
// Every SDK must give the same digest: test/conformance/input-hash.json.
import { createHash } from 'node:crypto'
import { stableJson } from '@tidebase/wire/contract'

const absent = sha256('null')

/**
 * The hash of a step's input: sha256 of its stable JSON, lower-case hex.
 *
 * @param input any JSON value; absent counts as null
 * @returns 64 hex digits
 * @throws TypeError when the input has a cycle or a BigInt
 */
export function inputHash(input: unknown): string {
  return input === undefined || input === null ? absent : sha256(stableJson(input))
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
