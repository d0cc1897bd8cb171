import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { chromiumPath } from './browser.ts'
import { faults, fitsAll, look, rootKey, type StudioTest, startStudio } from './studio.ts'

const withBrowser = test.skipIf(!chromiumPath)
let studio: StudioTest
beforeAll(async () => {
  if (chromiumPath) studio = await startStudio()
})
afterAll(() => studio?.stop())

withBrowser('an empty project says how to make the first run', async () => {
  const page = await studio.open('/')
  await page.getByRole('heading', { name: 'No runs yet' }).waitFor()
  expect(await page.getByText("import { Tidebase } from '@tidebase/sdk'").textContent()).toContain(studio.server.url)
  expect(await faults(page)).toEqual([])
  await fitsAll(page)
  await look(page, 'empty')
  studio.calm()
})

withBrowser('a login: wrong key, right key, never in an address, gone when logged out', async () => {
  const page = await studio.open('/ui/runs')
  await page.getByRole('button', { name: 'Log out' }).click()
  await page.getByLabel('API key').fill('wrong')
  await page.getByRole('button', { name: 'Log in' }).click()
  await page.getByRole('alert').waitFor()
  expect(await faults(page)).toEqual([])
  await look(page, 'login')
  const addresses: string[] = []
  page.on('request', (request) => addresses.push(request.url()))
  await page.getByLabel('API key').fill(rootKey)
  await page.getByRole('button', { name: 'Log in' }).click()
  await page.getByText('Live', { exact: true }).waitFor()
  await page.reload()
  await page.getByText('Live', { exact: true }).waitFor()
  expect(addresses.filter((address) => address.includes(rootKey))).toEqual([])
  studio.calm()
})

withBrowser('runs appear by themselves, and the address holds the filter', async () => {
  const page = await studio.open('/ui/runs')
  await page.getByText('Live', { exact: true }).waitFor()
  const { id } = await studio.tide.runs.create('report', { metadata: { tenant: 'acme' } })
  const row = page.locator(`a[href="/ui/runs/${id}"]`)
  await row.waitFor()
  await studio.tide.run('report', { runId: id }, async (run) => run.step('write', () => 'done'))
  await row.getByText('completed').waitFor()
  await studio.tide.run('failing', async () => Promise.reject(new Error('no luck'))).catch(() => {})
  await page.getByRole('navigation', { name: 'Status' }).getByText('failed 1').waitFor()

  await page.getByLabel('Metadata').fill('tenant=acme')
  await page.keyboard.press('Enter')
  await page.waitForURL(/metadata.tenant=acme/)
  await page.getByRole('list', { name: 'Runs, newest first' }).getByRole('listitem').first().waitFor()
  await expect.poll(() => page.locator('a.run').count()).toBe(1)
  await page.reload()
  await expect.poll(() => page.locator('a.run').count()).toBe(1)
  await page.getByRole('button', { name: 'Remove the filter metadata.tenant' }).click()
  await expect.poll(() => page.locator('a.run').count()).toBe(2)
  await page.keyboard.press('/')
  await page.keyboard.type('fail')
  await page.waitForURL(/search=fail/)
  await expect.poll(() => page.locator('a.run').count()).toBe(1)
  expect(await faults(page)).toEqual([])
  await fitsAll(page)
  await look(page, 'runs')
  studio.calm()
})

withBrowser('what is served is small, and the same whoever built it', async () => {
  const { url } = studio.server
  const page = await (await fetch(`${url}/ui`, { headers: { accept: 'text/html' } })).text()
  const names = [...page.matchAll(/"(\/ui\/assets\/[^"]+)"/g)].map(([, name]) => name ?? '')
  const files = await Promise.all(names.map(async (name) => (await fetch(url + name)).text()))
  // A build for development holds the path of each source file, on the machine that made it.
  for (const file of files) expect(file).not.toMatch(/studio\/src\/|\.tsx/)
  const bytes = files.reduce((sum, file) => sum + gzipSync(file).length, 0)
  expect(names.length).toBeGreaterThan(1)
  expect(bytes).toBeLessThan(60_000)
})
