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

interface Issue {
  path: (string | number)[]
  message: string
}

const isPlain = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** What is wrong with a setting of `tp.auth`; types are no help to programs in JavaScript. */
export function authIssues(auth: AuthConfig): Issue[] {
  const issues: Issue[] = []
  const known = authConfig('standard')
  const need = (ok: boolean, path: string[], message: string) => {
    if (!ok) issues.push({ path, message })
  }
  for (const field of Object.keys(auth))
    need(field in known, [field], `is not a field; there are ${Object.keys(known).join(', ')}`)
  for (const field of ['signup', 'signupConfirm', 'reset', 'magicLink'] as const)
    need(typeof auth[field] === 'boolean', [field], 'must be true or false')
  need(
    Array.isArray(auth.required) && auth.required.every((path) => typeof path === 'string' && path.startsWith('/')),
    ['required'],
    "must be a list of paths such as '/dash/*'",
  )
  need(
    Array.isArray(auth.oauth) && auth.oauth.every((provider) => provider === 'google'),
    ['oauth'],
    "must be a list of providers; there is 'google'",
  )
  if (!isPlain(auth.theme)) return [...issues, { path: ['theme'], message: 'must be {page, accent, css}' }]
  for (const [field, value] of Object.entries(auth.theme)) {
    need(['page', 'accent', 'css'].includes(field), ['theme', field], 'is not a field; there are page, accent, css')
    need(value === undefined || typeof value === 'string', ['theme', field], 'must be a text')
  }
  const { page, accent }: AuthTheme = auth.theme
  need(!page || String(page).includes('{content}'), ['theme', 'page'], 'must contain {content}')
  need(!accent || !/[;{}<]/.test(String(accent)), ['theme', 'accent'], 'must be a CSS colour')
  return issues
}

/** What is wrong with a setting of `tp.payments`. */
export function paymentIssues(payments: PaymentsConfig): Issue[] {
  const issues: Issue[] = []
  if (!isPlain(payments) || !Array.isArray(payments.products))
    return [{ path: ['products'], message: 'must be a list of products' }]
  const seen = new Set<unknown>()
  for (const [at, product] of payments.products.entries()) {
    const need = (ok: boolean, field: string, message: string) => {
      if (!ok) issues.push({ path: ['products', at, field], message })
    }
    if (!isPlain(product)) {
      issues.push({ path: ['products', at], message: 'must be {id, name, price}' })
      continue
    }
    const { id, name, price, recurring, currency } = product
    const isId = typeof id === 'string' && /^[a-z0-9][a-z0-9_-]{0,39}$/.test(id)
    need(isId, 'id', 'must be small letters, digits, - and _')
    need(!['portal', 'webhook', 'done'].includes(String(id)), 'id', 'is the name of a page of ours; choose another')
    need(!seen.has(id), 'id', 'is given twice')
    seen.add(id)
    need(typeof name === 'string' && name.trim() !== '', 'name', 'must be a text')
    need(Number.isInteger(price) && Number(price) > 0, 'price', 'must be a whole number of cents above 0: 500 is $5.00')
    need(
      recurring === undefined || recurring === 'month' || recurring === 'year',
      'recurring',
      "must be 'month' or 'year', or be left out",
    )
    need(currency === undefined || /^[a-z]{3}$/.test(String(currency)), 'currency', "must be a code such as 'usd'")
  }
  return issues
}

const fieldType = /^(string|text|bool|number|date|choice:[^,]+(,[^,]+)*)$/

/** What is wrong with a setting of `tp.admin`. */
export function adminIssues(admin: AdminConfig): Issue[] {
  const issues: Issue[] = []
  if (!isPlain(admin)) return [{ path: [], message: 'must be {users, models}' }]
  for (const field of Object.keys(admin))
    if (field !== 'users' && field !== 'models')
      issues.push({ path: [field], message: 'is not a field; there are users, models' })
  const { users, models }: { users?: unknown; models?: unknown } = admin
  if (
    users !== undefined &&
    !(Array.isArray(users) && users.every((each) => typeof each === 'string' && each.includes('@')))
  )
    issues.push({ path: ['users'], message: 'must be a list of e-mail addresses' })
  if (models !== undefined && !isPlain(models))
    return [...issues, { path: ['models'], message: 'must be {name: {fields}}' }]
  for (const [name, model] of Object.entries(models ?? {})) {
    const path = ['models', name]
    if (!/^[\w-]+$/.test(name)) issues.push({ path, message: 'must be letters, digits, - and _' })
    if (!isPlain(model) || !isPlain(model.fields) || Object.keys(model.fields).length === 0) {
      issues.push({ path: [...path, 'fields'], message: "must be {field: type}, such as {title: 'string'}" })
      continue
    }
    for (const [field, type] of Object.entries(model.fields)) {
      if (typeof type !== 'string' || !fieldType.test(type))
        issues.push({
          path: [...path, 'fields', field],
          message: 'must be string, text, bool, number, date or choice:a,b',
        })
      if (field.startsWith('_')) issues.push({ path: [...path, 'fields', field], message: 'must not begin with _' })
    }
    const { fields, display = [] } = model
    if (!Array.isArray(display)) issues.push({ path: [...path, 'display'], message: 'must be a list of fields' })
    else
      for (const field of display)
        if (!Object.hasOwn(fields, String(field)))
          issues.push({ path: [...path, 'display'], message: `names ${JSON.stringify(field)}, which is not a field` })
  }
  return issues
}
