// What Studio does when it loses something: its connection, or the right to be there.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startProxy } from '../faults/proxy.ts'
import { chromiumPath } from './browser.ts'
import { type StudioTest, signal, startStudio } from './studio.ts'

const withBrowser = test.skipIf(!chromiumPath)
let studio: StudioTest
beforeAll(async () => {
  if (chromiumPath) studio = await startStudio()
})
afterAll(() => studio?.stop())

withBrowser('a token stream goes on where the connection broke, and nothing of it is shown twice', async () => {
  const { tide, server } = studio
  const proxy = await startProxy({ host: '127.0.0.1', port: Number(new URL(server.url).port) })
  try {
    const { id } = await tide.runs.create('writer')
    const [more, end] = [signal(), signal()]
    const done = tide.run('writer', { runId: id }, (run) =>
      run.step('answer', { sideEffects: ['llm'] }, async ({ stream }) => {
        stream('The tide 🌊 ')
        await more.given
        stream('comes in.')
        await end.given
      }),
    )
    const page = await studio.open(`http://127.0.0.1:${proxy.port}/ui/runs/${id}`)
    const asked: (string | null)[] = []
    page.on('request', (request) => {
      const { pathname, searchParams } = new URL(request.url())
      if (pathname === `/runs/${id}/events`) asked.push(searchParams.get('offsets'))
    })
    await page.getByRole('button', { name: /^answer/ }).click()
    const text = page.getByRole('region', { name: 'Text so far' }).locator('pre')
    await text.getByText('The tide 🌊').waitFor()
    // What comes meanwhile is lost with the connection.
    const broken = proxy.silence(500)
    more.give()
    await broken
    await expect.poll(() => text.textContent()).toBe('The tide 🌊 comes in.')
    // Characters, not UTF-16 units.
    expect(asked).toContain('answer:11')
    end.give()
    await done
    await page.getByRole('complementary').getByText('Done: its output is recorded').waitFor()
  } finally {
    proxy.close()
  }
})

withBrowser('a key that is revoked is logged out, and no longer in the browser', async () => {
  const { server, tide } = studio
  await tide.runs.create('secret plan')
  const { secret, key } = await server.createKey({ project: 'default', name: 'gone', scope: 'read' })
  const page = await studio.open('/ui/runs', { key: secret })
  await page.getByText('secret plan').first().waitFor()
  await server.ok('revokeKey', { params: { keyId: key.id } })
  // A server believes a key that it has looked up for a moment longer.
  const places = ['Queues', 'Runs']
  const wander = async () => {
    places.reverse()
    const link = page.getByRole('link', { name: places[0] ?? '', exact: true })
    await link.click({ timeout: 1_000 }).catch(() => {})
    return page.getByRole('button', { name: 'Log in' }).count()
  }
  await expect.poll(wander, { timeout: 20_000, interval: 500 }).toBe(1)
  expect(await page.getByText('secret plan').count()).toBe(0)
  expect(await page.evaluate('JSON.stringify([{ ...sessionStorage }, { ...localStorage }])')).not.toContain(secret)
  studio.calm()
})
