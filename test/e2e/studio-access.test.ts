import { afterAll, beforeAll, expect, test } from 'vitest'
import { chromiumPath } from './browser.ts'
import { faults, fitsAll, rootKey, type StudioTest, startStudio } from './studio.ts'

const withBrowser = test.skipIf(!chromiumPath)
let studio: StudioTest
let id = ''
beforeAll(async () => {
  if (!chromiumPath) return
  studio = await startStudio()
  const { server, tide } = studio
  const long = 'a-very-long-name-'.repeat(8)
  id = (await tide.runs.create(long, { input: { text: long }, metadata: { tenant: long } })).id
  const channels = [{ type: 'webhook' as const, url: 'http://127.0.0.1:9/', events: [] }]
  const failed = await tide.runs.create('broken', { channels })
  await tide
    .run('broken', { runId: failed.id }, (run) => run.step(long, () => Promise.reject(new Error(long))))
    .catch(() => {})
  await tide.run(long, { runId: id }, async (run) => {
    await run.fanout('part', [1, 2, 3], (n) => n)
    await run.child('child', (child) => child.step(long, () => long))
    for (let n = 0; n < 3; n++) await run.state.set({ n, [long]: long })
    await run.usage({ model: long, inputTokens: 10, outputTokens: 5, costUsd: 0.02 })
  })
  const asking = await tide.runs.create('asking')
  const data = { long, list: [1, 2] }
  await server.ok('beginGate', { params: { runId: asking.id }, body: { name: 'g', prompt: `${long}?`, data } })
  await tide.enqueue('mail', { queue: long, input: {} })
  await tide.schedules.set(long, { cron: '0 9 * * *', workflowName: long })
  await server.createKey({ project: 'default', name: long, scope: 'read' })
})
afterAll(() => studio?.stop())

const views = ['runs', 'inbox', 'queues', 'schedules', 'usage', 'workers', 'keys', 'nothing-here'] as const
const tabs = ['timeline', 'state', 'gates', 'usage', 'events', 'webhooks', 'raw'] as const

for (const colorScheme of ['light', 'dark'] as const)
  withBrowser(
    `every view in ${colorScheme} colours: axe finds nothing serious, and nothing is wider than the window`,
    { timeout: 120_000 },
    async () => {
      const page = await studio.open('/ui/runs', { colorScheme })
      const places = [...views.map((view) => `/ui/${view}`), ...tabs.map((tab) => `/ui/runs/${id}?tab=${tab}`)]
      for (const place of places) {
        await page.goto(studio.server.url + place)
        await page.getByRole('main').getByRole('heading', { level: 1 }).waitFor()
        // Every view's data: a card, a row, a table, or what stands in their place.
        await page.locator('main :is(article, li, table, .empty, section, .muted)').first().waitFor()
        if (place.endsWith('queues')) {
          await page.getByRole('button', { name: 'Charts' }).click()
          await page.getByRole('img', { name: /^Depth/ }).waitFor()
        }
        if (place.endsWith('timeline')) await page.locator('[data-row]').last().click()
        expect({ place, faults: await faults(page) }).toEqual({ place, faults: [] })
        await fitsAll(page)
      }
      studio.calm()
    },
  )

withBrowser('by keyboard alone: log in, find a run, walk its timeline, open a question and leave it', async () => {
  const page = await studio.open('/ui/runs')
  await page.getByRole('button', { name: 'Log out' }).focus()
  await page.keyboard.press('Enter')
  await page.getByRole('button', { name: 'Log in' }).waitFor()
  const focused = async () => String(await page.evaluate('document.activeElement?.textContent'))
  /** Presses Tab until what has the focus says so. */
  const tabTo = async (wanted: RegExp) => {
    for (let n = 0; n < 40; n++) {
      await page.keyboard.press('Tab')
      if (wanted.test(await focused())) return
    }
    throw new Error(`no way by Tab to ${wanted}; the focus is on ${await focused()}`)
  }
  while ((await page.evaluate('document.activeElement?.tagName')) !== 'INPUT') await page.keyboard.press('Tab')
  await page.keyboard.type(rootKey)
  await page.keyboard.press('Enter')
  await page.getByRole('navigation', { name: 'Main' }).waitFor()
  await tabTo(/^To the content$/)
  await page.keyboard.press('Enter')
  expect(await page.evaluate('document.activeElement?.id')).toBe('content')
  await page.locator('a.run').first().waitFor()
  await page.keyboard.press('/')
  await page.keyboard.type('asking')
  await page.waitForURL(/search=asking/)
  await expect.poll(() => page.locator('a.run').count()).toBe(1)
  await tabTo(/asking/)
  await page.keyboard.press('Enter')
  await page.waitForURL(/\/ui\/runs\/run_/)
  await page.locator('[data-row]').first().waitFor()
  await tabTo(/^gate ?g/)
  await page.keyboard.press('Enter')
  await page.getByRole('complementary').getByRole('link', { name: 'Open the gate' }).waitFor()
  await page.keyboard.press('Escape')
  await page.getByRole('complementary').waitFor({ state: 'detached' })
  while (!/^Cancel$/.test(await focused())) await page.keyboard.press('Shift+Tab')
  await page.keyboard.press('Enter')
  await page.getByRole('dialog').waitFor()
  expect(await page.evaluate("document.activeElement?.closest('dialog') !== null")).toBe(true)
  await page.keyboard.press('Escape')
  await page.getByRole('dialog').waitFor({ state: 'detached' })
  expect(await focused()).toBe('Cancel')
  studio.calm()
})
