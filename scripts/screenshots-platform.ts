// Makes the picture of the platform's pages in docs/: a platform of its own, an app deployed by the command line, and
// Chromium. `node --conditions=source --import tsx scripts/screenshots-platform.ts [folder]`; with a folder it writes
// every page there, at 400 and 1,280 px, light and dark, to be looked at.
import { appendFile, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Page } from 'playwright-core'
import { launch } from '../test/e2e/browser.ts'
import { agentMachine, ask, startPlatformProcess } from '../test/e2e/platform.ts'

const everything = process.argv[2]
const docs = fileURLToPath(new URL('../docs', import.meta.url))
const dir = await mkdtemp(join(tmpdir(), 'tps-'))
const port = Number(process.env.PORT ?? 8080)
const platform = await startPlatformProcess(dir, {}, port)
const machine = await agentMachine(platform.url)
const browser = await launch()

async function deployApp(): Promise<string> {
  const { tp, home } = machine
  const registered = await tp(['register', '--email', 'ada@example.com'])
  await tp(['verify', String(registered.json.verifyUrl)])
  await register('grace@example.com', false)
  await tp(['init', 'field-notes', '--template', 'blog'])
  const app = join(home, 'field-notes')
  await appendFile(
    join(app, 'main.ts'),
    `\ntp.route('/broken', () => { throw new Error('the tide is out') })\ntp.route('/say', (req) => { console.log('a visitor read ' + (req.query.what ?? 'the first page')); return 'ok' })\n`,
  )
  await tp(['deploy', '--message', 'first version'], { cwd: app })
  await appendFile(join(app, 'main.ts'), '\n// a better title\n')
  await tp(['deploy', '--message', 'a better title'], { cwd: app })
  await appendFile(join(app, 'main.ts'), '\nundefinedTide()\n')
  await tp(['deploy', '--message', 'a feed of notes'], { cwd: app, expected: 1 })
  await tp(['scale', '2'], { cwd: app })
  return app
}

/** Registers an agent; verified, its key may be used to sign in. */
async function register(email: string, verified: boolean): Promise<string> {
  const post = async (path: string, body: object) => {
    const headers = { 'content-type': 'application/json' }
    return (await fetch(platform.url + path, { method: 'POST', headers, body: JSON.stringify(body) })).text()
  }
  const { key, verifyUrl }: { key: string; verifyUrl: string } = JSON.parse(await post('/api/agents', { email }))
  if (verified) await post('/api/agents/verify', { token: new URL(verifyUrl).searchParams.get('token') })
  return key
}

async function visitors(): Promise<void> {
  for (let at = 0; at < 240; at++) {
    const path = at % 40 === 7 ? '/broken' : at % 9 === 0 ? `/say?what=note+${at}` : '/'
    await ask(platform.port, 'field-notes', path)
  }
}

async function signIn(page: Page, key: string): Promise<void> {
  await page.goto(`${platform.url}/sign-in`)
  await page.getByLabel('API key').fill(key)
  await page.getByRole('main').getByRole('button', { name: 'Sign in' }).click()
  await page.waitForURL(/\/(pods|admin)$/)
}

/** Goes to a page, waits until it is live where it is, and takes it. */
async function take(page: Page, path: string, name: string): Promise<void> {
  await page.goto(platform.url + path)
  if (path.startsWith('/pods/')) await page.getByText('Live', { exact: true }).waitFor()
  if (!everything) {
    await page.screenshot({ path: join(docs, `${name}.png`) })
    return
  }
  for (const width of [1280, 400])
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.setViewportSize({ width, height: 900 })
      await page.emulateMedia({ colorScheme })
      await page.screenshot({ path: join(everything, `${name}-${width}-${colorScheme}.png`), fullPage: name !== 'api' })
    }
}

try {
  const owner = await browser.newPage({ viewport: { width: 1280, height: 900 } })
  if (everything) {
    const key = await register('new@example.com', true)
    const visitor = await browser.newPage({ viewport: { width: 1280, height: 900 } })
    await take(visitor, '/quickstart', 'quickstart')
    await take(visitor, '/docs/api', 'api')
    await take(visitor, '/sign-in', 'sign-in')
    await signIn(visitor, key)
    await take(visitor, '/pods', 'pods-empty')
    await take(visitor, '/pods/nothing-here', 'not-found').catch(() => {})
  }
  if (everything) await take(owner, '/', 'landing')
  await deployApp()
  const key: { keys: Record<string, { key: string }> } = JSON.parse(
    await readFile(join(machine.home, 'config', 'tidepool', 'credentials.json'), 'utf8'),
  )
  await visitors()
  await signIn(owner, key.keys[platform.url]?.key ?? '')
  if (everything) await take(owner, '/pods', 'pods')
  await take(owner, '/pods/field-notes', 'platform-pod')
  if (everything) {
    const operator = await browser.newPage({ viewport: { width: 1280, height: 900 } })
    await signIn(operator, (await readFile(join(dir, '.tidepool', 'operator.key'), 'utf8')).trim())
    await take(operator, '/admin', 'admin')
    await take(operator, '/admin/mails', 'mails')
  }
} finally {
  await browser.close()
  await platform.stop()
  await machine.remove()
  await rm(dir, { recursive: true, force: true })
}
