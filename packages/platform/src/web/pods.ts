// The pods of who is signed in.
import { allow } from '../call.ts'
import { type PodRow, podEndpoints, toPod } from '../pods.ts'
import { badge, count } from './format.ts'
import { commands, type Html, html } from './page.ts'
import type { Page, Visit } from './visit.ts'

/** What somebody whose address is not confirmed may do next. */
const unverified: Html = html`<div class="narrow"><h1>Confirm your address first</h1>
<p>A link was mailed to you, or printed by <code>tidepool register</code> where there is no mail server.</p>
${commands('npx tidepool verify link_…')}</div>`

function empty({ platform }: Visit): Html {
  const { publicUrl } = platform.settings
  const url = publicUrl === 'http://localhost:8080' ? '' : ` --url ${publicUrl}`
  return html`<div class="empty"><h2>No pods yet</h2>
<p>A pod is a folder with a <code>main.ts</code>, put live. In a terminal where you are logged in:</p>
${commands(`npx tidepool${url} init my-app --template blog\ncd my-app && npx tidepool deploy`)}
<p>It appears here as soon as it is created. The <a href="/quickstart">quickstart</a> goes through it step by step.</p></div>`
}

export const podListPages: readonly Page[] = [
  {
    method: 'GET',
    path: '/pods',
    signedIn: true,
    async handler(visit) {
      const { platform, caller, show, go } = visit
      if (caller.kind === 'operator') return go('/admin')
      if (!caller.verified) return show('Pods', unverified, { here: '/pods', status: 403 })
      allow(podEndpoints.listPods.access, caller)
      const rows = await platform.db.query<PodRow>(
        `select * from platform.pods where agent = $1 and ($2::text[] is null or id = any ($2)) and status <> 'deleted'
          order by created_at desc, id`,
        [caller.agent, caller.pods],
      )
      const line = (row: PodRow) => {
        const { name, url, status, replicas } = toPod(platform, row)
        const healthy = platform.replicas.of(row.id).filter(({ state }) => state === 'healthy').length
        const { requests, errors } = platform.traffic.of(row.id).hour
        return html`<tr><th scope="row"><a href="/pods/${name}">${name}</a></th><td>${badge(status)}</td>
<td class="number">${healthy} of ${status === 'running' ? replicas : 0}</td><td class="number">${count(requests)}</td><td class="number">${count(errors)}</td>
<td><a href="${url}" rel="noreferrer">${url.replace(/^https?:\/\//, '')}</a></td></tr>`
      }
      show(
        'Pods',
        html`<h1>Pods</h1>
${
  rows.length === 0
    ? empty(visit)
    : html`<div class="scroll" tabindex="0" role="region" aria-label="Pods"><table><thead><tr><th scope="col">Name</th><th scope="col">State</th><th scope="col" class="number">Healthy</th><th scope="col" class="number">Requests, last hour</th><th scope="col" class="number">Errors</th><th scope="col">Address</th></tr></thead><tbody>${rows.map(line)}</tbody></table></div>`
}`,
        { here: '/pods' },
      )
    },
  },
]
