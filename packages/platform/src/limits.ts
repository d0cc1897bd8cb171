// Limits by fixed windows, counted in the database so that they hold over restarts and servers.
import type { Queryable } from './db.ts'
import { PlatformError } from './errors.ts'

/** At most `max` in a window of so many seconds. */
export interface Limit {
  max: number
  seconds: number
}

/**
 * Counts a use of each limit and refuses what is over one of them.
 * @param what names it for people: 'Pods created by this agent'
 * @param amount how much this use is: 1, or bytes where the limit is of bytes
 * @throws PlatformError `rate_limited`, with when it frees
 */
export async function limitUse(
  db: Queryable,
  key: string,
  limits: readonly Limit[],
  what: string,
  amount = 1,
): Promise<void> {
  for (const { max, seconds } of limits) {
    const [row] = await db.query<{ used: number; left: number }>(
      `insert into platform.counters as c (key, window_start, seconds, used)
         values ($1, floor(extract(epoch from now()) / $2::int)::bigint * $2::int, $2::int, $3)
       on conflict (key, window_start) do update set used = c.used + $3
       returning used, window_start + seconds - extract(epoch from now())::bigint as left`,
      [`${key}/${seconds}`, seconds, amount],
    )
    if (!row || row.used <= max) continue
    const retryAfter = Math.max(1, row.left)
    const window = seconds === 3600 ? 'an hour' : seconds === 86_400 ? 'a day' : `${seconds} s`
    throw new PlatformError('rate_limited', `${what}: at most ${max} in ${window}.`, {
      retryAfter,
      hint: `The limit frees in ${retryAfter} s.`,
    })
  }
}

/** Forgets windows that are over. */
export async function sweepLimits(db: Queryable): Promise<void> {
  await db.query('delete from platform.counters where window_start + seconds < extract(epoch from now())')
}
