// Takes the pictures of Studio in docs/: starts the server as it is shipped on a database of its own, lets programs do
// real work through the SDK, and looks at it with Chromium. `npm run screenshots`, optionally with another folder.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { type RunContext, Tidebase } from '@tidebase/sdk'
import type { Page } from 'playwright-core'
import { launch } from '../test/e2e/browser.ts'
import { crashAndResume } from '../test/e2e/research.ts'

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url))
const folder = process.argv[2] ?? path('../docs')
/** A picture in the docs is read by everybody who clones the repository, bytes. */
const largest = 150_000

const data = await mkdtemp(join(tmpdir(), 'tidebase-screenshots-'))
const server = spawn(
  process.execPath,
  [path('../packages/tidebase/bin/tidebase.mjs'), 'start', '--json', '--data', data],
  {
    env: {
      ...process.env,
      DATABASE_URL: '',
      TIDEBASE_API_KEY: '',
      TIDEBASE_LEASE_MS: '2000',
      LOG_LEVEL: 'warn',
      PORT: '0',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  },
)
const { value: said } = await createInterface({ input: server.stdout })[Symbol.asyncIterator]().next()
const { url }: { url: string } = JSON.parse(String(said))
const tide = new Tidebase({ url })

/** A piece of work that takes its time. */
const work = async <T>(ms: number, value: T): Promise<T> => {
  await sleep(ms)
  return value
}

/** An agent with children, retries, a fan-out, state and usage. */
async function answerTickets(ticket: number): Promise<string> {
  const { id } = await tide.runs.create('support-agent', {
    input: { ticket, customer: 'acme' },
    metadata: { tenant: 'acme', channel: 'mail' },
    budget: { costUsd: 1 },
  })
  await tide.run('support-agent', { runId: id }, async (run) => {
    const ask = (name: string, ms: number, tokens: number) =>
      run.step(name, async () => {
        await run.usage({
          model: name === 'draft' ? 'large' : 'small',
          inputTokens: tokens,
          outputTokens: tokens / 4,
          costUsd: tokens / 90_000,
        })
        return work(ms, { text: `${name} of ticket ${ticket}` })
      })
    const read = { sideEffects: ['read'], input: { ticket } }
    await run.step('read ticket', read, () => work(120, { subject: 'The export is empty', priority: 'high', mails: 3 }))
    await run.state.set({ phase: 'reading', customer: { name: 'acme', plan: 'team' }, notes: [] })
    await ask('classify', 180, 1_800)
    await run.state.patch({ phase: 'searching', topic: 'export', notes: ['reproducible'] })
    await run.fanout('search', ['docs', 'tickets', 'code', 'chat', 'logs', 'wiki'], (source, { index }) =>
      work(90 + index * 35, { source, hits: index * 3 }),
    )
    await run.child('check logs', async (child) => {
      await child.step('fetch', () => work(120, { lines: 1_200 }))
      await child.step('summarise', () => work(160, { cause: 'an empty filter' }))
    })
    let tries = 0
    const effects = { sideEffects: ['http.post'], retries: 3, backoffMs: 60 }
    await run.step('look up account', effects, async () => {
      await sleep(110)
      if (++tries < 3) throw new Error('502 from the billing service')
      return { account: 4711, paid: true }
    })
    await run.state.patch({
      phase: 'answering',
      customer: { name: 'acme', plan: 'team', account: 4711 },
      findings: 15,
      notes: ['reproducible', 'empty filter'],
    })
    await ask('draft', 420, 9_600)
    await run.state.save('before sending', { reason: 'the draft is complete' })
    await run.step('send mail', { sideEffects: ['email.send'], idempotencyKey: `mail-${id}` }, () =>
      work(90, { sent: true }),
    )
    await run.state.patch({ phase: 'done', sent: true })
    return { answered: ticket }
  })
  return id
}

/** Jobs of a queue with caps, some of which fail. */
async function workOffQueues(): Promise<void> {
  await tide.queues.configure('mails', { concurrency: 6, ratePerMinute: 600 })
  tide.workflow('send-mail', (run, { n }: { n: number }) =>
    run.step('send', async () => {
      await sleep(40 + (n % 7) * 20)
      if (n % 17 === 0) throw new Error('550 mailbox unavailable')
      return { n }
    }),
  )
  const stop = new AbortController()
  const working = tide.work({ queues: ['mails'], signal: stop.signal, concurrency: 6 })
  for (let n = 1; n <= 90; n++) {
    await tide.enqueue('send-mail', { queue: 'mails', input: { n }, metadata: { tenant: n % 2 ? 'acme' : 'globex' } })
    if (n % 6 === 0) await sleep(60)
  }
  await sleep(1_500)
  stop.abort()
  await working
  for (let n = 0; n < 14; n++) await tide.enqueue('send-mail', { queue: 'mails', input: { n } })
  await tide.enqueue('nightly-report', {
    queue: 'reports',
    input: {},
    runAt: new Date(Date.now() + 3_600_000).toISOString(),
  })
}

async function take(page: Page, name: string, colorScheme: 'light' | 'dark' = 'light'): Promise<void> {
  await page.emulateMedia({ colorScheme })
  await page.mouse.move(0, 0)
  await sleep(300)
  const file = join(folder, `${name}.png`)
  await page.screenshot({ path: file })
  const { size } = await stat(file)
  console.log(`${file}  ${Math.round(size / 1_000)} kB`)
  if (size > largest) throw new Error(`${name} has more than ${largest} bytes`)
}

const browser = await launch()
try {
  const research = await crashAndResume(url, undefined, 150)
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } })
  await page.goto(`${url}/ui/runs/${research.runId}`)
  await page.getByText('taken up again by a worker').waitFor()
  await take(page, 'studio-resumed')

  await workOffQueues()
  const ticket = await answerTickets(4_212)
  await answerTickets(4_213)
  const refund = async (run: RunContext) => {
    await run.step('find order', { sideEffects: ['read'] }, () => work(80, { order: 'A-1009', amount: 49 }))
    await run.step('refund', { sideEffects: ['payment'], input: { amount: 49 } }, async () => {
      await sleep(120)
      throw new Error('402 card was declined')
    })
  }
  await tide.run('refund', { input: { order: 'A-1009' } }, refund).catch(() => {})
  await tide.schedules.set('morning digest', { cron: '0 8 * * 1-5', workflowName: 'digest', timezone: 'Europe/Berlin' })
  const asking = tide.runs.create('release-notes', { input: { version: '2.4.0' } }).then(({ id }) =>
    tide
      .run('release-notes', { runId: id }, async (run) => {
        await run.step('collect', () => work(90, { commits: 41 }))
        return run.gate('announce', 'Announce version 2.4.0 to 12,000 readers?', {
          data: { version: '2.4.0', commits: 41, breaking: ['the old export format is gone'] },
        })
      })
      .catch(() => {}),
  )

  await page.goto(`${url}/ui/runs`)
  await page.getByRole('list', { name: 'Runs, newest first' }).getByRole('listitem').first().waitFor()
  await take(page, 'studio-runs')

  await page.goto(`${url}/ui/runs/${ticket}`)
  await page.getByRole('button', { name: /^look up account/ }).click()
  await page.getByRole('button', { name: 'What check logs is made of' }).click()
  await page.getByRole('button', { name: /^summarise/ }).waitFor()
  await page.getByRole('complementary').getByRole('heading', { name: 'Attempts' }).waitFor()
  await take(page, 'studio-run')
  await take(page, 'studio-run-dark', 'dark')

  await page.goto(`${url}/ui/runs/${ticket}?tab=state`)
  await page.getByLabel('Compare with').selectOption('1')
  await take(page, 'studio-state')

  await page.goto(`${url}/ui/inbox`)
  await page.getByRole('button', { name: 'Approve' }).nth(1).waitFor()
  await take(page, 'studio-inbox')

  await page.goto(`${url}/ui/queues`)
  await page.getByRole('button', { name: 'Charts' }).first().click()
  await page.getByLabel('Time').selectOption('last 5 minutes')
  await page.getByRole('img', { name: /^Wait: at last half/ }).waitFor()
  await sleep(500)
  await take(page, 'studio-queues')

  await page.setViewportSize({ width: 400, height: 800 })
  await page.goto(`${url}/ui/runs/${ticket}`)
  await page.getByRole('button', { name: /^look up account/ }).waitFor()
  await take(page, 'studio-narrow', 'dark')

  for (const { id, runId, resolveToken } of (await tide.runs.inbox()).gates)
    await fetch(`${url}/runs/${runId}/gates/${id}/resolve`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ token: resolveToken, decision: 'rejected', actor: 'screenshots' }),
    })
  await asking
  await research.done
  await research.stop()
} finally {
  await browser.close()
  server.kill()
  await once(server, 'exit')
  await rm(data, { recursive: true, force: true })
}
