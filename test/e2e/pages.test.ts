import { spawnSync } from 'node:child_process'
import { appendFile, chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { endpoints } from '../../packages/platform/src/endpoints.ts'
import { createDatabase } from '../server.ts'
import { chromiumPath, launch } from './browser.ts'
import { agentMachine, ask, type PlatformProcess, startPlatformProcess } from './platform.ts'
import { faults, fitsAll, look } from './studio.ts'

// The platform's own pages in a browser, on a platform as its operator starts it, with apps deployed by the command line.

const cli = fileURLToPath(new URL('../../packages/tidepool/bin/tidepool.mjs', import.meta.url))
const markup = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
let browser: Browser
let database: Awaited<ReturnType<typeof createDatabase>>
let dir: string
let platform: PlatformProcess
let machine: Awaited<ReturnType<typeof agentMachine>>
let stranger: Awaited<ReturnType<typeof agentMachine>>
let app: string
let key: string
const complaints: string[] = []

const keyOf = async ({ home }: { home: string }) => {
  const saved: { keys: Record<string, { key: string }> } = JSON.parse(
    await readFile(join(home, 'config', 'tidepool', 'credentials.json'), 'utf8'),
  )
  return saved.keys[platform.url]?.key ?? ''
}

/** Somebody with a command line, whose address is confirmed. */
async function arrive(email: string) {
  const made = await agentMachine(platform.url)
  const registered = await made.tp(['register', '--email', email])
  await made.tp(['verify', String(registered.json.verifyUrl)])
  return made
}

const source = (version: string, before = '') => `import tp from 'tidepool'
${before}
tp.route('/', (req) => { if (req.query.say) console.log(req.query.say); return '${version}' })
tp.route('/fail', () => { throw new Error(${JSON.stringify(markup)}) })
tp.route('/mail', async () => { await tp.email('ada@example.com', ${JSON.stringify(markup)}, ${JSON.stringify(markup)}); return 'sent' })
`

beforeAll(async () => {
  if (!chromiumPath) return
  database = await createDatabase()
  dir = await mkdtemp(join(tmpdir(), 'tpw-'))
  platform = await startPlatformProcess(dir, { DATABASE_URL: database.url })
  machine = await arrive('ada@example.com')
  stranger = await arrive('eve@example.com')
  key = await keyOf(machine)
  browser = await launch()
  app = join(machine.home, 'harbour')
  await mkdir(app)
  await writeFile(join(app, 'main.ts'), source('one'))
  await machine.tp(['deploy', '--name', 'harbour', '--message', `first ${markup}`], { cwd: app })
}, 180_000)
afterAll(async () => {
  await browser?.close()
  await platform?.stop()
  await machine?.remove()
  await stranger?.remove()
  await database?.drop()
  if (dir) await rm(dir, { recursive: true, force: true })
})

/** A page of a browser of its own, signed in with a key if there is one. What it complains about fails `calm`. */
async function open(path: string, { as, ...options }: BrowserContextOptions & { as?: string } = {}): Promise<Page> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options })
  const page = await context.newPage()
  page.on('pageerror', (error) => complaints.push(`${page.url()}: ${error}`))
  page.on('console', (message) => {
    // Answers that are not 2xx are part of what is tested.
    if (message.type() === 'error' && !message.text().startsWith('Failed to load resource'))
      complaints.push(`${page.url()}: ${message.text()}`)
  })
  if (as) {
    await page.goto(`${platform.url}/sign-in`)
    await enter(page, as)
    await page.waitForURL(/\/(pods|admin)$/)
  }
  await page.goto(platform.url + path)
  return page
}

async function enter(page: Page, secret: string): Promise<void> {
  await page.getByLabel('API key').fill(secret)
  await page.getByRole('main').getByRole('button', { name: 'Sign in' }).click()
}

/** Throws what pages complained about, such as breaches of their policy; and whether stored markup ran. */
async function calm(page: Page): Promise<void> {
  expect(await page.evaluate('window.hacked')).toBeUndefined()
  expect(complaints.splice(0)).toEqual([])
}

/** Without serious faults for those who see, hear or type their way, in either light, at every width. */
async function sound(page: Page, name: string): Promise<void> {
  for (const colorScheme of ['dark', 'light'] as const) {
    await page.emulateMedia({ colorScheme })
    expect([name, colorScheme, await faults(page)]).toEqual([name, colorScheme, []])
  }
  await fitsAll(page)
  await look(page, name)
}

const operatorKey = async () => (await readFile(join(dir, '.tidepool', 'operator.key'), 'utf8')).trim()
const deployment = (page: Page, number: number) =>
  page.locator('li.deployment').filter({ has: page.getByText(`#${number}`, { exact: true }) })
const isLive = (page: Page) => page.getByText('Live', { exact: true }).waitFor()

describe.skipIf(!chromiumPath)('the platform’s pages', { timeout: 120_000 }, () => {
  test('landing, quickstart, API and sign-in are sound, and name every endpoint', async () => {
    const page = await open('/')
    await page.getByRole('heading', { level: 1, name: 'Full web apps' }).waitFor()
    await sound(page, 'landing')
    await page.getByRole('main').getByRole('link', { name: 'Quickstart' }).click()
    await page.getByRole('heading', { level: 1, name: 'Quickstart' }).waitFor()
    await sound(page, 'quickstart')
    await page.getByRole('navigation', { name: 'Main' }).getByRole('link', { name: 'API' }).click()
    for (const [name, { method, path }] of Object.entries(endpoints))
      expect(await page.locator(`#${name} h3`).innerText()).toBe(`${method} ${path}`)
    await sound(page, 'api')
    await page
      .getByRole('navigation', { name: 'Endpoints' })
      .getByRole('link', { name: 'POST /keys', exact: true })
      .click()
    expect(new URL(page.url()).hash).toBe('#addKey')
    await page.getByRole('link', { name: 'Sign in' }).click()
    await sound(page, 'sign-in')
    await page.goto(`${platform.url}/nowhere`)
    await page.getByRole('heading', { name: 'There is no endpoint' }).waitFor()
    await sound(page, 'not-found')
    await calm(page)
  })

  test('the quickstart’s commands do what they say, as they stand on the page', async () => {
    const page = await open('/quickstart')
    const commands = await page.locator('code[data-step]').allInnerTexts()
    expect(commands.length).toBeGreaterThan(5)
    const home = await mkdtemp(join(tmpdir(), 'tpq-'))
    try {
      // What npx finds on a machine where the package is installed.
      await writeFile(join(home, 'npx'), `#!/bin/sh\nshift\nexec "${process.execPath}" "${cli}" "$@"\n`)
      await chmod(join(home, 'npx'), 0o755)
      let token = ''
      const script = (command: string) =>
        spawnSync('bash', ['-ec', `cd "$(cat "${home}/where")" && ${command} && pwd > "${home}/where"`], {
          env: { PATH: `${home}:${process.env.PATH}`, HOME: home, NO_COLOR: '1' },
          encoding: 'utf8',
        })
      await writeFile(join(home, 'where'), home)
      for (const command of commands) {
        const { status, stdout, stderr } = script(command.replace('link_…', token))
        expect([command, status, status === 0 ? '' : stdout + stderr]).toEqual([command, 0, ''])
        token ||= /link_[\w-]+/.exec(stdout)?.[0] ?? ''
      }
      expect((await ask(platform.port, 'my-app')).status).toBe(200)
    } finally {
      await rm(home, { recursive: true, force: true })
    }
  })

  test('the app of the first page runs', async () => {
    const page = await open('/')
    const folder = join(machine.home, 'sample')
    await mkdir(folder)
    await writeFile(join(folder, 'main.ts'), await page.getByRole('region', { name: 'An app’s main.ts' }).innerText())
    await machine.tp(['deploy', '--name', 'sample'], { cwd: folder })
    expect((await ask(platform.port, 'sample')).body).toContain('<h1>Notes</h1>')
    await machine.tp(['delete', '-y'], { cwd: folder })
  })

  test('signing in: a wrong key, the right one, out again; the key is in no address', async () => {
    const page = await open('/pods')
    const addresses: string[] = []
    page.on('request', (request) => addresses.push(request.url()))
    expect(new URL(page.url()).pathname).toBe('/sign-in')
    await enter(page, 'tp_wrong')
    await page.getByRole('alert').waitFor()
    await sound(page, 'sign-in-wrong')
    await enter(page, key)
    await page.getByRole('link', { name: 'harbour', exact: true }).waitFor()
    await sound(page, 'pods')
    await page.reload()
    await page.getByRole('link', { name: 'harbour', exact: true }).waitFor()
    await page.getByRole('button', { name: 'Sign out' }).click()
    await page.getByRole('link', { name: 'Sign in' }).waitFor()
    await page.goto(`${platform.url}/pods`)
    expect(new URL(page.url()).pathname).toBe('/sign-in')
    expect(addresses.filter((address) => address.includes(key) || address.includes('tp_'))).toEqual([])
    expect(platform.log()).not.toContain(key)
    await calm(page)
  })

  test('a deployment is seen live, step by step, and can be gone back from', async () => {
    const page = await open('/pods/harbour', { as: key })
    await isLive(page)
    await deployment(page, 1).getByText('live').waitFor()
    await writeFile(join(app, 'main.ts'), source('two', 'await new Promise((done) => setTimeout(done, 3000))'))
    const deployed = machine.tp(['deploy', '--message', 'second'], { cwd: app })
    await deployment(page, 2).locator('.flow .running', { hasText: 'boot' }).waitFor()
    expect(await deployment(page, 2).locator('.flow .completed').allInnerTexts()).toEqual([
      expect.stringContaining('unpack'),
      expect.stringContaining('install'),
    ])
    await deployment(page, 2).locator('.flow .coming', { hasText: 'switch' }).waitFor()
    await deployed
    await deployment(page, 2).getByText('live').waitFor()
    await deployment(page, 1).getByText('superseded').waitFor()

    await writeFile(join(app, 'main.ts'), source('three', 'undefinedTide()'))
    await machine.tp(['deploy', '--message', 'third'], { cwd: app, expected: 1 })
    await deployment(page, 3).getByText('failed', { exact: true }).waitFor()
    expect(await deployment(page, 3).locator('.problem').innerText()).toContain('main.ts:2')
    await sound(page, 'pod')

    await page.getByRole('button', { name: 'Roll back to deployment 1' }).click()
    await deployment(page, 4).getByText('live').waitFor()
    await expect.poll(async () => (await ask(platform.port, 'harbour')).body).toBe('one')
    await calm(page)
  })

  test('+ and − change what runs; restart, stop, start', async () => {
    const page = await open('/pods/harbour', { as: key })
    await isLive(page)
    const rows = page.getByRole('region', { name: 'All processes' }).locator('tbody tr')
    const healthy = (count: number) =>
      expect.poll(() => rows.filter({ hasText: 'healthy' }).count(), { timeout: 20_000 }).toBe(count)
    await healthy(1)
    expect(await page.getByRole('button', { name: 'One process less' }).isDisabled()).toBe(true)
    await page.getByRole('button', { name: 'One process more' }).focus()
    await page.keyboard.press('Enter')
    await healthy(2)
    // The part was made anew under the finger that pressed.
    expect(await page.evaluate('document.activeElement.id')).toBe('more')
    await page.getByRole('button', { name: 'One process less' }).click()
    await healthy(1)
    const [before] = await rows.locator('code').allInnerTexts()
    await page.getByRole('button', { name: 'Restart' }).click()
    await expect
      .poll(() => rows.locator('code').allInnerTexts(), { timeout: 20_000 })
      .toEqual([expect.not.stringMatching(String(before))])
    await page.getByText('Stop…').click()
    await page.getByRole('button', { name: 'Stop it' }).click()
    await page.getByRole('button', { name: 'Start', exact: true }).waitFor()
    expect((await ask(platform.port, 'harbour')).status).toBe(503)
    await page.getByRole('button', { name: 'Start', exact: true }).click()
    await healthy(1)
    await calm(page)
  })

  test('the log follows, figures move, and what was stored as markup is text', async () => {
    const page = await open('/pods/harbour', { as: key })
    await isLive(page)
    const figure = async () => Number((await page.locator('#requests').innerText()).replaceAll(',', ''))
    const before = await figure()
    await ask(platform.port, 'harbour', `/?say=${encodeURIComponent(`said ${markup}`)}`)
    await ask(platform.port, 'harbour', '/fail')
    await page.getByRole('log').getByText(`said ${markup}`).waitFor()
    await page.getByRole('log').locator('.error', { hasText: markup }).first().waitFor()
    await expect.poll(figure).toBeGreaterThanOrEqual(before + 2)
    await page.locator('.figures .bad').waitFor()
    await deployment(page, 1).getByText(`first ${markup}`).waitFor()
    await expect
      .poll(() => page.getByRole('region', { name: 'All processes' }).innerText(), { timeout: 20_000 })
      .toMatch(/\d MB[\s\S]*\d %/)
    await page.reload()
    await page.getByRole('log').getByText(`said ${markup}`).waitFor()
    await calm(page)
    const named = await fetch(`${platform.url}/api/pods`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body: JSON.stringify({ name: '<b>x' }),
    })
    expect(named.status).toBe(400)
  })

  test('a narrower key sees no button that would fail; a stranger sees no pod', async () => {
    const made = await fetch(`${platform.url}/api/keys`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body: JSON.stringify({ name: 'looks on', verbs: ['read'], pods: ['harbour'] }),
    })
    const { secret }: { secret: string } = JSON.parse(await made.text())
    const page = await open('/pods/harbour', { as: secret })
    await isLive(page)
    await page.getByRole('log').waitFor()
    const buttons = await page.getByRole('main').getByRole('button').allInnerTexts()
    expect(buttons.filter((text) => text !== 'Copy')).toEqual([])
    await sound(page, 'pod-read-only')
    const other = await open('/pods', { as: await keyOf(stranger) })
    await other.getByRole('heading', { name: 'No pods yet' }).waitFor()
    await sound(other, 'pods-empty')
    const answer = await other.goto(`${platform.url}/pods/harbour`)
    expect(answer?.status()).toBe(404)
    await other.getByRole('heading', { name: 'There is no pod harbour' }).waitFor()
    await calm(other)
  })

  test('admin: agents, pods, the machine, mails; confirming and stopping', async () => {
    await ask(platform.port, 'harbour', '/mail')
    const late = await agentMachine(platform.url)
    await late.tp(['register', '--email', 'late@example.com'])
    const page = await open('/admin', { as: await operatorKey() })
    await page.getByRole('rowheader', { name: 'ada@example.com' }).waitFor()
    await page.getByRole('rowheader', { name: 'harbour' }).waitFor()
    await page.getByText(/on \d+ cores/).waitFor()
    await sound(page, 'admin')
    await page.getByRole('button', { name: 'Confirm late@example.com without mail' }).click()
    await page.waitForURL(/\/admin$/)
    expect(await page.getByRole('button', { name: /Confirm late/ }).count()).toBe(0)
    expect((await late.tp(['whoami'])).json).toMatchObject({ agent: { verified: true } })
    await page.getByRole('button', { name: 'Stop harbour' }).click()
    await page.getByRole('button', { name: 'Start harbour' }).click()
    await page.getByRole('button', { name: 'Stop harbour' }).waitFor()
    await page.getByRole('navigation', { name: 'Admin' }).getByRole('link', { name: 'Mail' }).click()
    await page.getByRole('link', { name: 'Confirm your address for Tidepool' }).first().waitFor()
    await sound(page, 'mails')
    await page.getByRole('link', { name: markup }).click()
    await page.getByRole('region', { name: 'Text of the mail' }).getByText(markup).waitFor()
    await sound(page, 'mail')
    await calm(page)
    const agent = await open('/pods', { as: key })
    expect((await agent.goto(`${platform.url}/admin`))?.status()).toBe(403)
    await late.remove()
  })

  test('without script everything is there: signing in, scaling, signing out', async () => {
    const page = await open('/pods/harbour', { as: key, javaScriptEnabled: false })
    await page.getByRole('button', { name: 'One process more' }).click()
    await page.waitForURL(/\/pods\/harbour$/)
    await page.getByText('2 wanted').waitFor()
    await page.getByRole('button', { name: 'One process less' }).click()
    await page.getByText('1 wanted').waitFor()
    await page.getByRole('log').waitFor()
    await page.getByRole('button', { name: 'Sign out' }).click()
    await page.getByRole('link', { name: 'Sign in' }).waitFor()
    expect(complaints.splice(0)).toEqual([])
  })

  test('a hostile app on the same site gains nothing from who is signed in', async () => {
    const folder = join(stranger.home, 'evil')
    await mkdir(folder)
    const target = `${platform.url}/pods/harbour`
    await writeFile(
      join(folder, 'main.ts'),
      `import tp from 'tidepool'
tp.route('/', (req) => tp.reply('<form method="post" action="${target}/scale"><input name="replicas" value="5"><button>win</button></form>', {
  headers: { 'content-type': 'text/html' } }))
tp.route('/cookies', (req) => ({ got: req.headers.cookie ?? '' }))
`,
    )
    await appendFile(join(folder, 'main.ts'), "tp.route('/nothing', () => 200)\n")
    await stranger.tp(['deploy', '--name', 'evil'], { cwd: folder })
    const evil = `http://evil.localhost:${platform.port}`
    const page = await open('/pods/harbour', { as: key })
    const wanted = async () =>
      /(\d+) wanted/.exec(await page.getByRole('group', { name: 'Number of processes' }).innerText())?.[1]
    const other = await page.context().newPage()
    await other.goto(`${evil}/cookies`)
    expect(JSON.parse(await other.innerText('body'))).toEqual({ got: '' })
    await other.goto(evil)
    // It reads and sets no cookie of the platform's.
    const cookies = await other.evaluate(`(() => {
      for (const domain of ['; Domain=localhost', '; Domain=.localhost', ''])
        document.cookie = 'tidepool_session=planted; Path=/' + domain
      return document.cookie
    })()`)
    expect(String(cookies).replace('tidepool_session=planted', '')).toBe('')
    const tried = await other.evaluate(`Promise.all([
      fetch('${target}/scale', { method: 'POST', credentials: 'include', body: new URLSearchParams({ replicas: '4' }) }),
      fetch('${target}/scale', { method: 'POST', mode: 'no-cors', credentials: 'include', body: new URLSearchParams({ replicas: '4' }) }),
      fetch('${target}', { credentials: 'include' }),
      fetch('${target}/live', { credentials: 'include' }),
    ].map((each) => each.then((answer) => answer.text(), () => 'refused')))`)
    expect(tried).toEqual(['refused', expect.toBeOneOf(['', 'refused']), 'refused', 'refused'])
    const framed = await other.evaluate(`new Promise((done) => {
      const frame = document.createElement('iframe')
      frame.src = '${target}'
      frame.onload = () => done(frame.contentDocument === null ? 'not read' : frame.contentDocument.body.innerHTML)
      document.body.append(frame)
    })`)
    expect(framed).toBe('not read')
    await other.getByRole('button', { name: 'win' }).click()
    await other.getByRole('heading', { name: 'This form was not sent by a page of the platform' }).waitFor()
    await page.reload()
    await isLive(page)
    expect(await wanted()).toBe('1')
    expect((await page.context().cookies(platform.url)).filter(({ name }) => name === 'tidepool_session')).toHaveLength(
      1,
    )
  })
})
