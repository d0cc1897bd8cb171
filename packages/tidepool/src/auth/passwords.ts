/**
 * Passwords: argon2id at the library's defaults (19 MiB, 2 passes: OWASP's first recommendation), 22 ms a hash.
 */
import { TpError } from '../errors.ts'

const shortest = 8
const longest = 200

/** Loaded with the first password: a pod that nobody logs into starts without it. */
const argon2 = () => import('@node-rs/argon2')

/** Compared with where no account has a password, so that the answer takes as long. */
let nobodys: Promise<string> | undefined

/**
 * What a password may be: at least 8 characters. Long ones beat strange ones.
 * @throws TpError `invalid`
 */
export function checkPassword(password: unknown): string {
  if (typeof password !== 'string' || password.length < shortest)
    throw new TpError('invalid', `A password has at least ${shortest} characters`, { hint: 'Choose a longer one.' })
  if (password.length > longest)
    throw new TpError('invalid', `A password has at most ${longest} characters`, { hint: 'Choose a shorter one.' })
  return password
}

/** The hash to store, with its salt and parameters. */
export async function hashPassword(password: string): Promise<string> {
  return (await argon2()).hash(password.normalize('NFKC'))
}

/** Whether a password is the one that was hashed. Takes as long when there is none. */
export async function verifyPassword(stored: string | null | undefined, password: unknown): Promise<boolean> {
  const { hash, verify } = await argon2()
  nobodys ??= hash('nobody has this password')
  const given = typeof password === 'string' ? password.slice(0, longest).normalize('NFKC') : ''
  const right = await verify(stored ?? (await nobodys), given).catch(() => false)
  return right && stored != null
}
