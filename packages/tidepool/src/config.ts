/**
 * What a pod says about itself by assignment: `tp.auth`, `tp.payments`, `tp.admin`. The features behind them read it
 * after main.ts has run and check it then (`bad_config` with issues).
 */

/** How the pages under /_auth/ look. */
export interface AuthTheme {
  /** A whole page with `{content}` and `{title}` where they go. */
  page?: string
  /** A CSS colour for buttons and links. */
  accent?: string
  /** Further CSS. */
  css?: string
}

/** Login, field by field. Every field may be set after a preset: `tp.auth.required = ['/dash/*']`. */
export interface AuthConfig {
  /** Paths that need a login; `*` stands for anything. */
  required: string[]
  /** Whether there is a sign-up form. */
  signup: boolean
  /** Whether a new address must be confirmed by mail before it can log in. */
  signupConfirm: boolean
  /** Whether a forgotten password can be reset by mail. */
  reset: boolean
  /** Whether a link by mail logs in. */
  magicLink: boolean
  oauth: 'google'[]
  theme: AuthTheme
}

/** What `tp.auth` accepts: a preset or single fields on top of `standard`. */
export type AuthSetting = 'standard' | 'paywall' | Partial<AuthConfig>

/** Something to buy. */
export interface Product {
  /** Appears in addresses and in `req.user.subscriptions` or `.purchased`. */
  id: string
  name: string
  /** In cents. */
  price: number
  /** Without it the product is bought once. */
  recurring?: 'month' | 'year'
  description?: string
  /** ISO 4217, default 'usd'. */
  currency?: string
}

export interface PaymentsConfig {
  products: Product[]
}

/** Type of a field in the admin panel. */
export type FieldType = 'string' | 'text' | 'bool' | 'number' | 'date' | `choice:${string}`

export interface Model {
  fields: Record<string, FieldType>
  /** Fields shown in the list; default the first three. */
  display?: string[]
}

export interface AdminConfig {
  /** Addresses of those who may enter; with `tp.auth` and none named, everybody who is logged in. */
  users?: string[]
  /** Without it the models are inferred from keys of the form `model:id`. */
  models?: Record<string, Model>
}

/** The full configuration that a setting of `tp.auth` stands for. */
export function authConfig(setting: AuthSetting): AuthConfig {
  const standard: AuthConfig = {
    required: [],
    signup: true,
    signupConfirm: true,
    reset: true,
    magicLink: true,
    oauth: [],
    theme: {},
  }
  if (setting === 'standard') return standard
  if (setting === 'paywall') return { ...standard, signup: false }
  return { ...standard, ...setting }
}
