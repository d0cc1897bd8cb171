// The operator's pages: every agent and pod with what it uses, the machine, the mails. Only with the operator's key.
import { agentEndpoints } from '../agents.ts'
import { allow, invoke } from '../call.ts'
import { limits } from '../docs.ts'
import type { Endpoint } from '../endpoint.ts'
import { PlatformError } from '../errors.ts'
import { listAgents, listAllPods, machineState, operatorEndpoints } from '../operator.ts'
import { ago, badge, bytes, count, duration, words } from './format.ts'
import { commands, type Html, html } from './page.ts'
import { act } from './pod-parts.ts'
import type { Page, Visit } from './visit.ts'

const shown = 500
const mailsShown = 50
const here = '/admin'

type Agents = Awaited<ReturnType<typeof listAgents>>
type Pods = Awaited<ReturnType<typeof listAllPods>>
type Machine = Awaited<ReturnType<typeof machineState>>

function table(label: string, heads: readonly (string | Html)[], rows: readonly Html[]): Html {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="${label}"><table><thead><tr>${heads.map((head) => (typeof head === 'string' ? html`<th scope="col">${head}</th>` : head))}</tr></thead><tbody>${rows}</tbody></table></div>`
}
const number = (head: string) => html`<th scope="col" class="number">${head}</th>`

const tabs = (current: string) =>
  html`<nav class="tabs" aria-label="Admin">${[
    ['/admin', 'Overview'],
    ['/admin/mails', 'Mail'],
  ].map(([path, name]) => html`<a href="${path}" ${path === current && html`aria-current="page"`}>${name}</a>`)}</nav>`

function machineView(state: Machine): Html {
  const facts: [string, string | Html][] = [
    ['Pods run in', state.isolation],
    ['Processes', count(state.processes)],
    ['Load', `${state.load.map((each) => each.toFixed(2)).join(', ')} on ${state.cores} cores`],
    [
      'Memory free',
      `${bytes(state.freeMemoryBytes)} of ${bytes(state.memoryBytes)}; the platform itself ${bytes(state.ownMemoryBytes)}`,
    ],
    [
      'Disk free',
      state.diskBytes === null ? 'not known' : `${bytes(state.freeDiskBytes)} of ${bytes(state.diskBytes)}`,
    ],
    ['Database', `${bytes(state.databaseBytes)}, Postgres ${state.postgres}`],
    [
      'Mail',
      state.mailDelivered
        ? 'by a mail server'
        : html`kept here, no mail server is set: <a href="/admin/mails">read them</a>`,
    ],
    ['Up for', `${duration(state.uptimeSeconds * 1000)}, Node ${state.node}`],
  ]
  return html`<dl class="table">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`
}

function agentsView(agents: Agents): Html {
  if (agents.length === 0)
    return html`<div class="empty"><p>Nobody has registered yet.</p>${commands('npx tidepool register --email you@example.com')}</div>`
  return table(
    'All agents',
    ['Address', 'Id', 'State', number('Pods'), number('Keys'), 'Registered', html`<td></td>`],
    agents.map(
      ({ id, email, verified, pods, keys, createdAt }) =>
        html`<tr><th scope="row">${email}</th><td><code>${id}</code></td><td>${badge(verified ? 'confirmed' : 'unconfirmed')}</td><td class="number">${pods}</td><td class="number">${keys}</td><td>${ago(createdAt)}</td><td>${!verified && act(`/admin/agents/${id}/activate`, `confirm-${id}`, 'Confirm', { name: `Confirm ${email} without mail` })}</td></tr>`,
    ),
  )
}

function podsView(pods: Pods): Html {
  if (pods.length === 0) return html`<p class="muted">No pod was created yet.</p>`
  return table(
    'Pods of all agents',
    [
      'Name',
      'Agent',
      'State',
      number('Healthy'),
      number('Memory'),
      number('CPU'),
      number('Requests, 1 h'),
      number('Errors, 1 h'),
      number('Restarts'),
      number('Data'),
      html`<td></td>`,
    ],
    pods.map(
      ({ pod, agent, healthy, memoryBytes, cpu, requestsLastHour, errorsLastHour, restarts, dbBytes, fileBytes }) =>
        html`<tr><th scope="row">${pod.status === 'deleted' ? pod.name : html`<a href="${pod.url}" rel="noreferrer">${pod.name}</a>`}</th><td>${agent.email}</td><td>${badge(pod.status)}</td><td class="number">${healthy} of ${pod.status === 'running' ? pod.replicas : 0}</td><td class="number">${bytes(memoryBytes)}</td><td class="number">${(cpu * 100).toFixed(1)} %</td><td class="number">${count(requestsLastHour)}</td><td class="number">${count(errorsLastHour)}</td><td class="number">${restarts}</td><td class="number">${bytes(dbBytes + fileBytes)}</td><td>${pod.status === 'running' && act(`/admin/pods/${pod.id}/kill`, `kill-${pod.id}`, 'Stop', { name: `Stop ${pod.name}` })}${pod.status === 'stopped' && act(`/admin/pods/${pod.id}/activate`, `activate-${pod.id}`, 'Start', { name: `Start ${pod.name}` })}</td></tr>`,
    ),
  )
}

async function overview({ platform, caller, show }: Visit): Promise<void> {
  allow('operator', caller)
  const [agents, pods, machine] = await Promise.all([
    listAgents(platform.db, shown),
    listAllPods(platform, shown),
    machineState(platform),
  ])
  show(
    'Admin',
    html`<h1>Admin</h1>${tabs('/admin')}
<section aria-labelledby="machine"><h2 id="machine">Machine</h2>${machineView(machine)}</section>
<section aria-labelledby="agents"><h2 id="agents">Agents</h2>${agentsView(agents)}</section>
<section aria-labelledby="pods"><h2 id="pods">Pods</h2>${podsView(pods)}</section>
<section aria-labelledby="limits"><h2 id="limits">Limits</h2><dl class="table">${Object.entries(limits).map(([what, most]) => html`<div><dt>${words(what)}</dt><dd>${most}</dd></div>`)}</dl></section>`,
    { here },
  )
}

async function mails({ platform, caller, query, show }: Visit): Promise<void> {
  allow(agentEndpoints.mails.access, caller)
  const before = query.get('before') ?? undefined
  const found = await platform.mailer.list(undefined, { limit: mailsShown, ...(before !== undefined && { before }) })
  const rows = found.map(
    ({ id, to, subject, pod, at, status }) =>
      html`<tr><th scope="row"><a href="/admin/mails/${id}">${subject || '(no subject)'}</a></th><td>${String(to)}</td><td>${pod === null ? 'the platform' : html`<code>${pod}</code>`}</td><td>${badge(status)}</td><td>${ago(new Date(at))}</td></tr>`,
  )
  const oldest = found.length === mailsShown ? found.at(-1)?.id : undefined
  show(
    'Mail',
    html`<h1>Mail</h1>${tabs('/admin/mails')}
<p class="muted">${platform.mailer.delivers ? 'Sent by the mail server of SMTP_URL, and kept here.' : 'No mail server is set (SMTP_URL): mails of the platform and of all pods are kept here and go nowhere.'}</p>
${rows.length === 0 ? html`<div class="empty"><h2>No mail yet</h2><p>Registering sends the first:</p>${commands('npx tidepool register --email you@example.com')}</div>` : table('Mails, newest first', ['Subject', 'To', 'From', 'State', 'When'], rows)}
${oldest && html`<p><a href="/admin/mails?before=${encodeURIComponent(oldest)}">Older</a></p>`}`,
    { here },
  )
}

async function mail({ platform, caller, params, show }: Visit): Promise<void> {
  allow(agentEndpoints.mails.access, caller)
  const found = await platform.mailer.any(decodeURIComponent(params.mail ?? ''))
  if (!found) throw new PlatformError('not_found', 'There is no such mail.')
  const { subject, to, text, html: markup, attachments = [], at, status } = found
  show(
    'Mail',
    html`<p class="crumb"><a href="/admin/mails">Mail</a></p><h1>${subject || '(no subject)'}</h1>
<p>To ${String(to)} ${badge(status)} ${ago(new Date(at))}</p>
<pre class="mail" tabindex="0" role="region" aria-label="Text of the mail">${text ?? ''}</pre>
${markup && html`<details><summary>HTML, as text</summary><pre class="mail" tabindex="0" role="region" aria-label="HTML of the mail">${markup}</pre></details>`}
${attachments.length > 0 && html`<p>Attached: ${attachments.map(({ filename }) => filename).join(', ')}</p>`}`,
    { here },
  )
}

/** Posts to an operator's endpoint, and back to the overview. */
const post =
  (endpoint: Endpoint) =>
  async ({ platform, caller, params, req, res, signal, go }: Visit): Promise<void> => {
    await invoke(platform, caller, endpoint, { params, query: {}, body: async () => ({}), req, res, signal })
    go('/admin')
  }

export const adminPages: readonly Page[] = [
  { method: 'GET', path: '/admin', signedIn: true, handler: overview },
  { method: 'GET', path: '/admin/mails', signedIn: true, handler: mails },
  { method: 'GET', path: '/admin/mails/:mail', signedIn: true, handler: mail },
  {
    method: 'POST',
    path: '/admin/agents/:agent/activate',
    signedIn: true,
    handler: post(agentEndpoints.activateAgent),
  },
  { method: 'POST', path: '/admin/pods/:id/kill', signedIn: true, handler: post(operatorEndpoints.operatorKillPod) },
  {
    method: 'POST',
    path: '/admin/pods/:id/activate',
    signedIn: true,
    handler: post(operatorEndpoints.operatorActivatePod),
  },
]
