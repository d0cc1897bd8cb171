import { afterAll, beforeAll, expect, test } from 'vitest'
import { chromiumPath } from './browser.ts'
import { faults, type StudioTest, startStudio } from './studio.ts'

const withBrowser = test.skipIf(!chromiumPath)
let studio: StudioTest
beforeAll(async () => {
  if (chromiumPath) studio = await startStudio()
})
afterAll(() => studio?.stop())

withBrowser('runs are narrowed down by time and metadata, and the address says so', async () => {
  const { tide } = studio
  await tide.runs.create('timed', { metadata: { tenant: 'acme', size: 3 } })
  await tide.runs.create('timed', { metadata: { tenant: 'globex' } })
  const page = await studio.open('/ui/runs?workflow=timed')
  const rows = page.locator('a.run')
  await expect.poll(() => rows.count()).toBe(2)
  await page.getByLabel('Created').selectOption('last 15 minutes')
  await page.waitForURL(/since=15m/)
  await expect.poll(() => rows.count()).toBe(2)
  await page.getByLabel('Metadata').fill('size = 3')
  await page.keyboard.press('Enter')
  await page.waitForURL(/metadata\.size=3/)
  await expect.poll(() => rows.count()).toBe(1)
  await page.getByRole('navigation', { name: 'Status' }).getByText('pending 1').waitFor()
  await page.getByRole('button', { name: 'Remove the filter metadata.size' }).click()
  await page.getByLabel('Created').selectOption('between…')
  await page.waitForURL(/from=/)
  await expect.poll(() => rows.count()).toBe(2)
  await page.getByLabel('Until').fill('2020-01-01T00:00')
  await page.waitForURL(/to=20/)
  await page.getByRole('heading', { name: 'No run is like that' }).waitFor()
  expect(await faults(page)).toEqual([])
  await page.reload()
  await page.getByRole('heading', { name: 'No run is like that' }).waitFor()
  await page.getByRole('link', { name: 'Show all runs' }).click()
  await page.waitForURL((url) => url.search === '')
  await expect.poll(() => rows.count()).toBe(2)
  studio.calm()
})

withBrowser('an inbox of 120 gates shows the rest as its end comes near, and the last can be decided', async () => {
  const { server, tide } = studio
  const runs = await Promise.all(Array.from({ length: 120 }, () => tide.runs.create('asks')))
  for (const [n, { id }] of runs.entries())
    await server.ok('beginGate', { params: { runId: id }, body: { name: 'g', prompt: `Question ${n}?` } })
  const page = await studio.open('/ui/inbox')
  await page.getByRole('link', { name: 'Inbox 99+' }).waitFor()
  const gates = page.getByRole('article')
  await gates.nth(49).waitFor()
  await expect
    .poll(async () => {
      await page.evaluate('scrollTo(0, document.body.scrollHeight)')
      return gates.count()
    })
    .toBe(120)
  await page.getByRole('button', { name: 'Show more' }).waitFor({ state: 'detached' })
  const last = gates.filter({ hasText: 'Question 119?' })
  await last.getByLabel('Note').fill('not this one')
  await last.getByRole('button', { name: 'Reject' }).click()
  await last.waitFor({ state: 'detached' })
  expect(await gates.count()).toBe(119)
  const { gates: decided } = await server.ok('getRun', { params: { runId: runs[119]?.id ?? '' } })
  expect(decided).toMatchObject([{ status: 'rejected', actor: 'studio', decisionPayload: { note: 'not this one' } }])
  studio.calm()
})

withBrowser('the gates of a run are rejected and approved in its tab', async () => {
  const { server, tide } = studio
  const { id } = await tide.runs.create('two gates')
  for (const name of ['first', 'second'])
    await server.ok('beginGate', { params: { runId: id }, body: { name, prompt: `The ${name}?`, data: { name } } })
  const page = await studio.open(`/ui/runs/${id}?tab=gates`)
  const gate = (name: string) => page.getByRole('article').filter({ hasText: `The ${name}?` })
  await gate('first').getByRole('button', { name: 'Approve' }).click()
  await gate('first').getByText('approved', { exact: true }).waitFor()
  await gate('second').getByRole('button', { name: 'Reject' }).click()
  await gate('second').getByText('rejected', { exact: true }).waitFor()
  expect(await page.getByRole('button', { name: /Approve|Reject/ }).count()).toBe(0)
  expect(await faults(page)).toEqual([])
  studio.calm()
})

withBrowser('a schedule shows its next times, is triggered, paused and resumed', async () => {
  const { tide } = studio
  await tide.schedules.set('nightly', {
    cron: '0 3 * * *',
    workflowName: 'digest',
    queue: 'nights',
    input: { all: true },
  })
  const page = await studio.open('/ui/schedules')
  const card = page.getByRole('article').filter({ hasText: 'nightly' })
  await card.getByRole('list', { name: 'Next times' }).getByRole('listitem').first().waitFor()
  await card.getByRole('button', { name: 'Trigger now' }).click()
  await page.getByRole('button', { name: 'Trigger it' }).click()
  await expect
    .poll(async () => (await tide.runs.list({ queue: 'nights' })).runs)
    .toMatchObject([{ workflowName: 'digest', input: { all: true }, status: 'queued' }])
  await card.getByRole('button', { name: 'Pause' }).click()
  expect(await faults(page)).toEqual([])
  await page.getByRole('button', { name: 'Pause it' }).click()
  await card.getByText('paused').waitFor()
  expect(await card.getByRole('list', { name: 'Next times' }).count()).toBe(0)
  await card.getByRole('button', { name: 'Resume' }).click()
  await page.getByRole('button', { name: 'Resume it' }).click()
  await card.getByRole('list', { name: 'Next times' }).waitFor()
  // Pausing and resuming changes nothing else of it.
  expect((await tide.schedules.list()).find(({ name }) => name === 'nightly')).toMatchObject({
    cron: '0 3 * * *',
    queue: 'nights',
    input: { all: true },
    enabled: true,
  })
  studio.calm()
})

withBrowser('a queue is capped, paused and resumed', async () => {
  const { tide } = studio
  await tide.enqueue('mail', { queue: 'capped', input: {} })
  const page = await studio.open('/ui/queues')
  const card = page.getByRole('article').filter({ hasText: 'capped' })
  await card.getByText('No caps').waitFor()
  await card.getByRole('button', { name: 'Caps' }).click()
  await page.getByLabel('Runs at a time').fill('3')
  await page.getByLabel('Runs a minute').fill('100')
  expect(await faults(page)).toEqual([])
  await page.getByRole('button', { name: 'Save the caps' }).click()
  await card.getByText('Caps: at most 3 at a time, 100 a minute').waitFor()
  await card.getByRole('button', { name: 'Caps' }).click()
  await page.getByLabel('Runs at a time').fill('')
  await page.getByRole('button', { name: 'Save the caps' }).click()
  await card.getByText('Caps: 100 a minute').waitFor()
  const config = async () => (await tide.queues.list()).find(({ name }) => name === 'capped')?.config
  expect(await config()).toMatchObject({ concurrency: null, ratePerMinute: 100, paused: false })
  await card.getByRole('button', { name: 'Pause' }).click()
  await page.getByRole('button', { name: 'Pause the queue' }).click()
  await card.getByText('paused').waitFor()
  expect(await config()).toMatchObject({ paused: true })
  await card.getByRole('button', { name: 'Resume' }).click()
  await page.getByRole('button', { name: 'Resume the queue' }).click()
  await card.getByText('paused').waitFor({ state: 'detached' })
  await card.getByRole('link', { name: '1 queued' }).click()
  await page.waitForURL(/queue=capped/)
  await expect.poll(() => page.locator('a.run').count()).toBe(1)
  studio.calm()
})

withBrowser('usage: cost by workflow and model, and the runs that their budget stopped', async () => {
  const { tide } = studio
  await tide.run('thrifty', (run) => run.usage({ model: 'small', inputTokens: 10, outputTokens: 5, costUsd: 0.25 }))
  const spending = await tide.runs.create('spender', { budget: { costUsd: 0.5 } })
  await tide
    .run('spender', { runId: spending.id }, async (run) => {
      await run.usage({ model: 'large', inputTokens: 100, outputTokens: 50, costUsd: 0.75 })
      await run.step('more', () => 1)
    })
    .catch(() => {})
  const page = await studio.open('/ui/usage')
  const table = (name: string) => page.getByRole('region', { name })
  await table('Usage by model').getByRole('row', { name: 'large 1 150 $0.75' }).waitFor()
  await table('Usage by workflow').getByRole('row', { name: 'thrifty 1 15 $0.25' }).waitFor()
  await page.getByRole('img', { name: /^Cost by day: at last cost \$1.00/ }).waitFor()
  const stopped = table('Runs stopped by their budget')
  await stopped.getByRole('row', { name: /spender \$0.75, 150 tokens \$0.50/ }).waitFor()
  expect(await faults(page)).toEqual([])
  await stopped.getByRole('link', { name: 'spender' }).click()
  await page.getByRole('heading', { name: 'By step' }).waitFor()
  await page.getByText('Budget: $0.50').waitFor()
  await page.getByText('budget by', { exact: false }).waitFor()
  studio.calm()
})
