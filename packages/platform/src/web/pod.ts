/**
 * A pod's page: what runs, what was deployed, what it printed, who visits; the buttons that its owner's key allows; and
 * the stream that keeps it as things are. Everything works without script too: forms post, and come back here.
 */
import { allow, invoke } from '../call.ts'
import { deployEndpoints } from '../deploys.ts'
import type { Endpoint } from '../endpoint.ts'
import { PlatformError } from '../errors.ts'
import type { LogLine } from '../logs.ts'
import { findPod, podEndpoints, podUrl } from '../pods.ts'
import { rollbackEndpoints } from '../rollback.ts'
import { identifySession } from '../sessions.ts'
import { openEvents } from '../sse.ts'
import { commands, html } from './page.ts'
import { logLine, podParts } from './pod-parts.ts'
import type { Page, Visit } from './visit.ts'

const shownLines = 200
const againMs = 1_000
const linesMs = 100

async function show({ platform, caller, params, show }: Visit): Promise<void> {
  allow(podEndpoints.getPod.access, caller)
  const pod = await findPod(platform.db, caller, params.pod ?? '')
  const parts = await podParts(platform, caller, pod)
  const lines = await platform.logs.tail(pod.id, { limit: shownLines })
  const url = podUrl(platform, pod.name)
  show(
    pod.name,
    html`<div class="pod" data-stream="/pods/${pod.name}/live">
<p class="crumb"><a href="/pods">Pods</a></p>
<div class="title"><h1>${pod.name}</h1><div id="state" class="state">${parts.state}</div><span class="live" id="live" role="status"></span></div>
<p><a href="${url}" rel="noreferrer">${url}</a> <span class="muted">${pod.environment}</span></p>
<p id="said" class="problem" role="alert" hidden></p>
<div class="columns"><div>
<section aria-labelledby="h-deployments"><h2 id="h-deployments">Deployments</h2><div id="deployments">${parts.deployments}</div></section>
</div><div>
<section aria-labelledby="h-replicas"><h2 id="h-replicas">Processes</h2><div id="replicas">${parts.replicas}</div></section>
<section aria-labelledby="h-metrics"><h2 id="h-metrics">Requests</h2><div id="metrics">${parts.metrics}</div></section>
</div></div>
<section aria-labelledby="h-log"><h2 id="h-log">Log <span class="muted small">times are UTC</span></h2>
<div id="log" class="log" role="log" aria-label="Log of ${pod.name}" tabindex="0">${lines.map(logLine)}</div>
<p class="muted small" id="log-empty" ${lines.length > 0 && html`hidden`}>Nothing was printed yet. <code>console.log</code> in the app writes here.</p>
<details><summary>The same in a terminal</summary>${commands(`npx tidepool logs --pod ${pod.name} -f\nnpx tidepool status --pod ${pod.name}`)}</details></section>
</div>`,
    { here: '/pods' },
  )
}

/** What changes on the page, as it changes: `{parts: {id: markup}}`, `{log: markup}` and `{lines: markup}`. */
async function live({ platform, caller, cookie, params, res, signal }: Visit): Promise<void> {
  allow(podEndpoints.getPod.access, caller)
  const { id } = await findPod(platform.db, caller, params.pod ?? '')
  const events = openEvents(res, signal)
  const send = (data: object) => events.send(JSON.stringify(data))

  let fresh: LogLine[] = []
  let timer: NodeJS.Timeout | undefined
  const flush = () => {
    timer = undefined
    send({ lines: fresh.map((line) => logLine(line).toString()).join('') })
    fresh = []
  }
  let wake = () => {}
  let changed = true
  const stops = [
    platform.progress.follow(id, () => {
      changed = true
      wake()
    }),
  ]
  try {
    // Nothing is printed between the two: what is written while the file is read is heard as well.
    const early: LogLine[] = []
    let hear = (line: LogLine) => void early.push(line)
    stops.push(platform.logs.follow(id, (line) => hear(line)))
    const known = await platform.logs.tail(id, { limit: shownLines })
    const last = known.at(-1)
    const seen = new Set(known.filter(({ at }) => at === last?.at).map((line) => JSON.stringify(line)))
    const missed = early.filter((line) => line.at >= (last?.at ?? 0) && !seen.has(JSON.stringify(line)))
    send({ log: [...known, ...missed].map((line) => logLine(line).toString()).join('') })
    hear = (line) => {
      fresh.push(line)
      if (fresh.length > shownLines) fresh.shift()
      timer ??= setTimeout(flush, linesMs)
    }
    const sent = new Map<string, string>()
    while (!signal.aborted) {
      changed = false
      // A key that was revoked, a pod that was deleted: the page is loaded anew and says so.
      const now = await identifySession(platform, cookie)
      const pod = now.key === caller.key && (await findPod(platform.db, now, id).catch(() => undefined))
      if (!pod) {
        send({ over: true })
        break
      }
      const parts: Record<string, string> = {}
      for (const [name, part] of Object.entries(await podParts(platform, now, pod))) {
        const text = part.toString()
        if (sent.get(name) !== text) parts[name] = text
        sent.set(name, text)
      }
      if (Object.keys(parts).length > 0) send({ parts })
      if (!changed)
        await new Promise<void>((resolve) => {
          const pause = setTimeout(resolve, againMs)
          wake = () => {
            clearTimeout(pause)
            resolve()
          }
          signal.addEventListener('abort', wake, { once: true })
        })
      signal.removeEventListener('abort', wake)
    }
  } finally {
    clearTimeout(timer)
    for (const stop of stops) stop()
    events.end()
  }
}

/** What a button of the page does: the endpoint, and the body that the form makes. */
const actions: Record<
  string,
  { endpoint: Endpoint; body?: (form: URLSearchParams) => object; params?: readonly string[] }
> = {
  scale: { endpoint: podEndpoints.changePod, body: (form) => ({ replicas: Number(form.get('replicas')) }) },
  restart: { endpoint: podEndpoints.restartPod },
  stop: { endpoint: podEndpoints.killPod },
  start: { endpoint: podEndpoints.activatePod },
  rollback: { endpoint: rollbackEndpoints.rollback, body: (form) => ({ deployment: form.get('deployment') }) },
  cancel: { endpoint: deployEndpoints.cancelDeployment, params: ['deployment'] },
}

async function act({ platform, caller, params, form, req, res, signal, go }: Visit): Promise<void> {
  const name = params.action ?? ''
  const action = Object.hasOwn(actions, name) ? actions[name] : undefined
  if (!action) throw new PlatformError('no_route', 'There is no such action.')
  const { pod = '' } = params
  const named = Object.fromEntries((action.params ?? []).map((each) => [each, form.get(each) ?? '']))
  await invoke(platform, caller, action.endpoint, {
    params: { pod, ...named },
    query: {},
    body: async () => action.body?.(form) ?? {},
    req,
    res,
    signal,
  })
  go(`/pods/${encodeURIComponent(pod)}`)
}

export const podPages: readonly Page[] = [
  { method: 'GET', path: '/pods/:pod', signedIn: true, handler: show },
  { method: 'GET', path: '/pods/:pod/live', signedIn: true, handler: live },
  { method: 'POST', path: '/pods/:pod/:action', signedIn: true, handler: act },
]
