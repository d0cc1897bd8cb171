// The variables of the environment that a server is set up with. Read by command lines only, and checked before anything
// starts. What they hold is never shown: it may be a password.
import { StartError } from './errors.ts'
import type { ServerOptions } from './server.ts'

const web = ['http:', 'https:']

/** Readers of variables. An empty one counts as unset; a wrong one is a StartError `invalid_setting` that names it. */
export function variables(env: Readonly<Record<string, string | undefined>>) {
  const text = (name: string) => env[name]?.trim() || undefined
  const wrong = (name: string, must: string) =>
    new StartError('invalid_setting', `${name} must be ${must}.`, `Correct ${name}, or unset it.`)
  return {
    text,
    wrong,
    /** A whole number within bounds. */
    whole(name: string, least: number, most: number): number | undefined {
      const value = text(name)
      if (value === undefined) return undefined
      const number = /^\d+$/.test(value) ? Number(value) : Number.NaN
      if (number >= least && number <= most) return number
      throw wrong(name, `a whole number from ${least} to ${most}`)
    },
    /** `1` or `true`, `0` or `false`. */
    flag(name: string): boolean | undefined {
      const value = text(name)?.toLowerCase()
      if (value === undefined) return undefined
      if (value === '1' || value === 'true') return true
      if (value === '0' || value === 'false') return false
      throw wrong(name, '1 or 0')
    },
    /** One of some words. */
    word(name: string, words: readonly string[]): string | undefined {
      const value = text(name)
      if (value === undefined || words.includes(value)) return value
      throw wrong(name, `one of ${words.join(', ')}`)
    },
    /** A host name. */
    domain(name: string): string | undefined {
      const value = text(name)?.toLowerCase()
      if (value === undefined || /^(?!-)[a-z0-9-]+(\.[a-z0-9-]+)*$/.test(value)) return value
      throw wrong(name, 'a domain such as apps.example.com')
    },
    /** An address of one of some protocols, those of the web unless given. */
    address(name: string, protocols: readonly string[] = web): string | undefined {
      const value = text(name)
      if (value === undefined || (URL.canParse(value) && protocols.includes(new URL(value).protocol))) return value
      throw wrong(name, `an address that begins with ${protocols.map((protocol) => `${protocol}//`).join(' or ')}`)
    },
  }
}

/** The levels that LOG_LEVEL may name. */
export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']

/**
 * The options of a server that its variables say; docs/operations.md has their meaning.
 *
 * @param names of the variables for the port and the address to listen on
 * @throws StartError `invalid_setting`
 */
export function serverOptions(
  env: Readonly<Record<string, string | undefined>>,
  names: { port: string; host: string } = { port: 'PORT', host: 'HOST' },
): ServerOptions {
  const { text, whole, flag, address, wrong } = variables(env)
  const corsOrigins = (text('TIDEBASE_CORS_ORIGIN') ?? '')
    .split(',')
    .map((origin) => origin.trim())
    .filter(Boolean)
    .map((origin) => {
      if (origin === '*') return origin
      if (URL.canParse(origin) && web.includes(new URL(origin).protocol)) return new URL(origin).origin
      throw wrong('TIDEBASE_CORS_ORIGIN', 'origins such as https://app.example.com, comma-separated, or *')
    })
  return {
    // The path of a socket is one too.
    databaseUrl: text('DATABASE_URL')?.startsWith('/')
      ? text('DATABASE_URL')
      : address('DATABASE_URL', ['postgres:', 'postgresql:', 'socket:']),
    port: whole(names.port, 0, 65_535),
    host: text(names.host),
    apiKey: text('TIDEBASE_API_KEY'),
    webhookSecret: text('TIDEBASE_WEBHOOK_SECRET'),
    publicUrl: address('TIDEBASE_PUBLIC_URL'),
    leaseMs: whole('TIDEBASE_LEASE_MS', 100, 86_400_000),
    reconcileMs: whole('TIDEBASE_RECONCILE_MS', 10, 3_600_000),
    retentionDays: whole('TIDEBASE_RETENTION_DAYS', 0, 36_500),
    maxBody: whole('TIDEBASE_MAX_BODY', 1_024, 256 * 1024 * 1024),
    reconciler: flag('TIDEBASE_RECONCILER') ?? true,
    autoMigrate: flag('TIDEBASE_AUTO_MIGRATE') ?? true,
    corsOrigins,
    allowPrivateWebhooks: flag('TIDEBASE_ALLOW_PRIVATE_WEBHOOKS'),
  }
}
