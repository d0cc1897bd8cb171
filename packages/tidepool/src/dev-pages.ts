/**
 * /_dev and /_dev/mail: what the pod has, what went wrong, and the mails it sent, for people as pages and for programs
 * as JSON. They are there while developing and for this machine only.
 */
import type { Backend, SentMail } from './backend.ts'
import { TpError } from './errors.ts'
import { type Html, html } from './html.ts'
import { isLocalHost } from './local-host.ts'
import type { Log } from './log.ts'
import type { Handler, Pod } from './pod.ts'
import { type Reply, reply } from './reply.ts'
import type { Request } from './request.ts'
import { strictPage } from './strict-page.ts'
import { listUsers, publicUser } from './users.ts'

const style = `
main{max-width:64rem;margin:0 auto;padding:1.5rem 1.25rem 4rem}
header{border-bottom:1px solid var(--line);background:var(--card)}
header nav{max-width:64rem;margin:0 auto;padding:.8rem 1.25rem;display:flex;flex-wrap:wrap;gap:.25rem 1.25rem}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 1rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2rem 0 .5rem}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:.8rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.45rem .8rem;border-bottom:1px solid var(--line)}
tr:last-child td{border-bottom:0}
code,pre{font:.9em/1.5 ui-monospace,monospace}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem}
iframe{width:100%;height:22rem;border:1px solid var(--line);border-radius:.6rem;background:#fff}
`

const links = /https?:\/\/[^\s"'<>]+/g
/** The links of a mail, each once. */
const linksOf = (mail: SentMail) => [...new Set(mail.text.match(links) ?? [])]

/** The backend, with every mail shown on the terminal: whoever develops has no mailbox to look into. */
export function printingMail(backend: Backend, log: Log): Backend {
  const { mail } = backend
  const send = async (message: Parameters<typeof mail.send>[0]) => {
    const sent = await mail.send(message)
    log.info([`Mail to ${sent.to}: ${sent.subject}`, ...linksOf(sent)].join('\n    '))
    return sent
  }
  return Object.assign(Object.create(backend), {
    mail: { send, list: mail.list.bind(mail), get: mail.get.bind(mail) },
  })
}

const wantsJson = ({ headers, query }: Request) => query.format === 'json' || !headers.accept?.includes('text/html')
const when = (ms: number) => new Date(ms).toISOString().slice(0, 19).replace('T', ' ')

function page(title: string, content: Html): Reply {
  const body = html`<header><nav aria-label="Development"><a href="/_dev">Overview</a><a href="/_dev/mail">Mail</a><a href="/_admin/">Admin</a><a href="/">The app</a></nav></header>
<main><h1>${title}</h1>${content}</main>`
  return strictPage(`${title} · dev`, style, body)
}

function table(heads: string[], rows: (Html | string)[][], empty: string): Html {
  if (rows.length === 0) return html`<p class="soft">${empty}</p>`
  return html`<div class="scroll" tabindex="0"><table><thead><tr>${heads.map((head) => html`<th scope="col">${head}</th>`)}</tr></thead>
<tbody>${rows.map((row) => html`<tr>${row.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody></table></div>`
}

/** The feature, see pod.ts. */
export function devFeature(pod: Pod): void {
  const { mode, backend, origin } = pod.setup()
  if (mode !== 'dev') return
  const mount = (path: string, handler: Handler) =>
    pod.mount(path, {}, (req, params) => {
      if (!isLocalHost(req.headers.host, origin))
        throw new TpError('forbidden', 'The development pages answer to localhost only', { hint: 'Open localhost.' })
      return handler(req, params)
    })
  const mailPath = ({ id }: SentMail) => `/_dev/mail/${encodeURIComponent(id)}`

  mount('/_dev', async (req) => {
    const users = (await listUsers(backend)).map(publicUser)
    const mail = await backend.mail.list({ limit: 10 })
    const { routes, tasks, recentErrors } = pod
    const background = tasks.map(({ name, seconds }) => ({ name, seconds }))
    if (wantsJson(req))
      return {
        routes,
        users,
        background,
        errors: recentErrors.map(({ stack: _, ...error }) => error),
        mail: mail.map(({ id, to, subject, at }) => ({ id, to, subject, at })),
      }
    const routeRows = routes.map(({ path, methods, feature }) => [
      methods.includes('GET') && !path.includes(':') ? html`<a href="${path}">${path}</a>` : html`<code>${path}</code>`,
      methods.join(' '),
      feature ? 'runtime' : 'yours',
    ])
    const errorRows = recentErrors.map(({ id, at, method, path, body }) => [
      when(at),
      `${method} ${path}`,
      html`${body.error}${body.file && html`<br><code>${body.file}:${body.line}</code>`}`,
      id,
    ])
    return page(
      'Your app',
      html`<h2>Errors</h2>${table(['when', 'request', 'what', 'id'], errorRows, 'None since the start.')}
<h2>Routes</h2>${table(['path', 'methods', 'whose'], routeRows, 'None.')}
<h2>Mail</h2>${table(['when', 'to', 'subject'], mail.map(mailRow), 'None sent yet.')}
<h2>Users</h2>${table(
        ['e-mail', 'confirmed', 'has bought'],
        users.map((user) => [
          user.email,
          user.confirmed ? 'yes' : 'no',
          [...user.subscriptions, ...user.purchased].join(', '),
        ]),
        'None yet.',
      )}
<h2>Background tasks</h2>${table(
        ['name', 'every'],
        background.map(({ name, seconds }) => [name, seconds ? `${seconds} s` : 'once per start']),
        'None.',
      )}`,
    )
  })

  const mailRow = (mail: SentMail) => [when(mail.at), mail.to, html`<a href="${mailPath(mail)}">${mail.subject}</a>`]

  mount('/_dev/mail', async (req) => {
    const mails = await backend.mail.list({ limit: 100 })
    if (wantsJson(req)) return { mails: mails.map((mail) => ({ ...mail, links: linksOf(mail) })) }
    return page('Mail', table(['when', 'to', 'subject'], mails.map(mailRow), 'None sent yet.'))
  })

  const find = async (id: string | undefined) => {
    const mail = id === undefined ? undefined : await backend.mail.get(id)
    if (!mail) throw new TpError('not_found', 'There is no such mail')
    return mail
  }
  mount('/_dev/mail/:id', async (req, { id }) => {
    const mail = await find(id)
    if (wantsJson(req)) return { ...mail, links: linksOf(mail) }
    return page(
      mail.subject,
      html`<p>To ${mail.to}, ${when(mail.at)}</p>
${linksOf(mail).map((link) => html`<p><a href="${link}">${link}</a></p>`)}
<pre>${mail.text}</pre>
${mail.html !== undefined && html`<h2>As HTML</h2><iframe title="The mail as HTML" sandbox src="${mailPath(mail)}/html"></iframe>`}
${(mail.attachments ?? []).map(({ filename, contentType }) => html`<p>Attached: ${filename} (${contentType})</p>`)}`,
    )
  })
  mount('/_dev/mail/:id/html', async (_req, { id }) =>
    reply((await find(id)).html ?? '', {
      headers: {
        'content-security-policy': "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src https: data:",
      },
    }),
  )
}
