// Chromium for tests, and pods under `tidepool dev` to point it at.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Browser, chromium, type Page } from 'playwright-core'

const bin = fileURLToPath(new URL('../../packages/tidepool/bin/tidepool.mjs', import.meta.url))

/** Where Chromium is: TEST_CHROMIUM, or as Debian installs it. */
export const chromiumPath = [process.env.TEST_CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser'].find(
  (path) => path && existsSync(path),
)
if (!chromiumPath)
  console.warn('SKIPPED: browser tests. Install Chromium (apt-get install chromium), or set TEST_CHROMIUM.')

/** Starts Chromium without what it would ask of the network by itself. */
export function launch(): Promise<Browser> {
  return chromium.launch({
    ...(chromiumPath && { executablePath: chromiumPath }),
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  })
}

/** A pod that runs. */
export interface Running {
  dir: string
  url: string
  /** The newest mail to somebody whose subject contains a text: its first link. */
  link(to: string, subject: string): Promise<string>
  stop(): Promise<void>
}

/** Runs a command of the CLI that serves until it is told to stop, in a folder of its own. */
export async function serve(dir: string, args: string[]): Promise<Running> {
  const child = spawn(process.execPath, [bin, ...args, '--port', '0', '--json'], {
    cwd: dir,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  child.stderr.on('data', (chunk) => {
    said += chunk
  })
  const line = await new Promise<string>((resolve, reject) => {
    child.stdout.once('data', (chunk) => resolve(String(chunk)))
    child.once('exit', (code) => reject(new Error(`tidepool ${args.join(' ')} ended with ${code}: ${said}`)))
  })
  const { url }: { url: string } = JSON.parse(line)
  return {
    dir,
    url,
    async link(to, subject) {
      for (let tries = 0; tries < 100; tries++) {
        const answer = await fetch(`${url}/_dev/mail?format=json`)
        const { mails }: { mails: { to: string; subject: string; links: string[] }[] } = JSON.parse(await answer.text())
        const found = mails.find((mail) => mail.to === to && mail.subject.includes(subject))?.links[0]
        if (found) return found
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
      throw new Error(`there was no mail to ${to} about ${subject}; the app said: ${said}`)
    },
    async stop() {
      if (child.exitCode !== null) return
      const ended = new Promise((resolve) => child.once('exit', resolve))
      child.kill('SIGTERM')
      await ended
    },
  }
}

/** Makes a pod from a template in a new folder. */
export async function init(template: string): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'tidepool-e2e-'))
  const child = spawn(process.execPath, [bin, 'init', 'app', '--template', template], { cwd: root, stdio: 'ignore' })
  const code = await new Promise((resolve) => child.once('exit', resolve))
  if (code !== 0) throw new Error(`tidepool init ended with ${code}`)
  return join(root, 'app')
}

/** Removes what `init` made. */
export const remove = (dir: string) => rm(join(dir, '..'), { recursive: true, force: true })

/** Fails when a page is wider than its window, which is how narrow layouts break. */
export async function fits(page: Page, path: string): Promise<void> {
  for (const width of [400, 1280]) {
    await page.setViewportSize({ width, height: 900 })
    await page.goto(path)
    const wide = Number(await page.evaluate('document.documentElement.scrollWidth'))
    if (wide > width) throw new Error(`${path} is ${wide} px wide in a window of ${width}`)
    if (process.env.SCREENSHOTS) {
      const name = new URL(path).pathname.replace(/\W+/g, '-').replace(/^-|-$/g, '') || 'home'
      await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}-${width}.png`) })
    }
  }
}
