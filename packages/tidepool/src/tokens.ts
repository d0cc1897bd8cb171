/**
 * Single-use tokens for mailed links: 32 random bytes, hashed at rest, bound to one purpose, gone when used or old.
 */
import { createHash, randomBytes } from 'node:crypto'
import type { Backend, TokenRecord, Write } from './backend.ts'

/** What is stored in place of a secret. Random secrets of this length need no slow hash. */
export function hashToken(token: string): string {
  return createHash('sha256').update(token).digest('hex')
}

/** A new secret of 256 bits, safe in addresses and cookies. */
export function newToken(): string {
  return randomBytes(32).toString('base64url')
}

/**
 * Makes a token.
 * @param seconds how long it is good
 * @returns the secret, which exists only in what is sent to its owner
 */
export async function issueToken(
  backend: Backend,
  record: Pick<TokenRecord, 'purpose'> & Partial<TokenRecord>,
  seconds: number,
): Promise<string> {
  const token = newToken()
  const value: TokenRecord = { userId: null, email: null, epoch: 0, data: {}, ...record }
  await backend.write([{ op: 'set', space: 'tokens', key: hashToken(token), value, ttl: seconds * 1000 }])
  return token
}

/** What a token allows, without using it up (opening a link by GET). Undefined when it is unknown, used or old. */
export async function peekToken(backend: Backend, token: string, purpose: string): Promise<TokenRecord | undefined> {
  const found = (await backend.read('tokens', hashToken(token)))?.value
  return found?.purpose === purpose ? found : undefined
}

/** The op that uses a token up, for a `write` that must happen at most once for it. */
export function consumption(token: string): Write {
  return { op: 'delete', space: 'tokens', key: hashToken(token), if: 'present' }
}

/** Uses a token up. Of several who try, one gets it. */
export async function consumeToken(backend: Backend, token: string, purpose: string): Promise<TokenRecord | undefined> {
  const found = await peekToken(backend, token, purpose)
  if (!found) return undefined
  const outcome = await backend.write([consumption(token)])
  return outcome.ok ? found : undefined
}
