// The API for people, made from the list of endpoints, as /api is for machines.
import { limits } from '../docs.ts'
import type { Access, Endpoint } from '../endpoint.ts'
import { endpointGroups, endpoints } from '../endpoints.ts'
import { type Code, codes } from '../errors.ts'
import { words } from './format.ts'
import { commands, type Html, html } from './page.ts'
import { fieldsOf, sampleOf, schemaOf, typeText } from './schema-text.ts'
import type { Page } from './visit.ts'

const callers: Partial<Record<Access, string>> = {
  public: 'Anybody, without a key',
  agent: 'Any key of an agent',
  operator: 'The operator’s key',
}
const callerOf = (access: Access): Html =>
  callers[access]
    ? html`${callers[access]}`
    : html`A key with the verb <code>${access}</code>, of an agent whose address is confirmed`

const placeholders: Record<string, string> = {
  pod: 'my-app',
  sha256: '<sha256>',
  deployment: '<deployment>',
  key: '<key>',
  agent: '<agent>',
  '*': 'notes.txt',
}
const says: Record<string, string> = {
  pod: 'Id or name of a pod of yours',
  deployment: 'Id of a deployment of that pod',
  sha256: 'SHA-256 of the file’s bytes, 64 hex digits',
  key: 'Id of a key',
  agent: 'Id of an agent',
  id: 'Id',
  '*': 'The rest of the path: the name of a file',
}

/** A call of an endpoint that can be pasted. */
function curl({ method, path, access, body, bytes, example }: Endpoint, url: string): string {
  if (example) return example.replaceAll('$URL', url)
  const filled = path.replace(/:(\w+)|\*/g, (all, name) => placeholders[name ?? all] ?? `<${name}>`)
  const parts = [`curl${method === 'GET' ? '' : ` -X ${method}`} "${url}${filled}"`]
  if (access !== 'public') parts.push(`-H "authorization: Bearer $TIDEPOOL_KEY"`)
  if (bytes) parts.push(path === '/verify' ? "-d 'token=link_…'" : '--data-binary @file')
  else if (body) {
    const schema = schemaOf(body)
    parts.push("-H 'content-type: application/json'", `-d '${JSON.stringify(sampleOf(schema, schema))}'`)
  }
  return parts.join(' \\\n  ')
}

function fields(rows: { name: string; type: string; preset?: string; says: string }[], caption: string): Html {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="${caption}"><table><thead><tr><th scope="col">${caption}</th><th scope="col">Type</th><th scope="col">Unless given</th><th scope="col"></th></tr></thead>
<tbody>${rows.map(
    ({ name, type, preset, says: said }) =>
      html`<tr><th scope="row"><code>${name}</code></th><td><code>${type}</code></td><td>${preset && html`<code>${preset}</code>`}</td><td>${said}</td></tr>`,
  )}</tbody></table></div>`
}

/** Errors that an endpoint has by who may call it. */
function refusals({ access, path, body, query }: Endpoint): Code[] {
  return [
    ...(access === 'public' ? [] : (['unauthorized'] as const)),
    ...(access === 'public' || access === 'agent' ? [] : (['forbidden'] as const)),
    ...(access === 'public' || access === 'agent' || access === 'operator' ? [] : (['unverified'] as const)),
    ...(path.includes('/:pod') ? (['not_found'] as const) : []),
    ...(body || query ? (['invalid'] as const) : []),
  ]
}

const shape = (text: string, label: string) =>
  html`<pre class="shape" tabindex="0" role="region" aria-label="${label}"><code>${text}</code></pre>`

function section(name: string, each: Endpoint, url: string): Html {
  const { method, path, summary, access, query, body, bytes, reply, errors } = each
  const params = [...path.matchAll(/:(\w+)|\*/g)].map(([all, param]) => param ?? all)
  const bodySchema = body && schemaOf(body)
  const replySchema = reply && schemaOf(reply)
  const all = [...new Set<Code>([...errors, ...refusals(each)])].sort((a, b) => codes[a][0] - codes[b][0])
  return html`<section class="endpoint" id="${name}" aria-labelledby="${name}-name">
<h3 id="${name}-name"><a class="anchor" href="#${name}"><span class="method ${method.toLowerCase()}">${method}</span> <code>${path}</code></a></h3>
<p>${summary}</p>
<p class="muted">${callerOf(access)}</p>
${
  params.length > 0 &&
  fields(
    params.map((param) => ({ name: param, type: 'string', says: says[param] ?? '' })),
    'In the path',
  )
}
${query && fields(fieldsOf(query), 'In the query')}
${bodySchema && html`<h4>Body</h4>${shape(typeText(bodySchema, bodySchema), `Body of ${name}`)}`}
${bytes && html`<h4>Body</h4><p>${path === '/verify' ? 'A form with the field token.' : 'Bytes, as they are.'}</p>`}
<h4>Answer</h4>
${replySchema ? shape(typeText(replySchema, replySchema), `Answer of ${name}`) : html`<p>As the summary says: ${path === '/verify' ? 'a page' : path.endsWith('events') ? 'Server-Sent Events' : 'bytes'}.</p>`}
${all.length > 0 && html`<h4>Errors</h4><ul class="plain errors">${all.map((code) => html`<li><a href="#error-${code}"><code>${codes[code][0]} ${code}</code></a> ${codes[code][1]}</li>`)}</ul>`}
<h4>Example</h4>
${commands(curl(each, url), `Example of ${name}`)}
</section>`
}

const slug = (title: string) => `group-${title.toLowerCase().replace(/\W+/g, '-')}`

export const apiDocsPages: readonly Page[] = [
  {
    method: 'GET',
    path: '/docs/api',
    handler({ platform, show }) {
      const { publicUrl } = platform.settings
      const groups = Object.entries(endpointGroups).map(([title, group]) => ({ title, all: Object.entries(group) }))
      show(
        'API',
        html`<div class="with-aside">
<nav class="aside" aria-label="Endpoints"><details open><summary>Endpoints</summary>
${groups.map(
  ({ title, all }) => html`<h2><a href="#${slug(title)}">${title}</a></h2>
<ul>${all.map(([name, { method, path }]) => html`<li><a href="#${name}"><span class="method ${method.toLowerCase()}">${method}</span> ${path.replace(/^\/api/, '') || path}</a></li>`)}</ul>`,
)}
<h2><a href="#errors">Errors</a></h2><h2><a href="#limits">Limits</a></h2>
</details></nav>
<div>
<h1>API</h1>
<p class="lead">${Object.keys(endpoints).length} endpoints, JSON in and out. For machines, with the same schemas: <a href="/api">/api</a>, <a href="/openapi.json">/openapi.json</a>; as text: <a href="/llms.txt">/llms.txt</a>.</p>
<p>A key is sent as <code>Authorization: Bearer tp_…</code>. <code>npx tidepool register</code> makes the first one; narrower ones, for some pods, with some verbs, until a time, are made with <a href="#addKey">POST /api/keys</a>. Every error has one shape: <code>{error, code, hint}</code>, with <code>issues</code>, <code>file</code> and <code>line</code> where they are known.</p>
${commands('export TIDEPOOL_KEY=tp_…', 'Sets the key for the examples')}
${groups.map(
  ({ title, all }) => html`<h2 id="${slug(title)}">${title}</h2>
${all.map(([name, each]) => section(name, each, publicUrl))}`,
)}
<h2 id="errors">Errors</h2>
<dl class="table">${Object.entries(codes).map(
          ([code, [status, meaning, hint]]) =>
            html`<div id="error-${code}"><dt><code>${status} ${code}</code></dt><dd>${meaning} <span class="muted">${hint}</span></dd></div>`,
        )}</dl>
<h2 id="limits">Limits</h2>
<dl class="table">${Object.entries(limits).map(([what, most]) => html`<div><dt>${words(what)}</dt><dd>${most}</dd></div>`)}</dl>
</div></div>`,
        { here: '/docs/api' },
      )
    },
  },
]
