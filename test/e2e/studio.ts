// Studio for tests: a server with keys, a browser, and a page that is logged in.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { Tidebase } from '@tidebase/sdk'
import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import type { ServerOptions } from '../../packages/tidebase/src/server.ts'
import { buildStudioIfStale } from '../../scripts/build.mjs'
import { startServer } from '../server.ts'
import { launch } from './browser.ts'

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

/** The server's own key. */
export const rootKey = 'root-key-of-studio'

/** What the tests of Studio share. */
export interface StudioTest {
  server: Awaited<ReturnType<typeof startServer>>
  tide: Tidebase
  /** A page that shows `path` (or an address that leads to the server), logged in; what a page logs as an error, or throws, fails `calm`. */
  open(path: string, options?: BrowserContextOptions & { key?: string }): Promise<Page>
  /** Throws what pages complained about: script errors and breaches of the content security policy. */
  calm(): void
  stop(): Promise<void>
}

/** A promise and what settles it. */
export function signal() {
  let give = () => {}
  const given = new Promise<void>((resolve) => {
    give = resolve
  })
  return { give, given }
}

/** Starts a server with Studio, and Chromium. */
export async function startStudio(options: ServerOptions = {}): Promise<StudioTest> {
  await buildStudioIfStale()
  const server = await startServer({ apiKey: rootKey, allowPrivateWebhooks: true, ...options })
  const browser: Browser = await launch()
  const complaints: string[] = []
  return {
    server,
    tide: new Tidebase({ url: server.url, apiKey: rootKey }),
    async open(path, { key = rootKey, ...options } = {}) {
      const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options })
      const page = await context.newPage()
      page.on('pageerror', (error) => complaints.push(`${page.url()}: ${error}`))
      page.on('console', (message) => {
        const text = message.text()
        // Answers that are not 2xx are part of what is tested.
        if (message.type() === 'error' && !text.startsWith('Failed to load resource')) complaints.push(text)
      })
      await page.goto(new URL(path, server.url).href)
      await page.getByLabel('API key').fill(key)
      await page.getByRole('button', { name: 'Log in' }).click()
      await page.getByRole('navigation', { name: 'Main' }).waitFor()
      return page
    },
    calm() {
      if (complaints.length > 0) throw new Error(complaints.splice(0).join('\n'))
    },
    async stop() {
      await browser.close()
      await server.stop()
    },
  }
}

/** The serious faults that axe-core finds on a page. The page's policy lets no script of ours in but through the debugger. */
export async function faults(page: Page): Promise<string[]> {
  await page.evaluate(axe)
  const found: { violations: { id: string; impact: string; nodes: { html: string; failureSummary: string }[] }[] } =
    JSON.parse(
      await page.evaluate(
        `axe.run(document, { resultTypes: ['violations'] }).then((result) => JSON.stringify({ violations: result.violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.slice(0, 3).map(({ html, failureSummary }) => ({ html, failureSummary })) })) }))`,
      ),
    )
  return found.violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(
      ({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join(' | ')}`,
    )
}

/** Takes a picture when SCREENSHOTS names a folder. */
export async function look(page: Page, name: string): Promise<void> {
  const folder = process.env.SCREENSHOTS
  if (!folder) return
  for (const [width, colorScheme] of [
    [1280, 'light'],
    [1280, 'dark'],
    [400, 'light'],
    [400, 'dark'],
  ] as const) {
    await page.setViewportSize({ width, height: 900 })
    await page.emulateMedia({ colorScheme })
    await page.waitForTimeout(100)
    await page.screenshot({ path: `${folder}/${name}-${width}-${colorScheme}.png` })
  }
  await page.setViewportSize({ width: 1280, height: 900 })
  await page.emulateMedia({ colorScheme: 'light' })
}

/** Fails where a page is wider than a window of 400 or 2,000 px. */
export async function fitsAll(page: Page): Promise<void> {
  for (const width of [400, 800, 2_000, 1_280]) {
    await page.setViewportSize({ width, height: 900 })
    const wide = Number(await page.evaluate('document.documentElement.scrollWidth'))
    if (wide > width) throw new Error(`${page.url()} is ${wide} px wide in a window of ${width}`)
  }
}
