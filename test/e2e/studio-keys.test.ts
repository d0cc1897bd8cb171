import type { Scope } from '@tidebase/wire'
import type { Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { receiver } from '../../packages/tidebase/test/receiver.ts'
import { chromiumPath } from './browser.ts'
import { type StudioTest, startStudio } from './studio.ts'

const withBrowser = test.skipIf(!chromiumPath)
let studio: StudioTest
let hooks: Awaited<ReturnType<typeof receiver>>
/** Runs that stand for what can be done about runs. */
const runs = { failed: '', asking: '', doubtful: '', told: '' }

beforeAll(async () => {
  if (!chromiumPath) return
  studio = await startStudio({ leaseMs: 500 })
  hooks = await receiver(() => 200)
  const { server, tide } = studio
  const create = async (name: string, options = {}) => (await tide.runs.create(name, options)).id
  runs.failed = await create('failing', { recoveryWebhook: hooks.url('/resume') })
  await tide
    .run('failing', { runId: runs.failed }, (run) => run.step('break', () => Promise.reject(new Error('no'))))
    .catch(() => {})
  runs.asking = await create('asking')
  await server.ok('beginGate', { params: { runId: runs.asking }, body: { name: 'g', prompt: 'May it?' } })
  runs.doubtful = await create('doubtful')
  const params = { runId: runs.doubtful }
  const body = { name: 'pay', inputHash: 'a'.repeat(64), options: { sideEffects: ['payment'] } }
  await server.ok('beginRun', { params, headers: { 'x-tidebase-worker': 'one' } })
  await server.ok('beginStep', { params, body: { ...body, leaseOwner: 'one' } })
  // Until the first worker's lease has run out.
  const soon = (check: () => Promise<void>) => vi.waitFor(check, { timeout: 15_000, interval: 100 })
  await soon(async () => void (await server.ok('beginRun', { params, headers: { 'x-tidebase-worker': 'two' } })))
  await soon(async () => {
    const reply = await server.send('beginStep', { params, body: { ...body, leaseOwner: 'two' } })
    expect(reply.body.code).toBe('manual_review')
  })
  runs.told = await create('told', { channels: [{ type: 'webhook', url: hooks.url('/told'), events: [] }] })
  await tide.run('told', { runId: runs.told }, (run) => run.state.set({ n: 1 }))
  await tide.enqueue('mail', { queue: 'mails', input: {} })
  await tide.schedules.set('morning', { cron: '0 9 * * *', workflowName: 'digest' })
})
afterAll(async () => {
  await studio?.stop()
  hooks?.close()
})

/** The buttons that change something, on every page that the key can reach, and the answers that refused it. */
async function walk(scope: Scope): Promise<{ page: Page; places: string[]; buttons: string[]; refused: string[] }> {
  const { secret } = await studio.server.createKey({ project: 'default', name: scope, scope })
  const page = await studio.open('/ui/runs', { key: secret })
  const refused: string[] = []
  page.on('response', (response) => {
    if (response.status() === 403) refused.push(response.url())
  })
  const buttons = new Set<string>()
  const harmless = /^(Log out|Copy|curl|TypeScript|Python|Charts|Close|Show more|\d+ new runs?)/
  const look = async () => {
    await page.getByRole('main').getByRole('heading').first().waitFor()
    // What was asked for has been answered, and is shown.
    await page.waitForLoadState('load')
    await page.waitForTimeout(300)
    for (const name of await page.locator('main button:not([data-row])').allTextContents())
      if (!harmless.test(name)) buttons.add(name)
  }
  const places = await page.getByRole('navigation', { name: 'Main' }).getByRole('listitem').allTextContents()
  for (const place of places) {
    await page.getByRole('link', { name: place.replace(/\d+\+?$/, '') }).click()
    await look()
  }
  if (places.includes('Queues'))
    for (const id of Object.values(runs)) {
      for (const tab of ['timeline', 'gates', 'events', 'webhooks']) {
        await page.goto(`${studio.server.url}/ui/runs/${id}?tab=${tab}`)
        await page.locator('.facts').waitFor()
        await look()
        if (tab !== 'timeline' && tab !== 'events') continue
        const row = page.locator('[data-row]').first()
        if ((await row.count()) > 0) {
          await row.click()
          await look()
        }
      }
    }
  return { page, places, buttons: [...buttons].sort(), refused }
}

withBrowser('a read key sees every view but keys, and no button that would fail', { timeout: 120_000 }, async () => {
  const { page, places, buttons, refused } = await walk('read')
  expect(places.map((place) => place.replace(/\d+$/, ''))).toEqual([
    'Runs',
    'Inbox',
    'Queues',
    'Schedules',
    'Usage',
    'Workers',
  ])
  expect(buttons).toEqual([])
  expect(refused).toEqual([])
  await page.goto(`${studio.server.url}/ui/keys`)
  await page.getByRole('alert').getByText(/scope/).waitFor()
  studio.calm()
})

withBrowser('a worker key sees what it may do and nothing that would fail', { timeout: 120_000 }, async () => {
  const { places, buttons, refused } = await walk('worker')
  expect(places).toEqual(['Runs', 'Queues', 'Schedules'])
  expect(buttons).toEqual([
    'Cancel',
    'Cancel these…',
    'Fork',
    'Fork from here',
    'Pause',
    'Resume',
    'Send again',
    'Trigger now',
  ])
  expect(refused).toEqual([])
  studio.calm()
})

withBrowser(
  'an enqueue key sees the runs it made, looked up every 5 s, and may retry those',
  { timeout: 60_000 },
  async () => {
    const { places, buttons, refused, page } = await walk('enqueue')
    expect(places).toEqual(['Runs'])
    expect(buttons).toEqual(['Retry these…'])
    await page.getByText('Every 5 s').waitFor()
    await page.getByRole('heading', { name: 'No runs yet' }).waitFor()
    const key = String(await page.evaluate("sessionStorage.getItem('tidebase.studio.key')"))
    const made = await studio.server.call('POST', '/runs/own', {}, { authorization: `Bearer ${key}` })
    expect(made.status).toBe(200)
    await page.locator('a.run').getByText('own').click()
    await page.getByText('Nothing has happened in this run yet.').waitFor()
    expect(await page.getByRole('button', { name: /^(Cancel|Fork|Resume)$/ }).count()).toBe(0)
    await page.goto(`${studio.server.url}/ui/runs/${runs.failed}`)
    await page.getByRole('alert').waitFor()
    expect(refused).toEqual([])
    studio.calm()
  },
)
