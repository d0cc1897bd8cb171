/**
 * Accounts as login sees them: who may have one, and what proving an address does to it.
 */
import type { Json, UserRecord, Write } from '../backend.ts'
import { checkAddress } from '../email.ts'
import { TpError } from '../errors.ts'
import type { Pod } from '../pod.ts'
import type { User } from '../request.ts'
import { findUserByEmail, insertUser, publicUser, updateUser } from '../users.ts'
import { checkPassword, hashPassword } from './passwords.ts'

/** What `tp.createUser` may set besides. Further fields lie in `user.data`. */
export interface NewUserFields {
  name?: string
  avatarUrl?: string
  /** Ids of products with a running subscription. */
  subscriptions?: string[]
  /** Ids of products bought once. */
  purchased?: string[]
  [field: string]: Json | undefined
}

const add = (to: string[], more: string[] = []) => [...new Set([...to, ...more])]

/** `tp.createUser`: makes an account, or adds to the one that is there. */
export async function createUser(
  pod: Pod,
  email: string,
  password: string | undefined,
  fields: NewUserFields,
): Promise<User> {
  const { backend } = pod.setup()
  const address = checkAddress(email)
  if (password !== undefined) checkPassword(password)
  const { name, avatarUrl, subscriptions, purchased, ...rest } = fields
  const data = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined)) as Record<
    string,
    Json
  >
  for (let tries = 0; tries < 5; tries++) {
    const known = await findUserByEmail(backend, address)
    if (known) {
      // Somebody else's password is never replaced, nor its account taken over by a repeated call.
      const passwordHash = password !== undefined && !known.passwordHash ? await hashPassword(password) : undefined
      const changed = await updateUser(backend, known.id, (user) => ({
        ...user,
        name: name ?? user.name,
        avatarUrl: avatarUrl ?? user.avatarUrl,
        passwordHash: user.passwordHash ?? passwordHash ?? null,
        subscriptions: add(user.subscriptions, subscriptions),
        purchased: add(user.purchased, purchased),
        data: { ...user.data, ...data },
      }))
      if (changed) return publicUser(changed)
      continue
    }
    const made = await insertUser(backend, {
      email: address,
      name: name ?? null,
      avatarUrl: avatarUrl ?? null,
      passwordHash: password === undefined ? null : await hashPassword(password),
      confirmed: true,
      subscriptions: add([], subscriptions),
      purchased: add([], purchased),
      data,
    })
    if (made) return publicUser(made)
  }
  throw new TpError('conflict', `The account of ${address} is changed by too many at once`)
}

/**
 * The owner of the address has shown that it is theirs. Whatever somebody else has set up under it before (a password,
 * sessions, links) ends then.
 * @param change what happens with it
 * @param also further changes, all or nothing: using a token up
 * @returns the account, or undefined when `also` did not hold or all its sessions were ended meanwhile
 */
export function proveAddress(
  pod: Pod,
  { id, epoch }: Pick<UserRecord, 'id' | 'epoch'>,
  change: (user: UserRecord) => Partial<UserRecord> = () => ({}),
  also: readonly Write[] = [],
): Promise<UserRecord | undefined> {
  return updateUser(
    pod.setup().backend,
    id,
    (user) =>
      user.epoch === epoch
        ? {
            ...user,
            ...(user.confirmed ? {} : { passwordHash: null, epoch: user.epoch + 1, confirmed: true }),
            ...change(user),
          }
        : undefined,
    also,
  )
}
