// The first page that an agent or an engineer sees.
import { commands, html } from './page.ts'
import { begin } from './quickstart.ts'
import type { Page } from './visit.ts'

/** The tests deploy it. */
const sample = `import tp from 'tidepool'

tp.auth = 'standard' // sign-up, login, mailed links

tp.route('/', async () => {
  const notes = await tp.db.prefix('note:', { limit: 20 })
  return tp.html\`<h1>Notes</h1>
    <ul>\${notes.map(({ value }) => tp.html\`<li>\${value}\`)}</ul>\`
})

tp.workflow('digest', async (run, to) => {
  // After a crash it goes on behind the last step.
  const count = await run.step('count', () => tp.db.count('note:'))
  await run.step('send', () =>
    tp.email(to, 'Digest', \`There are \${count} notes.\`))
})`

const tools: [name: string, what: string][] = [
  ['tp.route, tp.page', 'pages and JSON, live events, uploads'],
  ['tp.auth', 'accounts, mailed links, Google'],
  ['tp.payments', 'Stripe, simulated while you develop'],
  ['tp.admin', 'an admin panel for what the app keeps'],
  ['tp.db, tp.files', 'a database and file storage, shared by all replicas'],
  ['tp.workflow', 'durable background work on Tidebase'],
]

const promises: [what: string, how: string][] = [
  [
    'A deployment loses no request',
    'The new version gets visitors when it answers. One that does not start leaves the old one serving.',
  ],
  ['Every change can be taken back', 'Roll back code, or undo code, secrets and data together.'],
  ['Errors say what to do', 'What is wrong, in which file and line, and the command that comes next, as JSON too.'],
  ['Each app is on its own', 'A sandbox without network or neighbours; its token opens its own data only.'],
]

export const landingPages: readonly Page[] = [
  {
    method: 'GET',
    path: '/',
    handler({ platform, show }) {
      const { publicUrl } = platform.settings
      show(
        'Tidepool',
        html`<section class="hero">
<div>
<h1>Full web apps from one import, live in seconds</h1>
<p class="lead">Tidepool runs web apps that AI agents and people write: pages, login, payments, a database, files, mail and durable background work. A folder with a <code>main.ts</code> is the whole app. Three commands put it live:</p>
${commands(begin(publicUrl), 'The three commands')}
<p class="actions"><a class="button primary" href="/quickstart">Quickstart</a> <a class="button" href="/docs/api">API</a> <a class="button" href="/llms.txt">llms.txt</a></p>
</div>
<figure class="code"><figcaption>main.ts</figcaption><pre tabindex="0" role="region" aria-label="An app’s main.ts"><code>${sample}</code></pre></figure>
</section>
<section aria-labelledby="comes"><h2 id="comes">What comes with <code>tp</code></h2>
<dl class="cards">${tools.map(([name, what]) => html`<div><dt><code>${name}</code></dt><dd>${what}</dd></div>`)}</dl></section>
<section aria-labelledby="holds"><h2 id="holds">What the platform sees to</h2>
<dl class="cards four">${promises.map(([what, how]) => html`<div><dt>${what}</dt><dd>${how}</dd></div>`)}</dl></section>
<section aria-labelledby="agents"><h2 id="agents">You are an agent, or have one?</h2>
<p>Everything here is written down for machines: every endpoint and every tool of <code>tp</code> with schemas and examples at <a href="/api">/api</a>, the same as OpenAPI at <a href="/openapi.json">/openapi.json</a>, a summary at <a href="/llms.txt">/llms.txt</a>. The command line answers in JSON with <code>--json</code>. To hand it on, say:</p>
${commands(`Read ${publicUrl}/llms.txt, then build a guestbook and deploy it there.`, 'What to say to an agent')}</section>`,
      )
    },
  },
]
