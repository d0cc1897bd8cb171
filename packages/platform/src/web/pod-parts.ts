/**
 * The parts of a pod's page that change while one looks: made here for the page and, again and again, for its live
 * stream. Whose key lacks a verb is shown no button that would fail.
 */
import type { Caller } from '../agents.ts'
import { may } from '../call.ts'
import { type DeploymentRow, deployEndpoints, type StepState, statusOf, stepNames } from '../deploys.ts'
import type { LogLine } from '../logs.ts'
import type { Platform } from '../platform.ts'
import { type PodRow, podEndpoints } from '../pods.ts'
import { rollbackEndpoints } from '../rollback.ts'
import { ago, badge, bytes, count, duration } from './format.ts'
import { commands, type Html, html } from './page.ts'

/** A form with one button. `id` keeps the focus where it was when the part is made anew. */
export const act = (
  action: string,
  id: string,
  label: Html | string,
  {
    fields = {},
    name,
    disabled = false,
    kind = '',
  }: { fields?: Record<string, string>; name?: string; disabled?: boolean; kind?: string } = {},
): Html =>
  html`<form method="post" action="${action}" data-live>${Object.entries(fields).map(([field, value]) => html`<input type="hidden" name="${field}" value="${value}">`)}<button id="${id}" ${name && html`aria-label="${name}"`} ${kind && html`class="${kind}"`} ${disabled && html`disabled`}>${label}</button></form>`

function state(platform: Platform, caller: Caller, pod: PodRow): Html {
  const to = `/pods/${pod.name}`
  const manage = may(podEndpoints.restartPod.access, caller)
  return html`${badge(pod.status)}
${
  manage &&
  pod.status === 'running' &&
  html`${act(`${to}/restart`, 'restart', 'Restart')}<details class="confirm"><summary id="stop-summary">Stop…</summary><div><p>Visitors get an error page until it is started again. Data stays.</p>${act(`${to}/stop`, 'stop', 'Stop it', { kind: 'danger' })}</div></details>`
}
${manage && pod.status === 'stopped' && act(`${to}/start`, 'start', 'Start', { kind: 'primary' })}
${platform.driver.refusal && html`<p class="problem">${platform.driver.refusal.message}</p>`}`
}

function replicas(platform: Platform, caller: Caller, pod: PodRow): Html {
  const all = platform.replicas.of(pod.id)
  const healthy = all.filter((each) => each.state === 'healthy').length
  const wanted = pod.status === 'running' ? pod.replicas : 0
  const to = `/pods/${pod.name}/scale`
  const step = (by: number, id: string, label: string, name: string) =>
    act(to, id, label, {
      fields: { replicas: String(pod.replicas + by) },
      name,
      disabled: pod.replicas + by < 1 || pod.replicas + by > 10,
      kind: 'round',
    })
  return html`<div class="scale" role="group" aria-label="Number of processes">
${may(podEndpoints.changePod.access, caller) && step(-1, 'fewer', '−', 'One process less')}
<output><strong>${pod.replicas}</strong> <span class="muted">wanted, ${healthy} healthy</span></output>
${may(podEndpoints.changePod.access, caller) && step(1, 'more', '+', 'One process more')}
</div>
${
  all.length === 0
    ? html`<p class="muted">${wanted === 0 ? 'No process runs.' : 'The processes are being started.'}</p>`
    : html`<div class="scroll" tabindex="0" role="region" aria-label="All processes"><table><thead><tr><th scope="col">Process</th><th scope="col">State</th><th scope="col" class="number">Memory</th><th scope="col" class="number">CPU</th><th scope="col" class="number">Under way</th><th scope="col" class="number">Restarts</th><th scope="col">Up since</th></tr></thead>
<tbody>${all.map(
        (each) =>
          html`<tr><th scope="row"><code>${each.id}</code></th><td>${badge(each.state)}</td><td class="number">${bytes(each.memory)}</td><td class="number">${each.cpu === undefined ? '–' : `${(each.cpu * 100).toFixed(each.cpu < 0.1 ? 1 : 0)} %`}</td><td class="number">${each.inFlight}</td><td class="number">${each.restarts}</td><td>${ago(new Date(each.startedAt))}</td></tr>`,
      )}</tbody></table></div>`
}`
}

interface ShownDeployment
  extends Pick<
    DeploymentRow,
    'id' | 'number' | 'status' | 'steps' | 'error' | 'rollback_of' | 'message' | 'created_at' | 'live_at' | 'ended_at'
  > {
  /** One of the last ten that were live, and not the one that is: a rollback may name it. */
  reachable: boolean
}

function steps(row: ShownDeployment, running: boolean): Html {
  const one = (step: StepState) => {
    const took = step.endedAt ? duration(Date.parse(step.endedAt) - Date.parse(step.startedAt)) : 'running'
    return html`<li class="${step.status}"><span class="dot" aria-hidden="true"></span>${step.name} <span class="muted">${step.status === 'failed' ? `failed after ${took}` : took}</span></li>`
  }
  const known = new Set(row.steps.map(({ name }) => name))
  const coming = running ? stepNames.filter((name) => !known.has(name)) : []
  return html`<ol class="flow" aria-label="Steps of deployment ${row.number}">${row.steps.map(one)}${coming.map((name) => html`<li class="coming"><span class="dot" aria-hidden="true"></span>${name}</li>`)}</ol>`
}

function problem(error: Record<string, unknown>): Html {
  const text = (name: string) =>
    typeof error[name] === 'string' || typeof error[name] === 'number' ? String(error[name]) : ''
  return html`<div class="problem"><p><strong>${text('error')}</strong></p>
${text('file') && html`<p><code>${text('file')}${text('line') && `:${text('line')}`}</code></p>`}${text('hint') && html`<p class="muted">${text('hint')}</p>`}</div>`
}

async function deployments(platform: Platform, caller: Caller, pod: PodRow): Promise<Html> {
  const rows = await platform.db.query<ShownDeployment>(
    `select id, number, status, steps, error, rollback_of, message, created_at, live_at, ended_at,
            live_at is not null and id <> $2 and number > (select max(number) - 10 from platform.deployments where pod = $1 and live_at is not null) as reachable
       from platform.deployments where pod = $1 order by number desc limit 12`,
    [pod.id, pod.deployment ?? ''],
  )
  if (rows.length === 0)
    return html`<div class="empty"><p>Nothing was deployed yet. In the app’s folder:</p>${commands(`npx tidepool deploy --name ${pod.name}`)}</div>`
  const under = rows.some(({ status }) => status === 'queued' || status === 'running')
  const to = `/pods/${pod.name}`
  const row = (each: ShownDeployment, at: number) => {
    const status = statusOf(platform, pod, each)
    const running = status === 'queued' || status === 'running'
    const took = each.live_at ?? each.ended_at
    return html`<li class="deployment">
<div class="line"><strong>#${each.number}</strong> ${badge(status)} <span class="message">${each.message ?? ''}</span><span class="muted">${ago(each.created_at)}${took && html`, ${duration(took.getTime() - each.created_at.getTime())}`}</span>
${running && may(deployEndpoints.cancelDeployment.access, caller) && act(`${to}/cancel`, `cancel-${each.id}`, 'Cancel', { fields: { deployment: each.id }, name: `Cancel deployment ${each.number}` })}
${each.reachable && !under && may(rollbackEndpoints.rollback.access, caller) && act(`${to}/rollback`, `rollback-${each.id}`, 'Roll back', { fields: { deployment: each.id }, name: `Roll back to deployment ${each.number}` })}</div>
${(running || at === 0 || status === 'failed') && each.steps.length + (running ? 1 : 0) > 0 && steps(each, running)}
${each.error && problem(each.error)}</li>`
  }
  return html`<ol class="deployments">${rows.map(row)}</ol>`
}

function metrics(platform: Platform, pod: PodRow): Html {
  const { hour, minutes } = platform.traffic.of(pod.id)
  const most = Math.max(1, ...minutes.map(({ requests }) => requests))
  const height = (requests: number) => (requests === 0 ? 0 : Math.max(1.5, (requests / most) * 46))
  const bars = minutes.map(({ requests, errors }, at) => {
    const tall = height(requests)
    const bad = requests === 0 ? 0 : (errors / requests) * tall
    return html`${tall > 0 && html`<rect x="${at * 4}" y="${(48 - tall).toFixed(1)}" width="3" height="${(tall - bad).toFixed(1)}"/>`}${bad > 0 && html`<rect class="bad" x="${at * 4}" y="${(48 - bad).toFixed(1)}" width="3" height="${bad.toFixed(1)}"/>`}`
  })
  return html`<dl class="figures"><div><dt>Requests</dt><dd id="requests">${count(hour.requests)}</dd></div><div><dt>Errors</dt><dd ${hour.errors > 0 && html`class="bad"`}>${count(hour.errors)}</dd></div><div><dt>Half within</dt><dd>${duration(hour.p50Ms)}</dd></div><div><dt>99 % within</dt><dd>${duration(hour.p99Ms)}</dd></div></dl>
<svg class="chart" viewBox="0 0 240 48" preserveAspectRatio="none" role="img" aria-label="Requests by the minute, last hour: ${count(hour.requests)} in all, ${count(most)} in the busiest minute at most">${bars}<line x1="0" y1="47.75" x2="240" y2="47.75"/></svg>
<p class="muted small">Last hour, by the minute, as the gateway counts; times are until the answer began.${hour.requests === 0 && ' No visitor came yet.'}</p>`
}

/** All parts, by the id of the element that they fill. */
export async function podParts(platform: Platform, caller: Caller, pod: PodRow): Promise<Record<string, Html>> {
  return {
    state: state(platform, caller, pod),
    replicas: replicas(platform, caller, pod),
    metrics: metrics(platform, pod),
    deployments: await deployments(platform, caller, pod),
  }
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: colours of terminals are such characters
const colours = /\u001b\[[0-9;]*[A-Za-z]/g

/** A line of the log. */
export function logLine({ at, level, replica, message, file, line }: LogLine): Html {
  const place = typeof file === 'string' ? `${file}${typeof line === 'number' ? `:${line}` : ''}` : ''
  return html`<div class="${level}"><time datetime="${new Date(at).toISOString()}">${new Date(at).toISOString().slice(11, 19)}</time> <span class="muted">${replica}</span> <span>${message.replace(colours, '')}${place && html` <code>${place}</code>`}</span></div>`
}
