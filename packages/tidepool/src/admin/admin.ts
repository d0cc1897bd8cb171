/**
 * `tp.admin`: the panel at /_admin/. Models are made, edited and deleted; users, payments, mails and files are shown.
 * A page answers JSON to those who ask for it.
 *
 * Invariant: an edit never overwrites a change that came after its form was opened.
 */
import { randomBytes } from 'node:crypto'
import type { Json } from '../backend.ts'
import { adminIssues, type Model } from '../config.ts'
import { TpError } from '../errors.ts'
import { html } from '../html.ts'
import type { Handler, Pod } from '../pod.ts'
import { type Reply, reply } from '../reply.ts'
import type { Request } from '../request.ts'
import { publicUser } from '../users.ts'
import { admit, announceKey } from './access.ts'
import { fromInput, inferModels, type Record_ } from './models.ts'
import { adminPage, formPage, inputs, type List, listPage, lists, shown, table } from './pages.ts'

const perPage = 50
/** How many records a search reads for one page. */
const searchable = 20_000

const wantsJson = (req: Request) => {
  const { accept = '' } = req.headers
  return accept.includes('application/json') && !accept.includes('text/html')
}

/** The feature, see pod.ts. @throws TpError `bad_config` */
export function adminFeature(pod: Pod): void {
  const { admin } = pod
  if (!admin) return
  const issues = adminIssues(admin)
  if (issues.length > 0)
    throw new TpError('bad_config', `tp.admin: ${issues[0]?.path.join('.')} ${issues[0]?.message}`, {
      issues,
      hint: 'Correct tp.admin in main.ts; `tidepool docs admin` shows every field.',
    })
  const { backend, mode } = pod.setup()
  if (!pod.auth && mode === 'production') pod.onStart(() => announceKey(pod))

  const models = async () => admin.models ?? (await inferModels(backend))
  const model = async (name: string): Promise<[Model, string[]]> => {
    const all = await models()
    const found = Object.hasOwn(all, name) ? all[name] : undefined
    if (!found) throw new TpError('not_found', `There is no model ${JSON.stringify(name)}`)
    return [found, Object.keys(all)]
  }
  const mount = (path: string, methods: readonly ('GET' | 'POST')[], handler: Handler) =>
    pod.mount(path, { methods }, async (req, params) => (await admit(pod, req)) ?? handler(req, params))

  const overview: Handler = async (req) => {
    const names = Object.keys(await models())
    const counts = await Promise.all(names.map((name) => count(`${name}:`)))
    if (wantsJson(req)) return { models: await models(), lists }
    const rows = names.map((name, n) => [
      html`<a href="/_admin/m/${encodeURIComponent(name)}">${name}</a>`,
      String(counts[n]),
    ])
    const empty = 'No models yet: set tp.admin.models in main.ts, or store records under keys such as post:1.'
    return adminPage('Overview', names, '', table(['model', 'records'], rows, empty))
  }
  async function count(prefix: string): Promise<number> {
    return backend.count('db', prefix)
  }

  mount('/_admin', ['GET'], overview)
  mount('/_admin/', ['GET'], overview)

  mount('/_admin/m/:model', ['GET'], async (req, { model: name = '' }) => {
    const [found, names] = await model(name)
    const q = (req.query.q ?? '').trim()
    const { records, next } = await search(name, found, q, req.query.after)
    if (wantsJson(req)) return { records: records.map(({ id, value }) => ({ id, ...value })), next: next ?? null }
    return listPage(names, name, found, { records, q, next, count: await count(`${name}:`) })
  })

  async function search(name: string, found: Model, q: string, from: string | undefined) {
    const prefix = `${name}:`
    const wanted = q.toLowerCase()
    const records: { id: string; value: Record_ }[] = []
    let after = from === undefined ? undefined : prefix + from
    for (let read = 0; read < searchable; ) {
      const page = await backend.scan('db', { prefix, after, limit: perPage })
      for (const { key, value } of page) {
        const id = key.slice(prefix.length)
        const record = asRecord(value)
        const texts = [id, ...Object.keys(found.fields).map((field) => shown(record[field]))]
        if (wanted !== '' && !texts.some((text) => text.toLowerCase().includes(wanted))) continue
        if (records.length === perPage) return { records, next: records.at(-1)?.id }
        records.push({ id, value: record })
      }
      read += page.length
      after = page.at(-1)?.key
      if (page.length < perPage) return { records, next: undefined }
      if (wanted === '' && records.length === perPage) {
        const more = await backend.scan('db', { prefix, after, limit: 1 })
        return { records, next: more.length > 0 ? records.at(-1)?.id : undefined }
      }
    }
    return { records, next: after?.slice(prefix.length) }
  }

  mount('/_admin/m/:model/new', ['GET', 'POST'], async (req, { model: name = '' }) => {
    const [found, names] = await model(name)
    if (req.method !== 'POST') return formPage(names, name, found, { id: undefined, values: {} })
    const { values, problems, texts } = read(found, req)
    const id = texts._id?.trim() || randomBytes(6).toString('hex')
    if (id.length > 500 || /\p{Cc}/u.test(id)) problems._id = 'must be a short text on one line'
    const state = { id: undefined, values: texts, problems, status: 422 }
    if (Object.keys(problems).length > 0) return problem(req, problems) ?? formPage(names, name, found, state)
    const key = `${name}:${id}`
    const made = await backend.write([{ op: 'set', space: 'db', key, value: values, if: 'absent' }])
    if (made.ok) return saved(req, name, id, values)
    problems._id = 'is taken already'
    return problem(req, problems) ?? formPage(names, name, found, state)
  })

  mount('/_admin/m/:model/edit/:id', ['GET', 'POST'], async (req, { model: name = '', id = '' }) => {
    const [found, names] = await model(name)
    const key = `${name}:${id}`
    const entry = await backend.read('db', key)
    if (!entry) throw new TpError('not_found', `There is no ${name} ${JSON.stringify(id)}`)
    const current = asRecord(entry.value)
    const open = { id, values: inputs(found, current), version: entry.version }
    if (req.method !== 'POST') return wantsJson(req) ? { id, ...current } : formPage(names, name, found, open)
    // Programs need not say which version they have seen: theirs is then the one that is there.
    const version = req.body._version === undefined ? entry.version : Number(req.body._version)
    if (req.body._action === 'delete') {
      const gone = await backend.write([{ op: 'delete', space: 'db', key, if: version }])
      if (gone.ok) return reply(null, { status: 303, headers: { location: `/_admin/m/${encodeURIComponent(name)}` } })
    } else {
      const { values, problems, texts } = read(found, req)
      const state = { id, values: texts, version, problems, status: 422 }
      if (Object.keys(problems).length > 0) return problem(req, problems) ?? formPage(names, name, found, state)
      // What the form does not show stays as it is.
      const value = { ...current, ...values }
      const written = await backend.write([{ op: 'set', space: 'db', key, value, if: version }])
      if (written.ok) return saved(req, name, id, value)
    }
    if (wantsJson(req)) throw new TpError('conflict')
    const message = 'Somebody changed this in the meantime. Below is what they saved; yours was not.'
    const latest = await backend.read('db', key)
    const values = inputs(found, asRecord(latest?.value ?? null))
    return formPage(names, name, found, { id, values, version: latest?.version, message, status: 409 })
  })

  function read(found: Model, req: Request) {
    const values: Record_ = {}
    const problems: { [field: string]: string } = {}
    const texts: { [field: string]: string } = { _id: String(req.body._id ?? '') }
    for (const [field, type] of Object.entries(found.fields)) {
      const given = req.body[field]
      // A form leaves out what is not ticked; a program leaves out what is to stay.
      if (given === undefined && wantsJson(req)) continue
      texts[field] = given === undefined ? '' : String(given)
      const result = fromInput(texts[field], type)
      if ('problem' in result) problems[field] = result.problem
      else values[field] = result.value
    }
    return { values, problems, texts }
  }
  function problem(req: Request, problems: { [field: string]: string }): undefined {
    if (!wantsJson(req)) return undefined
    const issues = Object.entries(problems).map(([field, message]) => ({ path: [field], message }))
    throw new TpError('invalid', `${issues[0]?.path[0]} ${issues[0]?.message}`, { issues })
  }
  function saved(req: Request, name: string, id: string, value: Record_): Reply {
    if (wantsJson(req)) return reply({ id, ...value })
    return reply(null, { status: 303, headers: { location: `/_admin/m/${encodeURIComponent(name)}` } })
  }

  // ---- what is only shown ----

  const day = (ms: number) => new Date(ms).toISOString().slice(0, 16).replace('T', ' ')
  const contents: {
    [L in List]: (after: string | undefined) => Promise<{ json: object[]; heads: string[]; rows: Row[]; next?: string }>
  } = {
    users: async (after) => {
      const page = await backend.scan('users', { after, limit: perPage })
      const json = page.map(({ value }) => publicUser(value))
      const rows = json.map((user) => [
        user.email,
        user.name ?? '',
        user.confirmed ? 'yes' : 'no',
        [...user.subscriptions, ...user.purchased].join(', '),
        day(user.createdAt),
      ])
      return { json, heads: ['e-mail', 'name', 'confirmed', 'has bought', 'since'], rows, next: full(page) }
    },
    payments: async (after) => {
      const page = await backend.scan('purchases', { after, limit: perPage })
      const json = page.map(({ value: { stripe: _, ...shownOnly } }) => shownOnly)
      const rows = json.map((each) => [
        each.email,
        each.product,
        `${(each.amount / 100).toFixed(2)} ${each.currency}`,
        each.simulated ? `${each.status}, simulated` : each.status,
        day(each.createdAt),
      ])
      return { json, heads: ['e-mail', 'product', 'price', 'state', 'when'], rows, next: full(page) }
    },
    emails: async (before) => {
      const mails = await backend.mail.list({ limit: perPage, ...(before !== undefined && { before }) })
      const json = mails.map(({ id, to, subject, status, at }) => ({ id, to, subject, status, at }))
      const rows = json.map(({ to, subject, status, at }) => [to, subject, status, day(at)])
      return {
        json,
        heads: ['to', 'subject', 'state', 'when'],
        rows,
        ...(mails.length === perPage && { next: mails.at(-1)?.id ?? '' }),
      }
    },
    files: async (after) => {
      const files = await backend.files.list({ limit: perPage, ...(after !== undefined && { after }) })
      const path = (name: string) => `/_files/${name.split('/').map(encodeURIComponent).join('/')}`
      const rows = files.map(({ name, size, contentType, modifiedAt }) => [
        html`<a href="${path(name)}">${name}</a>`,
        contentType,
        `${size} bytes`,
        day(modifiedAt),
      ])
      return {
        json: files,
        heads: ['name', 'type', 'size', 'changed'],
        rows,
        ...(files.length === perPage && { next: files.at(-1)?.name ?? '' }),
      }
    },
  }
  for (const list of lists)
    mount(`/_admin/${list}`, ['GET'], async (req) => {
      const { json, heads, rows, next } = await contents[list](req.query.after)
      if (wantsJson(req)) return { [list]: json, next: next ?? null }
      const more =
        next !== undefined &&
        html`<p><a class="button quiet" href="/_admin/${list}?after=${encodeURIComponent(next)}">Next page</a></p>`
      const names = Object.keys(await models())
      return adminPage(list, names, list, html`${table(heads, rows, 'Nothing yet.')}${more}`)
    })
}

type Row = (ReturnType<typeof html> | string)[]

const full = (page: { key: string }[]) => (page.length === perPage ? page.at(-1)?.key : undefined)

/** What lies under a model's key, though it may be no record. */
function asRecord(value: Json): Record_ {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : { value }
}
