import { afterAll, beforeAll, expect, test } from 'vitest'
import { chromiumPath } from './browser.ts'
import { faults, fitsAll, look, type StudioTest, startStudio } from './studio.ts'

const withBrowser = test.skipIf(!chromiumPath)
let studio: StudioTest
beforeAll(async () => {
  if (chromiumPath) studio = await startStudio()
})
afterAll(() => studio?.stop())

const evil = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>'

withBrowser(
  'a failing run: bars, the error with its stack, why a step may run again, and HTML that stays text',
  async () => {
    const { tide } = studio
    const { id } = await tide.runs.create(evil, { input: { html: evil } })
    const failed = tide.run(evil, { runId: id }, async (run) => {
      await run.step('read', { input: { html: evil }, sideEffects: ['read'] }, () => ({ html: evil }))
      await run.state.set({ n: 1, html: evil })
      await run.state.set({ n: 2, html: evil })
      await run.usage({ model: 'large', inputTokens: 10, outputTokens: 5, costUsd: 0.02 })
      await run.step('charge', { sideEffects: ['payment'], retries: 0 }, () => {
        throw new Error(`no ${evil}`)
      })
    })
    await failed.catch(() => {})
    const page = await studio.open(`/ui/runs/${id}`)
    await page.getByRole('heading', { name: evil }).waitFor()
    await page.getByRole('button', { name: /charge/ }).click()
    const panel = page.getByRole('complementary')
    await panel.getByText('Not without asking: it changes something (payment)').waitFor()
    await panel.locator('pre.problem').waitFor()
    expect(await panel.locator('pre.problem').textContent()).toBe(`no ${evil}`)
    expect(await panel.locator('pre.stack').textContent()).toContain('studio-run.test.ts')
    expect(await faults(page)).toEqual([])
    await look(page, 'run-timeline')
    await page.getByRole('button', { name: /^read/ }).click()
    await panel.getByText('Done: its output is recorded').waitFor()

    for (const [tab, text] of [
      ['state', '1 change from version 1 to 2'],
      ['usage', '$0.02'],
      ['events', 'step.completed'],
      ['webhooks', 'This run has called nobody'],
      ['raw', 'workflowName'],
    ] as const) {
      await page.getByRole('link', { name: tab, exact: true }).click()
      await page.getByRole('main').getByText(text).first().waitFor()
      expect({ tab, faults: await faults(page) }).toEqual({ tab, faults: [] })
      await fitsAll(page)
      await look(page, `run-${tab}`)
    }
    expect(await page.title()).not.toBe('owned')
    expect(await page.locator('main img, main script').count()).toBe(0)

    await page.getByRole('button', { name: 'Retry' }).click()
    await page.getByRole('button', { name: 'Retry the run' }).click()
    await expect.poll(async () => (await tide.runs.get(id)).run.status).toBe('pending')
    studio.calm()
  },
)

withBrowser('a gate is decided in the inbox; a read key sees no button for it', async () => {
  const { tide, server } = studio
  const { id } = await tide.runs.create('asks')
  const done = tide.run('asks', { runId: id }, async (run) =>
    run.gate('publish', 'Publish it?', { data: { pages: 3 } }),
  )
  const { secret } = await server.createKey({ project: 'default', name: 'looks', scope: 'read' })
  const reader = await studio.open('/ui/inbox', { key: secret })
  await reader.getByRole('heading', { name: 'Publish it?' }).waitFor()
  expect(await reader.getByRole('button', { name: 'Approve' }).count()).toBe(0)
  expect(await reader.getByRole('link', { name: 'Keys' }).count()).toBe(0)
  const page = await studio.open('/ui/inbox')
  await page.getByRole('button', { name: 'Approve' }).waitFor()
  expect(await faults(page)).toEqual([])
  await fitsAll(page)
  await look(page, 'inbox')
  await page.getByRole('button', { name: 'Approve' }).click()
  expect(await done).toMatchObject({ approved: true })
  await page.getByRole('heading', { name: 'Nobody waits for you' }).waitFor()
  await reader.getByRole('heading', { name: 'Nobody waits for you' }).waitFor()
  studio.calm()
})

withBrowser('queues, schedules, usage, workers and keys', async () => {
  const { tide } = studio
  await tide.enqueue('mail', { queue: 'mails', input: {} })
  await tide.schedules.set('morning', { cron: '0 9 * * *', workflowName: 'digest' })
  const page = await studio.open('/ui/queues')
  await page.getByRole('button', { name: 'Charts' }).click()
  await page.getByRole('img', { name: /^Depth/ }).waitFor()
  await page.getByRole('button', { name: 'Pause' }).click()
  await page.getByRole('button', { name: 'Pause the queue' }).click()
  await page.getByText('paused').waitFor()
  for (const name of ['Queues', 'Schedules', 'Usage', 'Workers', 'Keys']) {
    await page.getByRole('link', { name, exact: true }).click()
    await page.getByRole('heading', { name, exact: true }).waitFor()
    expect({ name, faults: await faults(page) }).toEqual({ name, faults: [] })
    await fitsAll(page)
    await look(page, name.toLowerCase())
  }
  await page.getByRole('button', { name: 'New key…' }).click()
  await page.getByLabel('Name').fill('looker')
  await page.getByRole('button', { name: 'Make the key' }).click()
  await page.getByText(/^tide_read_/).waitFor()
  await page.getByRole('button', { name: 'Revoke looker' }).click()
  await page.getByRole('button', { name: 'Revoke it' }).click()
  await page.getByText('revoked').waitFor()
  studio.calm()
})
