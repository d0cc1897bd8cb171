import { afterAll, beforeAll, expect, test } from 'vitest'
import { startServer } from '../server.ts'
import { chromiumPath } from './browser.ts'
import { faults, fitsAll, rootKey, type StudioTest, startStudio } from './studio.ts'

const withBrowser = test.skipIf(!chromiumPath)
let studio: StudioTest
beforeAll(async () => {
  if (chromiumPath) studio = await startStudio()
})
afterAll(() => studio?.stop())

withBrowser('a fan-out of 50 is walked by keyboard; what a filter finds is cancelled after its count', async () => {
  const { tide } = studio
  const { id } = await tide.runs.create('fan-out')
  await tide.run('fan-out', { runId: id }, async (run) => {
    await run.fanout(
      'part',
      Array.from({ length: 50 }, (_, n) => n),
      (n) => n,
    )
  })
  await Promise.all(Array.from({ length: 30 }, () => tide.enqueue('stuck', { queue: 'bulk', input: {} })))
  const page = await studio.open(`/ui/runs/${id}`)
  await page.getByRole('list', { name: 'Timeline' }).getByRole('button').first().focus()
  const place = () => page.evaluate('document.activeElement.closest("li").ariaPosInSet')
  // Asked before each press: rows are put into the page a frame at a time, and presses are quicker on a busy machine.
  for (let presses = 0; presses < 200 && (await place()) !== '50'; presses++) await page.keyboard.press('ArrowDown')
  expect(await place()).toBe('50')

  await page.goto(`${studio.server.url}/ui/runs?workflow=stuck`)
  await page.getByRole('button', { name: 'Cancel these…' }).click()
  expect(await faults(page)).toEqual([])
  await page.getByRole('button', { name: 'Cancel 30 live runs' }).click()
  await page.getByRole('navigation', { name: 'Status' }).getByText('cancelled 30').waitFor()
  studio.calm()
})

withBrowser(
  'a run of 20,000 events: few rows in the page, the last is reached, filters find',
  { timeout: 120_000 },
  async () => {
    const { tide } = studio
    const { id } = await tide.runs.create('long')
    await tide.run('long', { runId: id }, async (run) => {
      for (let n = 0; n < 100; n++)
        await Promise.all(Array.from({ length: 100 }, (_, m) => run.step(`step ${n * 100 + m}`, () => m)))
    })
    const page = await studio.open(`/ui/runs/${id}?tab=events`)
    await page.getByText(/^20,00\d of 20,00\d events$/).waitFor({ timeout: 60_000 })
    expect(await page.getByRole('list', { name: 'Events' }).getByRole('listitem').count()).toBeLessThan(100)
    await page.evaluate('scrollTo(0, document.body.scrollHeight)')
    await page.getByRole('button', { name: /run.completed/ }).waitFor()
    const slowest = Number(
      await page.evaluate(`new Promise((resolve) => {
      let last = performance.now(), slowest = 0, frames = 0
      const step = () => {
        const now = performance.now()
        slowest = Math.max(slowest, now - last)
        last = now
        scrollBy(0, -3000)
        if (++frames < 60) requestAnimationFrame(step)
        else resolve(slowest)
      }
      requestAnimationFrame(step)
    })`),
    )
    // A machine with slow cores, shared: far from what a list of 20,000 rows would take.
    expect(slowest).toBeLessThan(1_000)
    await page.getByLabel('Search in events').fill('step 9999')
    await page.getByText(/^[12] of 20,00\d events$/).waitFor()
    await page.goto(`${studio.server.url}/ui/runs/${id}`)
    await page.getByRole('list', { name: 'Timeline' }).getByRole('listitem').first().waitFor()
    expect(await page.getByRole('list', { name: 'Timeline' }).getByRole('listitem').count()).toBeLessThan(100)
    await fitsAll(page)
    studio.calm()
  },
)

withBrowser('a long run that goes on is not loaded again from its start', async () => {
  const { tide, server } = studio
  const { id } = await tide.runs.create('growing')
  const session = await tide.runs.attach(id)
  const steps = (from: number, to: number) =>
    Promise.all(Array.from({ length: to - from }, (_, n) => session.run.step(`step ${from + n}`, () => n)))
  await steps(0, 600)
  const page = await studio.open('/ui/runs')
  const fromStart: string[] = []
  const goingOn: string[] = []
  page.on('request', (request) => {
    const url = request.url()
    if (!url.includes(`/runs/${id}?`) || !/include=[^&]*steps/.test(decodeURIComponent(url))) return
    if (url.includes('stepsAfter=')) goingOn.push(url)
    else fromStart.push(url)
  })
  await page.goto(`${server.url}/ui/runs/${id}`)
  const timeline = page.getByRole('list', { name: 'Timeline' })
  // Scrolled to again and again: the list grows by a page of steps at a time.
  const last = (name: string) =>
    expect
      .poll(async () => {
        await page.evaluate('scrollTo(0, document.body.scrollHeight)')
        return timeline.getByRole('listitem').filter({ hasText: name }).count()
      })
      .toBe(1)
  await timeline.getByRole('listitem').first().waitFor()
  await last('step 599')
  const before = fromStart.length
  expect(before).toBeGreaterThan(0)
  await steps(600, 601)
  await last('step 600')
  expect(fromStart.slice(before)).toEqual([])
  expect(goingOn.length).toBeGreaterThan(0)
  await session.complete()
  studio.calm()
})

withBrowser('it says when it is not live, and goes on by itself when the server is back', async () => {
  const first = await startServer({ apiKey: rootKey, databaseUrl: studio.server.databaseUrl })
  const port = Number(new URL(first.url).port)
  const page = await studio.open('/')
  await page.goto(`${first.url}/ui/runs`)
  await page.getByLabel('API key').fill(rootKey)
  await page.getByRole('button', { name: 'Log in' }).click()
  await page.getByText('Live', { exact: true }).waitFor()
  await first.stop(100)
  await page.getByText(/^Not live/).waitFor()
  const { id } = await studio.tide.runs.create('meanwhile')
  const second = await startServer({ apiKey: rootKey, databaseUrl: studio.server.databaseUrl, port })
  await page.locator(`a[href="/ui/runs/${id}"]`).waitFor()
  await page.getByText('Live', { exact: true }).waitFor()
  await page.close()
  await second.stop(100)
})
