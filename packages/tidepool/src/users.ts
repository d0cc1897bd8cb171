/**
 * Users as stored. An account is two records written together: `users` (by id) and `emails` (by normalised address),
 * so that an address belongs to one account whatever races.
 */
import { randomBytes } from 'node:crypto'
import type { Backend, UserRecord, Write } from './backend.ts'
import { TpError } from './errors.ts'
import type { User } from './request.ts'

const maxTries = 50

/** An address as accounts are told apart by: trimmed, lower case, Unicode NFC. */
export function normaliseEmail(email: string): string {
  return email.trim().normalize('NFC').toLowerCase()
}

/** What of a user may be shown: no password hash, no inner ids. */
export function publicUser(user: UserRecord): User {
  const { id, email, name, avatarUrl, subscriptions, purchased, confirmed, createdAt, data } = user
  return { id, email, name, avatarUrl, subscriptions, purchased, confirmed, createdAt, data }
}

/** The user with this id, or undefined. */
export async function findUser(backend: Backend, id: string): Promise<UserRecord | undefined> {
  return (await backend.read('users', id))?.value
}

/** The user with this address, or undefined. */
export async function findUserByEmail(backend: Backend, email: string): Promise<UserRecord | undefined> {
  const id = (await backend.read('emails', normaliseEmail(email)))?.value
  // Two look-ups either way: how long it takes must not tell whether there is an account.
  return findUser(backend, id ?? 'nobody')
}

/**
 * Makes an account unless the address has one.
 * @param also further changes that happen with it or not at all
 * @returns the user, or undefined when the address is taken (or a condition of `also` did not hold)
 */
export async function insertUser(
  backend: Backend,
  fields: Partial<UserRecord> & { email: string },
  also: readonly Write[] = [],
): Promise<UserRecord | undefined> {
  const user: UserRecord = {
    name: null,
    avatarUrl: null,
    passwordHash: null,
    confirmed: false,
    subscriptions: [],
    purchased: [],
    epoch: 0,
    google: null,
    stripeCustomer: null,
    data: {},
    createdAt: Date.now(),
    ...fields,
    id: randomBytes(9).toString('base64url'),
    email: fields.email.trim(),
  }
  const outcome = await backend.write([
    { op: 'set', space: 'emails', key: normaliseEmail(user.email), value: user.id, if: 'absent' },
    { op: 'set', space: 'users', key: user.id, value: user, if: 'absent' },
    ...also,
  ])
  return outcome.ok ? user : undefined
}

/**
 * Changes a user atomically; `change` may be called again when somebody else was faster, and gives undefined to leave it.
 * @param also further changes that happen with it or not at all; a condition of theirs that fails ends it
 * @returns the changed user, or undefined when there is none or a condition of `also` did not hold
 */
export async function updateUser(
  backend: Backend,
  id: string,
  change: (user: UserRecord) => UserRecord | undefined,
  also: readonly Write[] = [],
): Promise<UserRecord | undefined> {
  for (let tries = 0; tries < maxTries; tries++) {
    const entry = await backend.read('users', id)
    if (!entry) return undefined
    const changed = change(entry.value)
    if (!changed) return undefined
    const value = { ...changed, id, email: entry.value.email }
    const outcome = await backend.write([{ op: 'set', space: 'users', key: id, value, if: entry.version }, ...also])
    if (outcome.ok) return value
    if (outcome.at > 0) return undefined
  }
  throw new TpError('conflict', 'The account is changed by too many at once')
}

/** All users, in no particular order. */
export async function listUsers(backend: Backend): Promise<UserRecord[]> {
  const users: UserRecord[] = []
  for (let after: string | undefined; ; ) {
    const page = await backend.scan('users', { after, limit: 1000 })
    users.push(...page.map((entry) => entry.value))
    after = page.at(-1)?.key
    if (page.length < 1000) return users
  }
}
