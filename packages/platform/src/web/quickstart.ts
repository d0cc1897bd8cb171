// From nothing to a live app. The tests run the commands as they stand on the page.
import { html } from './page.ts'
import type { Page } from './visit.ts'

/** The command line, told which platform is meant unless it is the one that it looks for by itself. */
const program = (url: string) => `npx tidepool${url === 'http://localhost:8080' ? '' : ` --url ${url}`}`

/** The three commands of the first page. @param url where this platform is */
export const begin = (url: string): string =>
  [
    `${program(url)} register --email you@example.com`,
    'npx tidepool verify link_…',
    'npx tidepool init my-app && cd my-app && npx tidepool deploy',
  ].join('\n')

interface Step {
  title: string
  says: string
  command: string
  note?: string
}

const steps = (url: string, local: boolean): Step[] => [
  {
    title: 'Register',
    says: 'An e-mail address is all it takes. The key that you get is kept in ~/.config/tidepool/, for you only.',
    command: `${program(url)} register --email you@example.com`,
    note: local
      ? 'A platform on this machine without a mail server prints the link that it would mail.'
      : 'A link is mailed to you.',
  },
  {
    title: 'Confirm your address',
    says: 'With the link’s token, or by opening the link.',
    command: 'npx tidepool verify link_…',
  },
  {
    title: 'Make an app',
    says: 'A folder with a main.ts. There are templates: --template blog, saas, paywall, chat.',
    command: 'npx tidepool init my-app',
    note: 'npx tidepool dev in that folder runs it on http://localhost:8000 and starts it anew with each change.',
  },
  {
    title: 'Put it live',
    says: 'The command ends when visitors get the new version, or with the file and line that keeps it from starting.',
    command: 'cd my-app && npx tidepool deploy',
  },
  {
    title: 'Look at it',
    says: 'Its state and what it printed; logs -f goes on.',
    command: 'npx tidepool status && npx tidepool logs',
  },
  {
    title: 'Give it more processes',
    says: 'They share database, sessions and files; no request is lost meanwhile.',
    command: 'npx tidepool scale 2',
  },
  {
    title: 'Change it, and take it back',
    says: 'Each deployment can be gone back to; undo brings back data too.',
    command: 'npx tidepool deploy && npx tidepool rollback',
  },
]

/** Where the app of the quickstart answers. */
const appUrl = (publicUrl: string, domain: string) => {
  const { protocol, port } = new URL(publicUrl)
  return `${protocol}//my-app.${domain}${port ? `:${port}` : ''}`
}

export const quickstartPages: readonly Page[] = [
  {
    method: 'GET',
    path: '/quickstart',
    handler({ platform, show }) {
      const { publicUrl, local, domain } = platform.settings
      show(
        'Quickstart',
        html`<div class="prose">
<h1>Quickstart</h1>
<p class="lead">From nothing to an app at <code>${appUrl(publicUrl, domain)}</code>. You need Node 20.19 or newer.</p>
<ol class="steps">${steps(publicUrl, local).map(
          ({ title, says, command, note }, at) => html`<li>
<h2 id="step-${at + 1}">${title}</h2>
<p>${says}</p>
<div class="command"><pre tabindex="0" role="region" aria-label="Commands: ${title}"><code data-step="${at + 1}">${command}</code></pre></div>
${note && html`<p class="muted">${note}</p>`}
</li>`,
        )}</ol>
<h2>And then</h2>
<ul class="plain">
<li><a href="/sign-in">Sign in</a> with your key: see deployments as they happen, logs, requests; change the number of processes.</li>
<li><a href="/docs/api">The API</a>: everything that the command line does, by HTTP. Make a narrower key for another agent with <a href="/docs/api#addKey">POST /api/keys</a>.</li>
<li>For machines: <a href="/api">/api</a>, <a href="/openapi.json">/openapi.json</a>, <a href="/llms.txt">/llms.txt</a>.</li>
</ul>
</div>`,
        { here: '/quickstart' },
      )
    },
  },
]
