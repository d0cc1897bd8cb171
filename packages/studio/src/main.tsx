// Studio: what people look at. The shell around the views, and who may see them.
import './style.css'
import './shell.css'
import './runs.css'
import './run.css'
import { render } from 'preact'
import { useEffect } from 'preact/hooks'
import { LocationProvider, Route, Router, useLocation } from 'preact-iso'
import { type Callable, can } from './api.ts'
import { follow, liveness } from './feed.ts'
import { announcement } from './parts/basics.tsx'
import { moveBetweenRows } from './parts/virtual.tsx'
import { forgetKey, key, me } from './session.ts'
import { Inbox, pendingGates, useInboxCount } from './views/inbox.tsx'
import { Keys } from './views/keys.tsx'
import { Login } from './views/login.tsx'
import { Queues } from './views/queues.tsx'
import { RunPage } from './views/run.tsx'
import { Runs } from './views/runs.tsx'
import { Schedules } from './views/schedules.tsx'
import { UsagePage } from './views/usage.tsx'
import { Workers } from './views/workers.tsx'

const places: { path: string; name: string; needs: Callable }[] = [
  { path: '/ui/runs', name: 'Runs', needs: 'listRuns' },
  { path: '/ui/inbox', name: 'Inbox', needs: 'listGates' },
  { path: '/ui/queues', name: 'Queues', needs: 'listQueues' },
  { path: '/ui/schedules', name: 'Schedules', needs: 'listSchedules' },
  { path: '/ui/usage', name: 'Usage', needs: 'sumUsage' },
  { path: '/ui/workers', name: 'Workers', needs: 'listWorkers' },
  { path: '/ui/keys', name: 'Keys', needs: 'listKeys' },
]

const signs = {
  connecting: 'Connecting…',
  live: 'Live',
  away: 'Not live: the server is away. What you see may be old.',
  never: 'Every 5 s',
}

function Navigation() {
  const { path } = useLocation()
  const here = path === '/' || path === '/ui' ? '/ui/runs' : path
  useInboxCount(can('listGates'))
  const waiting = pendingGates.value
  return (
    <nav class="main-nav" aria-label="Main">
      <a class="brand" href="/ui/runs">
        Tidebase
      </a>
      <ul>
        {places
          .filter(({ needs }) => can(needs))
          .map(({ path: to, name }) => (
            <li key={to}>
              <a href={to} aria-current={here.startsWith(to) ? 'page' : undefined}>
                {name}
                {name === 'Inbox' && waiting > 0 && <span class="badge">{waiting > 99 ? '99+' : waiting}</span>}
              </a>
            </li>
          ))}
      </ul>
      <div class="who">
        <p class={`live ${liveness.value}`} role="status" title={signs[liveness.value]}>
          <span class="dot" aria-hidden="true" />
          {signs[liveness.value]}
        </p>
        <p title={`Project ${me.value?.project}`}>
          {me.value?.project}
          {!me.value?.keyless && <span class="muted"> · {me.value?.scope}</span>}
        </p>
        {key.value !== null && (
          <button type="button" class="quiet" onClick={forgetKey}>
            Log out
          </button>
        )}
      </div>
    </nav>
  )
}

function NotHere() {
  return (
    <section class="empty">
      <h1>There is nothing here</h1>
      <p>
        The address names no page. <a href="/ui/runs">All runs</a>
      </p>
    </section>
  )
}

function keyboard(event: KeyboardEvent): void {
  moveBetweenRows(event)
  const typing = event.target instanceof HTMLElement && /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)
  if (event.key !== '/' || typing || event.ctrlKey || event.metaKey) return
  const search = document.querySelector<HTMLInputElement>('input[type="search"]')
  if (!search) return
  event.preventDefault()
  search.focus()
}

function Shell() {
  useEffect(() => {
    const stop = new AbortController()
    void follow(stop.signal)
    document.addEventListener('keydown', keyboard, { signal: stop.signal })
    return () => stop.abort()
  }, [])
  return (
    <div class="shell">
      <a class="skip" href="#content">
        To the content
      </a>
      <Navigation />
      <main id="content" tabIndex={-1}>
        <Router>
          <Route path="/" component={Runs} />
          <Route path="/ui" component={Runs} />
          <Route path="/ui/runs" component={Runs} />
          <Route path="/ui/runs/:id" component={RunPage} />
          <Route path="/ui/inbox" component={Inbox} />
          <Route path="/ui/queues" component={Queues} />
          <Route path="/ui/schedules" component={Schedules} />
          <Route path="/ui/usage" component={UsagePage} />
          <Route path="/ui/workers" component={Workers} />
          <Route path="/ui/keys" component={Keys} />
          <Route default component={NotHere} />
        </Router>
      </main>
      <p class="unseen" role="status">
        {announcement.value}
      </p>
    </div>
  )
}

function App() {
  return me.value === null ? <Login /> : <Shell />
}

const root = document.getElementById('app')
if (root)
  render(
    <LocationProvider scope={/^\/(ui(\/.*)?)?$/}>
      <App />
    </LocationProvider>,
    root,
  )
