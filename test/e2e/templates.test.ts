import { appendFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { OAuth2Server } from 'oauth2-mock-server'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { chromiumPath, fits, init, launch, remove, serve } from './browser.ts'

// Every template, in a real browser, as somebody uses it who has just made it.

let browser: Browser
beforeAll(async () => {
  if (chromiumPath) browser = await launch()
})
afterAll(() => browser?.close())

/** A person at a browser of their own. What goes wrong on their pages is collected. */
async function person(): Promise<Page & { problems: string[] }> {
  const context = await browser.newContext()
  onTestFinished(() => context.close())
  const page = await context.newPage()
  const problems: string[] = []
  page.on('pageerror', (error) => problems.push(error.message))
  page.on('console', (message) => {
    if (message.type() === 'error' && !/status of 4\d\d/.test(message.text())) problems.push(message.text())
  })
  page.setDefaultTimeout(10_000)
  return Object.assign(page, { problems })
}

async function start(template: string, prepare: (dir: string) => Promise<void> = async () => {}) {
  const dir = await init(template)
  onTestFinished(() => remove(dir))
  await prepare(dir)
  const pod = await serve(dir, ['dev'])
  onTestFinished(pod.stop)
  return pod
}

const text = (page: Page) => page.innerText('body')
const press = (page: Page, name: string) => page.getByRole('button', { name, exact: true }).first().click()
const follow = (page: Page, name: string) => page.getByRole('link', { name, exact: true }).first().click()

describe.skipIf(!chromiumPath)('templates in a browser', { timeout: 120_000 }, () => {
  test('quickstart: read, join, read on, cancel, come back by mail, write as admin', async () => {
    const root = await mkdtemp(join(tmpdir(), 'tidepool-e2e-'))
    onTestFinished(() => rm(root, { recursive: true, force: true }))
    const pod = await serve(root, ['quickstart', 'essays'])
    onTestFinished(pod.stop)
    const ada = await person()
    for (const path of ['/', '/join', '/post/slow-software', '/_auth/login', '/_pay/member'])
      await fits(ada, pod.url + path)
    await ada.goto(pod.url)
    await follow(ada, 'Slow software')
    expect(await text(ada)).toContain('The rest is for members')
    expect(await text(ada)).not.toContain('And somebody reads them')
    await ada.getByRole('main').getByRole('link', { name: 'Join' }).click()
    await follow(ada, 'Choose Membership')
    await ada.getByLabel('E-mail').fill('ada@example.com')
    await press(ada, 'Buy (simulated)')
    await ada.waitForURL(`${pod.url}/`)
    expect(await text(ada)).toContain('ada@example.com')
    await follow(ada, 'Slow software')
    expect(await text(ada)).toContain('And somebody reads them')
    await follow(ada, 'Membership')
    await fits(ada, `${pod.url}/_pay/portal`)
    await press(ada, 'Cancel')
    await ada.getByText('cancelled').waitFor()
    await ada.goto(`${pod.url}/post/slow-software`)
    expect(await text(ada)).toContain('The rest is for members')
    await press(ada, 'Log out')
    await follow(ada, 'Log in')
    await follow(ada, 'Log in by mail')
    await ada.getByLabel('E-mail').fill('ada@example.com')
    await press(ada, 'Send me a link')
    await ada.goto(await pod.link('ada@example.com', 'login link'))
    await press(ada, 'Log in as ada@example.com')
    expect(await text(ada)).toContain('ada@example.com')
    expect((await ada.goto(`${pod.url}/_admin/`))?.status()).toBe(403)

    const owner = await person()
    await owner.goto(`${pod.url}/_admin/`)
    await follow(owner, 'Log in by mail')
    await owner.getByLabel('E-mail').fill('admin@example.com')
    await press(owner, 'Send me a link')
    await owner.goto(await pod.link('admin@example.com', 'login link'))
    await press(owner, 'Log in as admin@example.com')
    for (const path of ['/_admin/', '/_admin/m/post', '/_admin/m/post/new', '/_dev', '/_dev/mail'])
      await fits(owner, pod.url + path)
    await owner.goto(`${pod.url}/_admin/m/post/new`)
    await owner.getByLabel('_id').fill('new-one')
    await owner.getByLabel('title').fill('A new <one>')
    await owner.getByLabel('body').fill('Some **bold** text <script>window.hacked = 1</script>')
    await owner.getByLabel('date').fill('2026-02-01')
    await owner.getByLabel('tier').selectOption('free')
    await press(owner, 'Save')
    await owner.getByRole('link', { name: 'A new <one>' }).click()
    await owner.getByLabel('title').fill('A newer one')
    await press(owner, 'Save')
    await owner.goto(`${pod.url}/post/new-one`)
    expect(await text(owner)).toContain('A newer one')
    expect(await owner.innerHTML('article')).toContain('<strong>bold</strong>')
    expect(await owner.evaluate("'hacked' in window")).toBe(false)
    await owner.goto(`${pod.url}/_admin/m/post/edit/new-one`)
    await press(owner, 'Delete')
    expect((await owner.goto(`${pod.url}/post/new-one`))?.status()).toBe(404)
    expect([...ada.problems, ...owner.problems]).toEqual([])
  })

  test('saas: sign up, confirm, work, run into the limit, buy, upload, reset, sign in with Google', async () => {
    const google = new OAuth2Server()
    await google.issuer.keys.generate('RS256')
    await google.start(0, '127.0.0.1')
    onTestFinished(() => google.stop())
    google.service.on('beforeTokenSigning', (token, request) => {
      Object.assign(token.payload, { aud: 'id', sub: '7', email: 'grace@example.com', email_verified: true, nonce })
      void request
    })
    let nonce: string | null = null
    google.service.on('beforeAuthorizeRedirect', (_redirect, request) => {
      nonce = new URL(String(request.url), 'http://x').searchParams.get('nonce')
    })
    const pod = await start('saas', async (dir) => {
      await appendFile(join(dir, 'main.ts'), "\ntp.auth.oauth = ['google']\n")
      await mkdir(join(dir, 'tp_data'))
      const secrets = { google_client_id: 'id', google_client_secret: 'secret', google_issuer: google.issuer.url }
      await writeFile(join(dir, 'tp_data', 'secrets.json'), JSON.stringify(secrets))
    })
    const ada = await person()
    for (const path of ['/', '/_auth/signup', '/_auth/reset']) await fits(ada, pod.url + path)
    await ada.goto(`${pod.url}/app`)
    expect(ada.url()).toContain('/_auth/login?next=%2Fapp')
    await follow(ada, 'Sign up')
    await ada.getByLabel('E-mail').fill('ada@example.com')
    await ada.getByLabel('Password').fill('a long password')
    await press(ada, 'Sign up')
    await ada.goto(await pod.link('ada@example.com', 'Confirm'))
    await press(ada, 'Confirm ada@example.com')
    await ada.waitForURL(`${pod.url}/app`)
    for (const name of ['One', 'Two']) {
      await ada.getByLabel('Name of the new project').fill(name)
      await press(ada, 'Add project')
      await ada.getByRole('link', { name, exact: true }).waitFor()
    }
    expect(await text(ada)).toContain('The free plan has room for 2 projects')
    await follow(ada, 'Go Pro')
    await press(ada, 'Buy (simulated)')
    await ada.goto(`${pod.url}/app`)
    await fits(ada, `${pod.url}/app`)
    await ada.getByLabel('Name of the new project').fill('Three')
    await press(ada, 'Add project')
    await follow(ada, 'Three')
    await ada.getByLabel('New task').fill('Write <b>tests</b>')
    await press(ada, 'Add task')
    await press(ada, 'To do')
    await ada.getByRole('button', { name: 'Done' }).waitFor()
    expect(await text(ada)).toContain('Write <b>tests</b>')
    await ada
      .getByLabel('File')
      .setInputFiles({ name: 'plan ä.txt', mimeType: 'text/plain', buffer: Buffer.from('the plan') })
    await press(ada, 'Upload')
    await fits(ada, ada.url())
    const [download] = await Promise.all([ada.waitForEvent('download'), follow(ada, 'plan ä.txt')])
    expect(download.suggestedFilename()).toBe('plan ä.txt')
    const content = await download.createReadStream()
    expect(Buffer.concat(await content.toArray()).toString()).toBe('the plan')
    const file = await ada.getByRole('link', { name: 'plan ä.txt' }).getAttribute('href')

    await press(ada, 'Log out')
    await ada.goto(`${pod.url}/_auth/login`)
    await ada.getByLabel('E-mail').fill('ada@example.com')
    await ada.getByLabel('Password').fill('not the one')
    await press(ada, 'Log in')
    await ada.getByRole('alert').waitFor()
    await follow(ada, 'Forgot your password?')
    await ada.getByLabel('E-mail').fill('ada@example.com')
    await press(ada, 'Send me a link')
    await ada.goto(await pod.link('ada@example.com', 'new password'))
    await ada.getByLabel('New password').fill('another password')
    await press(ada, 'Save it and log in')
    await ada.goto(`${pod.url}/app`)
    expect(await text(ada)).toContain('Three')

    const grace = await person()
    await grace.goto(`${pod.url}/_auth/login?next=/app`)
    await follow(grace, 'Continue with Google')
    await grace.waitForURL(`${pod.url}/app`)
    expect(await text(grace)).toContain('grace@example.com')
    expect(await text(grace)).toContain('No projects yet')
    // Another's project and its files are not there for her.
    expect((await grace.goto(pod.url + file))?.status()).toBe(404)
    expect([...ada.problems, ...grace.problems]).toEqual([])
  })

  test('blog: read, write in the open panel, feed', async () => {
    const pod = await start('blog')
    const ada = await person()
    for (const path of ['/', '/post/hello', '/?tag=writing']) await fits(ada, pod.url + path)
    await ada.goto(pod.url)
    await follow(ada, 'Hello')
    expect(await ada.innerHTML('article')).toMatch(/<table>[\s\S]*footnote/)
    expect((await ada.goto(`${pod.url}/post/a-draft`))?.status()).toBe(404)
    await ada.goto(`${pod.url}/_admin/m/post`)
    await follow(ada, 'A draft')
    await ada.getByLabel('published', { exact: true }).check()
    await press(ada, 'Save')
    await ada.goto(pod.url)
    await follow(ada, 'A draft')
    const feed = await (await fetch(`${pod.url}/feed.xml`)).text()
    expect(feed).toContain(`<link>${pod.url}/post/a-draft</link>`)
    expect(ada.problems).toEqual([])
  })

  test('chat: two people, live, with a picture', async () => {
    const pod = await start('chat')
    const [ada, bob] = [await person(), await person()]
    for (const page of [ada, bob]) {
      await page.goto(pod.url)
      await page.getByLabel('Your name').fill(page === ada ? 'Ada' : 'Bob')
      await press(page, 'Enter')
      await page.waitForURL(`${pod.url}/room/lobby`)
    }
    await ada.getByLabel('Message').fill('hello <b>Bob</b>')
    await press(ada, 'Send')
    await bob.getByText('hello <b>Bob</b>').waitFor()
    await bob.getByLabel('Message').fill('hello Ada')
    await press(bob, 'Send')
    await ada.getByText('hello Ada').waitFor()
    const pixel = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='
    await bob
      .getByLabel('Picture')
      .setInputFiles({ name: 'p.png', mimeType: 'image/png', buffer: Buffer.from(pixel, 'base64') })
    await press(bob, 'Send')
    const picture = ada.getByAltText('A picture from Bob')
    await picture.waitFor()
    await ada.waitForFunction("document.querySelector('img')?.naturalWidth === 1")
    await fits(ada, `${pod.url}/room/lobby`)
    expect(await ada.locator('#messages li').count()).toBe(3)
    expect([...ada.problems, ...bob.problems]).toEqual([])
  })
})
