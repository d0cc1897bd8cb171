import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { chromiumPath } from './browser.ts'
import { crashAndResume } from './research.ts'
import { faults, fitsAll, rootKey, type StudioTest, signal, startStudio } from './studio.ts'

const withBrowser = test.skipIf(!chromiumPath)
let studio: StudioTest
beforeAll(async () => {
  if (chromiumPath) studio = await startStudio({ leaseMs: 2_000 })
})
afterAll(() => studio?.stop())

withBrowser(
  'the research example, killed and resumed: where it was taken up again, its group, its gate decided in its tab',
  { timeout: 90_000 },
  async () => {
    const research = await crashAndResume(studio.server.url, rootKey, 50)
    const page = await studio.open(`/ui/runs/${research.runId}`)
    const rows = page.getByRole('list', { name: 'Timeline' })
    await page.getByText('taken up again by a worker').waitFor()
    const group = rows.getByRole('button', { name: /^read \d+ of \d+/ })
    const [, done, all] = /(\d+) of (\d+)/.exec((await group.textContent()) ?? '') ?? []
    expect(done).toBe(all)
    expect(Number(all)).toBeGreaterThan(research.before)
    await rows.getByRole('button', { name: /^gate ?publish/ }).waitFor()
    // A group closes and opens by keyboard, and by its own control.
    await group.focus()
    await page.keyboard.press('ArrowLeft')
    await rows.getByRole('button', { name: /^read#1 ?,? ?completed/ }).waitFor({ state: 'detached' })
    await rows.getByRole('button', { name: 'What read is made of' }).click()
    await rows.getByRole('button', { name: /^read#1\D/ }).waitFor()
    expect(await faults(page)).toEqual([])
    await fitsAll(page)
    await page.getByRole('link', { name: 'gates', exact: true }).click()
    await page.getByLabel('Note').fill('well read')
    await page.getByRole('button', { name: 'Approve' }).click()
    await page.getByRole('main').getByText('approved').first().waitFor()
    await page.getByText('well read').waitFor()
    await research.done
    await page.getByRole('link', { name: 'timeline', exact: true }).click()
    await rows.getByRole('button', { name: /^publish/ }).waitFor()
    await page.locator('.facts').getByText('completed').waitFor()
    await research.stop()
    studio.calm()
  },
)

withBrowser('a retried step has a bar for each attempt, with its error and stack', async () => {
  const { tide } = studio
  const { id } = await tide.runs.create('flaky')
  let tries = 0
  const flaky = () =>
    tide.run('flaky', { runId: id }, (run) =>
      run.step('call', () => {
        if (++tries === 1)
          throw new Error('503 from upstream\n    at fetch (client.ts:12:3)\n    at call (flow.ts:4:1)')
        return 'fine'
      }),
    )
  await flaky().catch(() => {})
  const page = await studio.open(`/ui/runs/${id}`)
  const row = page.getByRole('list', { name: 'Timeline' }).getByRole('button', { name: /^call/ })
  await row.click()
  const panel = page.getByRole('complementary')
  await panel.getByText('503 from upstream', { exact: true }).waitFor()
  await panel.getByText('at fetch (client.ts:12:3)').waitFor()
  await tide.runs.retry(id)
  await flaky()
  await panel.getByText('Done: its output is recorded').waitFor()
  await expect.poll(() => row.locator('.bar').count()).toBe(2)
  const attempts = panel.getByRole('region', { name: 'Attempts' }).getByRole('listitem')
  expect(await attempts.count()).toBe(2)
  expect(await attempts.nth(0).textContent()).toContain('503 from upstream')
  expect(await attempts.nth(1).textContent()).toContain('completed')
  expect(await faults(page)).toEqual([])
  studio.calm()
})

withBrowser('tries that a worker makes by itself have a bar each, with what they failed with', async () => {
  const { tide } = studio
  const { id } = await tide.runs.create('stubborn')
  await tide.run('stubborn', { runId: id }, (run) =>
    run.step('call', { retries: 2, backoffMs: 1 }, async ({ attempt }) => {
      if (attempt === 1) await expect.poll(async () => (await tide.runs.get(id)).steps.length).toBe(1)
      if (attempt < 3) throw new Error(`busy ${attempt}`)
    }),
  )
  const page = await studio.open(`/ui/runs/${id}`)
  const row = page.getByRole('list', { name: 'Timeline' }).getByRole('button', { name: /^call/ })
  await row.click()
  await expect.poll(() => row.locator('.bar').count()).toBe(3)
  const attempts = page.getByRole('region', { name: 'Attempts' }).getByRole('listitem')
  expect(await attempts.count()).toBe(3)
  for (const [n, text] of ['busy 1', 'busy 2', 'completed'].entries())
    expect(await attempts.nth(n).textContent()).toContain(text)
  studio.calm()
})

withBrowser('children and a fan-out within a child open in the timeline of their parent and go on there', async () => {
  const { tide } = studio
  const { id } = await tide.runs.create('parent')
  const [first, second] = [signal(), signal()]
  const done = tide.run('parent', { runId: id }, async (run) => {
    await run.child('helper', async (child) => {
      await child.step('inner', () => 1)
      await first.given
      await child.fanout('part', [1, 2, 3], (n) => n)
      await second.given
      await child.child('grandchild', (each) => each.step('innermost', () => 1))
    })
  })
  const page = await studio.open(`/ui/runs/${id}`)
  const rows = page.getByRole('list', { name: 'Timeline' })
  await rows.getByRole('button', { name: /^child ?helper/ }).focus()
  await page.keyboard.press('ArrowRight')
  await rows.getByRole('button', { name: /^inner/ }).waitFor()
  first.give()
  await rows.getByRole('button', { name: /^part 3 of 3/ }).waitFor()
  await rows.getByRole('button', { name: /^part#2/ }).click()
  await page.getByRole('complementary').getByText('Done: its output is recorded').waitFor()
  second.give()
  await done
  await rows.getByRole('button', { name: 'What grandchild is made of' }).click()
  await rows.getByRole('button', { name: /^innermost/ }).waitFor()
  await expect.poll(() => rows.getByRole('listitem').count()).toBe(8)
  expect(await faults(page)).toEqual([])
  await fitsAll(page)
  studio.calm()
})

withBrowser('text that a step streams is shown while it runs, and its output when it is done', async () => {
  const { tide } = studio
  const { id } = await tide.runs.create('writer')
  const [more, end] = [signal(), signal()]
  const done = tide.run('writer', { runId: id }, (run) =>
    run.step('answer', { sideEffects: ['llm'] }, async ({ stream }) => {
      stream('The tide 🌊 ')
      await more.given
      stream('comes <b>in</b>.')
      await end.given
      return 'The tide 🌊 comes <b>in</b>.'
    }),
  )
  const page = await studio.open(`/ui/runs/${id}`)
  await page.getByRole('button', { name: /^answer/ }).click()
  const text = page.getByRole('region', { name: 'Text so far' })
  await text.getByText('The tide 🌊').waitFor()
  more.give()
  await text.getByText('The tide 🌊 comes <b>in</b>.').waitFor()
  expect(await faults(page)).toEqual([])
  end.give()
  await done
  await page.getByRole('complementary').getByText('Done: its output is recorded').waitFor()
  await text.waitFor({ state: 'detached' })
  await page.getByRole('complementary').getByText('The tide 🌊 comes <b>in</b>.').waitFor()
  studio.calm()
})

withBrowser('a step whose worker died in doubt is decided in its panel', async () => {
  const { server } = studio
  const { run } = await server.ok('createRun', { params: { workflowName: 'doubt' }, body: {} })
  const params = { runId: run.id }
  const begin = (worker: string) => server.ok('beginRun', { params, headers: { 'x-tidebase-worker': worker } })
  const step = (worker: string, name: string) => ({
    params,
    body: { name, inputHash: 'a'.repeat(64), leaseOwner: worker, options: { sideEffects: ['email.send'] } },
  })
  await begin('first')
  for (const name of ['mail', 'bill']) await server.ok('beginStep', step('first', name))
  await vi.waitFor(() => begin('second'), { timeout: 15_000, interval: 200 })
  for (const name of ['mail', 'bill'])
    await vi.waitFor(
      async () =>
        expect(await server.send('beginStep', step('second', name))).toMatchObject({ body: { code: 'manual_review' } }),
      { timeout: 15_000, interval: 200 },
    )
  const page = await studio.open(`/ui/runs/${run.id}`)
  await page.getByRole('button', { name: /^mail/ }).click()
  const panel = page.getByRole('complementary')
  await panel.getByText('Somebody must decide').waitFor()
  await panel.getByRole('button', { name: 'It happened' }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByLabel('Output').fill('not json')
  await dialog.getByRole('button', { name: 'It happened' }).click()
  await dialog.getByText('This is not JSON').waitFor()
  expect(await faults(page)).toEqual([])
  await dialog.getByLabel('Output').fill('{"messageId": 7}')
  await dialog.getByRole('button', { name: 'It happened' }).click()
  await panel.getByText('Done: its output is recorded').waitFor()
  await page.getByRole('button', { name: /^bill/ }).click()
  await panel.getByRole('button', { name: 'Run it again' }).click()
  await dialog.getByRole('button', { name: 'Run it again' }).click()
  await panel.getByRole('button', { name: 'Run it again' }).waitFor({ state: 'detached' })
  const { steps } = await server.ok('getRun', { params })
  expect(steps).toMatchObject([
    { name: 'mail', status: 'completed', output: { messageId: 7 } },
    { name: 'bill', status: 'failed_retryable' },
  ])
  studio.calm()
})
