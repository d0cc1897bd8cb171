/**
 * How the admin panel looks. Everything stored is escaped and the pages allow no script.
 */
import type { Json } from '../backend.ts'
import type { FieldType, Model } from '../config.ts'
import { type Html, html } from '../html.ts'
import type { Reply } from '../reply.ts'
import { strictPage } from '../strict-page.ts'
import { choicesOf, displayed, type Record_, toInput } from './models.ts'

const style = `
.shell{display:grid;grid-template-columns:13rem minmax(0,1fr);min-height:100vh}
nav{border-right:1px solid var(--line);padding:1.25rem;background:var(--card)}
nav strong{display:block;margin-bottom:1rem}
nav a{display:block;padding:.3rem .6rem;border-radius:.5rem;color:inherit;text-decoration:none}
nav a[aria-current]{background:var(--accent);color:var(--on-accent)}
nav hr{border:0;border-top:1px solid var(--line);margin:.75rem 0}
main{padding:1.5rem;max-width:70rem}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 1rem;overflow-wrap:anywhere}
.bar{display:flex;flex-wrap:wrap;gap:.6rem;align-items:center;margin:0 0 1rem}
.bar form{display:flex;gap:.5rem;flex:1 1 14rem}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:.8rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.55rem .8rem;border-bottom:1px solid var(--line);max-width:24rem;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
tr:last-child td{border-bottom:0}
label{display:block;margin:.9rem 0;font-weight:600}
input,textarea,select{display:block;width:100%;margin-top:.25rem;font:inherit;padding:.5rem .7rem;border:1px solid var(--line);border-radius:.5rem;background:var(--card);color:inherit}
input[type=checkbox]{display:inline;width:auto;margin:0 .5rem 0 0}
textarea{min-height:14rem;font:.95em/1.5 ui-monospace,monospace}
button,.button{display:inline-block;padding:.5rem 1rem;border:0;border-radius:.5rem;background:var(--accent);color:var(--on-accent);font:inherit;font-weight:600;text-decoration:none;cursor:pointer}
.quiet{background:none;color:inherit;border:1px solid var(--line);font-weight:400}
form.edit{max-width:44rem}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem}
@media (max-width:45rem){.shell{display:block}nav{display:flex;flex-wrap:wrap;gap:.25rem;border-right:0;border-bottom:1px solid var(--line)}nav strong{width:100%;margin:0}nav hr{display:none}main{padding:1.25rem}}
`

export const lists = ['users', 'payments', 'emails', 'files'] as const
export type List = (typeof lists)[number]

/** The frame around every page. */
export function adminPage(title: string, models: string[], current: string, content: Html, status = 200): Reply {
  const link = (path: string, text: string) =>
    html`<a href="/_admin/${path}"${path === current ? html` aria-current="page"` : null}>${text}</a>`
  const body = html`<div class="shell">
<nav aria-label="Admin"><strong>Admin</strong>
${models.map((model) => link(`m/${encodeURIComponent(model)}`, model))}${models.length > 0 && html`<hr>`}
${lists.map((list) => link(list, list))}<hr><a href="/">Back to the app</a></nav>
<main><h1>${title}</h1>${content}</main></div>`
  return strictPage(`${title} · Admin`, style, body, { status })
}

/** A table; the first cell of a row may be a link. */
export function table(heads: string[], rows: (Html | string)[][], empty: string): Html {
  if (rows.length === 0) return html`<p class="soft">${empty}</p>`
  return html`<div class="scroll" tabindex="0"><table><thead><tr>${heads.map((head) => html`<th scope="col">${head}</th>`)}</tr></thead>
<tbody>${rows.map((row) => html`<tr>${row.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody></table></div>`
}

/** A value as a table shows it. */
export function shown(value: Json | undefined): string {
  if (value === null || value === undefined) return ''
  if (typeof value === 'boolean') return value ? 'yes' : 'no'
  const text = typeof value === 'object' ? JSON.stringify(value) : String(value)
  return text.length > 120 ? `${text.slice(0, 120)}…` : text
}

/** The list of a model's records. */
export function listPage(
  models: string[],
  name: string,
  model: Model,
  {
    records,
    q,
    next,
    count,
  }: { records: { id: string; value: Record_ }[]; q: string; next: string | undefined; count: number },
): Reply {
  const base = `/_admin/m/${encodeURIComponent(name)}`
  const columns = displayed(model)
  const rows = records.map(({ id, value }) => [
    html`<a href="${base}/edit/${encodeURIComponent(id)}">${shown(value[columns[0] ?? '']) || id}</a>`,
    ...columns.slice(1).map((column) => shown(value[column])),
    id,
  ])
  return adminPage(
    name,
    models,
    `m/${encodeURIComponent(name)}`,
    html`<div class="bar"><form role="search"><input type="search" name="q" value="${q}" aria-label="Search ${name}" placeholder="Search"><button class="quiet">Search</button></form>
<a class="button" href="${base}/new">New ${name}</a></div>
<p class="soft">${q ? `found for “${q}”` : `${count} in all`}</p>
${table([...columns, 'id'], rows, q ? 'Nothing found.' : 'Nothing yet.')}
${next !== undefined && html`<p><a class="button quiet" href="${base}?after=${encodeURIComponent(next)}${q && `&q=${encodeURIComponent(q)}`}">Next page</a></p>`}`,
  )
}

function field(name: string, type: FieldType, text: string, problem: string | undefined): Html {
  const id = `field-${name}`
  const wrong = problem && html` aria-invalid="true" aria-describedby="${id}-problem"`
  const hint = problem && html`<span role="alert" id="${id}-problem">${name} ${problem}</span>`
  if (type === 'bool')
    return html`<label><input type="checkbox" name="${name}" value="true"${text === 'true' ? html` checked` : null}>${name}</label>${hint}`
  const input =
    type === 'text'
      ? html`<textarea name="${name}"${wrong}>\n${text}</textarea>`
      : type.startsWith('choice:')
        ? html`<select name="${name}"${wrong}>${choicesOf(type).map((each) => html`<option${each === text ? html` selected` : null}>${each}</option>`)}</select>`
        : html`<input type="${type === 'string' ? 'text' : type}" name="${name}" value="${text}"${type === 'number' ? html` step="any"` : null}${wrong}>`
  return html`<label>${name} ${input}</label>${hint}`
}

/** The form of one record, new or not. */
export function formPage(
  models: string[],
  name: string,
  model: Model,
  state: {
    id: string | undefined
    values: { [field: string]: string }
    version?: number | undefined
    problems?: { [field: string]: string }
    message?: string | undefined
    status?: number
  },
): Reply {
  const { id, values, version, problems = {}, message, status = 200 } = state
  const base = `/_admin/m/${encodeURIComponent(name)}`
  return adminPage(
    id === undefined ? `New ${name}` : `${name} ${id}`,
    models,
    `m/${encodeURIComponent(name)}`,
    html`${message && html`<p role="alert">${message}</p>`}
<form class="edit" method="post" action="${id === undefined ? `${base}/new` : `${base}/edit/${encodeURIComponent(id)}`}">
${version !== undefined && html`<input type="hidden" name="_version" value="${version}">`}
${id === undefined && field('_id', 'string', values._id ?? '', problems._id)}
${Object.entries(model.fields).map(([each, type]) => field(each, type, values[each] ?? '', problems[each]))}
<div class="bar"><button name="_action" value="save">Save</button>
${id !== undefined && html`<button class="quiet" name="_action" value="delete">Delete</button>`}
<a href="${base}">Cancel</a></div></form>`,
    status,
  )
}

/** The fields of a record as texts for its form. */
export function inputs(model: Model, value: Record_): { [field: string]: string } {
  return Object.fromEntries(Object.entries(model.fields).map(([name, type]) => [name, toInput(value[name], type)]))
}
