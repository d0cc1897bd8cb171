import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { receiver } from '../../packages/tidebase/test/receiver.ts'
import { chromiumPath } from './browser.ts'
import { faults, rootKey, type StudioTest, startStudio } from './studio.ts'

const withBrowser = test.skipIf(!chromiumPath)
const root = fileURLToPath(new URL('../..', import.meta.url))
let studio: StudioTest
let hooks: Awaited<ReturnType<typeof receiver>>
beforeAll(async () => {
  if (!chromiumPath) return
  studio = await startStudio()
  hooks = await receiver(({ path }, nth) => (path === '/told' && nth === 1 ? 400 : 200))
})
afterAll(async () => {
  await studio?.stop()
  hooks?.close()
})

withBrowser('a run is cancelled with a reason', async () => {
  const { id } = await studio.tide.runs.create('endless')
  const page = await studio.open(`/ui/runs/${id}`)
  await page.getByRole('button', { name: 'Cancel', exact: true }).click()
  await page.getByLabel('Reason').fill('no longer needed')
  expect(await faults(page)).toEqual([])
  await page.getByRole('button', { name: 'Cancel the run' }).click()
  await page.getByText('no longer needed by studio').waitFor()
  await page.getByRole('button', { name: 'Cancel', exact: true }).waitFor({ state: 'detached' })
  expect((await studio.tide.runs.get(id)).run).toMatchObject({ status: 'cancelled', cancelActor: 'studio' })
  studio.calm()
})

withBrowser('a run is resumed by its webhook, and the webhook sent again; without one Studio says how', async () => {
  const { tide } = studio
  const { id } = await tide.runs.create('resumable', { recoveryWebhook: hooks.url('/resume') })
  const page = await studio.open(`/ui/runs/${id}?tab=webhooks`)
  await page.getByRole('button', { name: 'Resume' }).click()
  await page.getByRole('button', { name: 'Call its webhook' }).click()
  const sent = page.getByRole('article').filter({ hasText: 'recovery: studio' })
  await sent.getByText('delivered').waitFor()
  expect(hooks.at('/resume')).toMatchObject([{ body: { type: 'run.resume', runId: id } }])
  await sent.getByRole('button', { name: 'Send again' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Send again' }).click()
  await expect.poll(() => hooks.at('/resume').length).toBe(2)

  const bare = await tide.runs.create('bare')
  await page.goto(`${studio.server.url}/ui/runs/${bare.id}`)
  await page.getByRole('button', { name: 'Resume' }).click()
  await page.getByRole('dialog').getByText(`await tide.run("bare", { runId: '${bare.id}' }, workflow)`).waitFor()
  studio.calm()
})

withBrowser('a webhook that was refused shows the answer, and reaches its receiver when it is sent again', async () => {
  const channels = [{ type: 'webhook' as const, url: hooks.url('/told'), events: ['run.cancelled'] }]
  const { id } = await studio.tide.runs.create('tells', { channels })
  await studio.tide.runs.cancel(id)
  const page = await studio.open(`/ui/runs/${id}?tab=webhooks`)
  const sent = page.getByRole('article')
  await sent.getByText(/HTTP 400/).waitFor()
  await sent.getByText('Answer', { exact: true }).click()
  await sent.getByText('status 400').waitFor()
  expect(await faults(page)).toEqual([])
  // It would be tried again by itself, much later: nobody has to wait for that.
  await sent.getByRole('button', { name: 'Send again' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Send again' }).click()
  await sent.getByText('delivered', { exact: true }).waitFor()
  await sent.getByText(/HTTP 200/).waitFor()
  studio.calm()
})

withBrowser('a fork starts before the step that was chosen, a fork of a run with all that was done', async () => {
  const { tide } = studio
  const { id } = await tide.runs.create('forked')
  await tide.run('forked', { runId: id }, async (run) => {
    for (const name of ['one', 'two', 'three']) await run.step(name, () => name)
  })
  const page = await studio.open(`/ui/runs/${id}`)
  await page.getByRole('button', { name: /^two/ }).click()
  await page.getByRole('button', { name: 'Fork from here' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Fork', exact: true }).click()
  await page.waitForURL((url) => url.pathname.startsWith('/ui/runs/run_') && !url.pathname.endsWith(id))
  const rows = page.getByRole('list', { name: 'Timeline' }).getByRole('listitem')
  await expect.poll(() => rows.allTextContents()).toHaveLength(1)
  expect((await rows.allTextContents())[0]).toMatch(/^one/)
  await page.goto(`${studio.server.url}/ui/runs/${id}`)
  await page.getByRole('button', { name: 'Fork', exact: true }).click()
  await page.getByRole('button', { name: 'Fork the run' }).click()
  await page.waitForURL((url) => !url.pathname.endsWith(id))
  await expect.poll(() => rows.count()).toBe(3)
  studio.calm()
})

withBrowser('what a filter finds is retried after its count', async () => {
  const { tide } = studio
  for (let n = 0; n < 3; n++)
    await tide.run('brittle', async (run) => run.step('break', () => Promise.reject(new Error('no')))).catch(() => {})
  await tide.run('other', async () => Promise.reject(new Error('no'))).catch(() => {})
  const page = await studio.open('/ui/runs?workflow=brittle')
  await page.getByRole('button', { name: 'Retry these…' }).click()
  await page.getByText('The filter finds 3 failed runs.').waitFor()
  await page.getByRole('button', { name: 'Retry 3 failed runs' }).click()
  const status = page.getByRole('navigation', { name: 'Status' })
  await status.getByText('pending 3').waitFor()
  await status.getByText('failed 0').waitFor()
  const { runs } = await tide.runs.list({ status: 'failed' })
  expect(runs.map(({ workflowName }) => workflowName)).toEqual(['other'])
  studio.calm()
})

withBrowser(
  'a run copied as curl, TypeScript and Python is made again by what was copied',
  { timeout: 90_000 },
  async () => {
    const { tide, server } = studio
    const input = { text: `it's "quoted" $HOME \`id\` \\ and\nmore ünïcode 🌊`, deep: [1, null, { a: true }] }
    const metadata = { tenant: "o'brien", of: 7 }
    const run = promisify(execFile)
    const env = { ...process.env, TIDEBASE_API_KEY: rootKey, PYTHONPATH: `${root}/python/tidebase` }
    const node = ['--conditions=source', '--import', 'tsx', '--input-type=module', '-e']
    const programs: [string, (text: string) => Promise<unknown>][] = [
      ['curl', (text) => run('bash', ['-c', text.replace('curl', 'curl -fsS')], { env })],
      ['TypeScript', (text) => run(process.execPath, [...node, text], { env, cwd: root })],
    ]
    if (existsSync('/usr/bin/python3'))
      programs.push(['Python', (text) => run('/usr/bin/python3', ['-c', text], { env })])
    for (const queue of [undefined, 'the queue/1']) {
      const workflow = queue === undefined ? "copied 'direct'" : 'copied by queue'
      const { id } =
        queue === undefined
          ? await tide.runs.create(workflow, { input, metadata })
          : (await tide.enqueue(workflow, { queue, input, metadata })).run
      const page = await studio.open(`/ui/runs/${id}`, { permissions: ['clipboard-read', 'clipboard-write'] })
      await page.getByText('Copy as').click()
      for (const [name, execute] of programs) {
        await page.getByRole('button', { name, exact: true }).click()
        await page.getByRole('button', { name: 'Copied' }).waitFor()
        const text = String(await page.evaluate('navigator.clipboard.readText()'))
        expect(text).toContain(server.url)
        expect(text).not.toContain(rootKey)
        await execute(text)
        await page.getByRole('button', { name, exact: true }).waitFor()
      }
      const { runs } = await tide.runs.list({ workflow })
      expect(runs).toHaveLength(programs.length + 1)
      for (const each of runs) expect(each).toMatchObject({ input, metadata, queue: queue ?? null })
      await page.close()
    }
    studio.calm()
  },
)
