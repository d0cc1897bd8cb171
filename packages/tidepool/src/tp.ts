/**
 * The `tp` object: everything a pod can do, in one import. Each member is a line or two here and lives in the file of
 * its name; what is registered goes into the process's one pod (pod.ts), what is stored into its backend.
 *
 * To add a member: its file, its line in `createTp`, its row in the reference (docs), a test through HTTP.
 */
import { createHash } from 'node:crypto'
import type { Run } from '@tidebase/sdk'
import type { NewUserFields } from './auth/accounts.ts'
import type { SentMail } from './backend.ts'
import { addBackground, type BackgroundOptions } from './background.ts'
import { type AdminConfig, type AuthConfig, type AuthSetting, authConfig, type PaymentsConfig } from './config.ts'
import { type EmailOptions, sendEmail } from './email.ts'
import { TpError } from './errors.ts'
import { createHttp, type Http } from './fetch.ts'
import { createFiles, type Files } from './files.ts'
import { type Html, html } from './html.ts'
import { createDb, type Db } from './kv.ts'
import { markdown } from './markdown.ts'
import { createPod, type Handler, type Pod, type RouteOptions } from './pod.ts'
import { createRender } from './render.ts'
import { redirect, reply } from './reply.ts'
import type { User } from './request.ts'
import { createState, type State } from './state.ts'
import { listUsers, publicUser } from './users.ts'
import {
  createWorkflows,
  type RunOptions,
  type Runs,
  type Workflow,
  type WorkflowFn,
  type WorkflowOptions,
} from './workflows.ts'

export type { NewUserFields } from './auth/accounts.ts'
export type { Attachment, FileInfo, Json } from './backend.ts'
export type {
  AdminConfig,
  AuthConfig,
  AuthSetting,
  AuthTheme,
  FieldType,
  Model,
  PaymentsConfig,
  Product,
} from './config.ts'
export { type Code, type ErrorBody, TpError } from './errors.ts'
export type { HttpOptions } from './fetch.ts'
export type { Html } from './html.ts'
export type { Handler, Method, RouteOptions } from './pod.ts'
export type { CookieOptions, Reply, ReplyOptions } from './reply.ts'
export type { Request, UploadedFile, User } from './request.ts'
export type { Params } from './router.ts'
export type { RunContext, RunOptions, Runs, Workflow, WorkflowFn, WorkflowOptions } from './workflows.ts'

/** Everything a pod can do. */
export interface Tp {
  /**
   * Registers a handler for a path.
   *
   * What it returns is the answer: string → HTML · object or array → JSON · number → that status · null → back to the
   * same path (after a POST) · generator → Server-Sent Events · `tp.reply`, `tp.redirect` or a `Response` → as given.
   * @param path `/post/:slug`; `:page?` is optional, `:rest{.+}` takes the remaining path
   * @param options `{methods, timeout, maxBody, maxUpload, crossSite}`; methods default to GET
   * @limit a handler takes 30 s, a body 10 MB, an uploaded file 100 MB, unless the options say otherwise
   * @limit 100 open event streams
   * @throws TpError `bad_route`
   * @example tp.route('/post/:slug', async (req, { slug }) => (await tp.db.get(`post:${slug}`)) ?? 404)
   */
  route<P extends string>(path: P, handler: Handler<P>): void
  route<P extends string>(path: P, options: RouteOptions, handler: Handler<P>): void
  /**
   * Registers a page that never changes.
   * @throws TpError `bad_route`
   * @example tp.page('/', '<h1>Hello from Tidepool!</h1>')
   */
  page(path: string, html: string | Html): void
  /**
   * Login: `'standard'` (sign-up with e-mail and password), `'paywall'` (accounts are made at checkout) or single
   * fields. After it is set, fields can be changed.
   * @throws TpError `bad_config` when read before it was set
   * @example tp.auth = 'standard'
   * @example tp.auth.required = ['/dash/*']
   */
  get auth(): AuthConfig
  set auth(setting: AuthSetting)
  /**
   * What is sold, by Stripe; prices in cents. `/_pay/<id>` is where to buy it.
   * @throws TpError `bad_config` when read before it was set
   * @example tp.payments = { products: [{ id: 'pro', name: 'Pro', price: 500, recurring: 'month' }] }
   */
  get payments(): PaymentsConfig
  set payments(setting: PaymentsConfig)
  /**
   * The admin panel at `/_admin/`.
   * @throws TpError `bad_config` when read before it was set
   * @example tp.admin = { users: ['ada@example.com'], models: { post: { fields: { title: 'string', body: 'text' } } } }
   */
  get admin(): AdminConfig
  set admin(setting: AdminConfig)
  /**
   * Makes an account, or adds to the one that is there: calling it at every start is fine. A password is set only
   * where the account has none.
   * @param fields `{name, subscriptions, purchased, …}`; further fields lie in `user.data`
   * @throws TpError `invalid` (address, password below 8 characters)
   * @example await tp.createUser('ada@example.com', 'a long password', { subscriptions: ['pro'] })
   */
  createUser(email: string, fields?: NewUserFields): Promise<User>
  createUser(email: string, password?: string, fields?: NewUserFields): Promise<User>
  /**
   * All users, without anything secret.
   * @example const paying = (await tp.users()).filter((user) => user.subscriptions.includes('pro'))
   */
  users(): Promise<User[]>
  /**
   * The key-value store.
   * @limit 1 GB in all, 32 MB a value, 1,024 characters a key
   * @example await tp.db.set('post:hello', { title: 'Hello' })
   */
  readonly db: Db
  /**
   * File storage, served at `/_files/<name>`.
   * @limit 50 GB in all
   * @example await tp.files.write('report.csv', 'a,b\n1,2\n')
   */
  readonly files: Files
  /**
   * Sends a mail. While developing it is shown on the terminal and lies at `/_dev/mail`.
   * @limit 5 mails in one handler call, 100 a day
   * @param body plain text, or `tp.html` for a mail in HTML
   * @returns `{id, status}`
   * @throws TpError `mail_limit`, `rate_limited`, `invalid`
   * @example await tp.email('ada@example.com', 'Welcome', 'Good to have you here.')
   */
  email(
    to: string,
    subject: string,
    body: string | Html,
    options?: EmailOptions,
  ): Promise<Pick<SentMail, 'id' | 'status'>>
  /**
   * HTTP client that calls public addresses only.
   * @limit 200 requests in 60 s
   * @throws TpError `blocked_address`, `http_limit`, `http_failed`
   * @example const rates = await tp.http.get('https://api.example.com/rates')
   */
  readonly http: Http
  /**
   * Markdown to safe HTML: tables, fenced code, footnotes. `unsafe` keeps HTML in the text.
   * @example tp.html`<article>${tp.markdown(post.body)}</article>`
   */
  markdown(text: string, options?: { unsafe?: boolean }): Html
  /**
   * Tagged template that escapes every interpolation; nests, joins arrays.
   * @example tp.html`<ul>${names.map((name) => tp.html`<li>${name}</li>`)}</ul>`
   */
  html(strings: TemplateStringsArray, ...values: readonly unknown[]): Html
  /**
   * Renders a Nunjucks template of `templates/`, with escaping.
   * @throws TpError `template` with file and line
   * @example tp.render('post.html', { post, user: req.user })
   */
  render(template: string, context?: object): Html
  /**
   * Credentials given at deploy time; while developing they lie in `tp_data/secrets.json`.
   * @example const key = tp.secrets.openai_key
   */
  readonly secrets: Readonly<Record<string, string | undefined>>
  /**
   * The public state of the app as last known, see `publish`.
   * @example tp.state.score
   */
  readonly state: State
  /**
   * Merges into the public state, which anybody can read at `/?format=json`; undefined removes a field.
   * @example await tp.publish({ score: 12 })
   */
  publish(patch: { [key: string]: unknown }): Promise<State>
  /**
   * Work beside requests: every `seconds`, never overlapping, on one replica at a time; without
   * seconds once per deployment.
   * @limit 5 tasks
   * @throws TpError `task_limit`
   * @example tp.background({ seconds: 60 }, async () => { await tp.db.increment('minutes') })
   */
  background(task: () => unknown): void
  background(options: BackgroundOptions, task: () => unknown): void
  /**
   * Registers a durable workflow: a function whose completed steps are not repeated when it goes on after a crash, a
   * restart or a deploy. This pod executes it, at most 10 runs at a time.
   * @param fn gets `run` (`step`, `sleep`, `gate`, `waitForSignal`, `child`, `fanout`, `state`, `usage`) and the input
   * @param options `{queue}`
   * @returns the workflow, for `tp.enqueue`
   * @throws TpError `bad_config` when the name is taken
   * @example
   * tp.workflow('welcome', async (run, input: { email: string }) => {
   *   await run.step('greet', () => tp.email(input.email, 'Welcome', 'Good to have you here.'))
   *   await run.sleep(3 * 24 * 3_600_000)
   *   await run.step('ask', () => tp.email(input.email, 'How is it going?', 'Just reply.'))
   * })
   */
  workflow<Input, Output>(name: string, fn: WorkflowFn<Input, Output>): Workflow<Input, Output>
  workflow<Input, Output>(
    name: string,
    options: WorkflowOptions,
    fn: WorkflowFn<Input, Output>,
  ): Workflow<Input, Output>
  /**
   * Starts a run of a workflow. It is executed up to 5 times until it succeeds, unless `maxAttempts` says otherwise.
   * @param options `{input, dedupeKey, delayMs, runAt, maxAttempts, priority, deadlineMs, metadata}`
   * @returns `{run, deduplicated}`
   * @throws TpError `unknown_workflow`, `no_tidebase`
   * @example const { run } = await tp.enqueue('welcome', { input: { email: 'ada@example.com' }, dedupeKey: 'ada' })
   */
  enqueue<Input>(
    workflow: string | Workflow<Input, unknown>,
    options?: RunOptions<Input>,
  ): Promise<{ run: Run; deduplicated: boolean }>
  /**
   * The pod's runs: `list get cancel wait signal subscribe resolveGate`.
   * @throws TpError `no_tidebase`
   * @example const { runs } = await tp.runs.list({ workflow: 'welcome', status: 'failed' })
   */
  readonly runs: Runs
  /**
   * The full address of a path, for mails, feeds and webhooks: from the configured origin, never from a request.
   * @example tp.url('/post/hello')
   */
  url(path: string): string
  /**
   * Sends the browser somewhere else; status 303 unless given.
   * @example return tp.redirect('/thanks')
   */
  redirect: typeof redirect
  /**
   * An answer with status, headers and cookies.
   * @example return tp.reply({ id }, { status: 201, cookies: { seen: 'yes' } })
   */
  reply: typeof reply
}

function unset(what: string, example: string): TpError {
  return new TpError('bad_config', `tp.${what} was read before it was set`, { hint: `Set it first: ${example}` })
}

/** Makes the `tp` object of a pod. */
export function createTp(pod: Pod): Tp {
  const backend = () => pod.setup().backend
  const http = createHttp(
    () => pod.setup().allowHosts,
    () => pod.setup().egress,
  )
  const state = createState(pod)
  let renderer: ReturnType<typeof createRender> | undefined
  const workflows = createWorkflows(pod)
  pod.use(state.feature)
  pod.use(workflows.feature)
  pod.onStop(http.close)

  return {
    route<P extends string>(path: P, ...rest: [Handler<P>] | [RouteOptions, Handler<P>]): void {
      const [options, handler] = rest.length === 1 ? [{}, rest[0]] : rest
      // The router gives the parameters that are in the path; the path's type says the same.
      pod.route(path, options, handler as Handler)
    },
    page(path, content) {
      const etag = createHash('sha256').update(String(content)).digest('base64url').slice(0, 22)
      pod.page(path, content, `"${etag}"`)
    },
    get auth(): AuthConfig {
      if (!pod.auth) throw unset('auth', "tp.auth = 'standard'")
      return pod.auth
    },
    set auth(setting: AuthSetting) {
      pod.auth = authConfig(setting)
    },
    get payments(): PaymentsConfig {
      if (!pod.payments) throw unset('payments', 'tp.payments = { products: […] }')
      return pod.payments
    },
    set payments(setting: PaymentsConfig) {
      pod.payments = setting
    },
    get admin(): AdminConfig {
      if (!pod.admin) throw unset('admin', 'tp.admin = {}')
      return pod.admin
    },
    set admin(setting: AdminConfig) {
      pod.admin = setting
    },
    async createUser(email: string, ...rest: [NewUserFields?] | [string?, NewUserFields?]) {
      const password = typeof rest[0] === 'string' ? rest[0] : undefined
      const fields = typeof rest[0] === 'object' ? rest[0] : rest[1]
      const { createUser } = await import('./auth/accounts.ts')
      return createUser(pod, email, password, fields ?? {})
    },
    async users() {
      return (await listUsers(backend())).map(publicUser)
    },
    db: createDb(backend),
    files: createFiles(backend),
    email: (to, subject, body, options) => sendEmail(backend().mail, to, subject, body, options),
    http,
    markdown,
    html,
    render(template, context) {
      renderer ??= createRender(pod.setup().dir, pod.setup().mode === 'dev')
      return renderer(template, context)
    },
    get secrets() {
      return backend().secrets
    },
    get state() {
      return state.current()
    },
    publish: state.publish,
    background(...rest: [() => unknown] | [BackgroundOptions, () => unknown]): void {
      const [options, task] = rest.length === 1 ? [{}, rest[0]] : rest
      addBackground(pod, options, task)
    },
    workflow<Input, Output>(
      name: string,
      ...rest: [WorkflowFn<Input, Output>] | [WorkflowOptions, WorkflowFn<Input, Output>]
    ) {
      const [options, fn] = rest.length === 1 ? [{}, rest[0]] : rest
      return workflows.workflow(name, options, fn)
    },
    enqueue: workflows.enqueue,
    get runs() {
      return workflows.runs
    },
    url: (path) => pod.url(path),
    redirect,
    reply,
  }
}

/** The pod of this process. */
export const pod = createPod()

const tp = createTp(pod)
export default tp
