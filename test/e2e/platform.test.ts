import { appendFile, cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Browser } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createDatabase } from '../server.ts'
import { chromiumPath, launch, serve } from './browser.ts'
import { agentMachine, ask, findMail, load, type PlatformProcess, startPlatformProcess } from './platform.ts'

// The way of an app from an empty folder to being deleted and restored: real command line, real gateway, real browser.

let browser: Browser | undefined
let database: Awaited<ReturnType<typeof createDatabase>>
let dir: string
let platform: PlatformProcess
let machine: Awaited<ReturnType<typeof agentMachine>>
beforeAll(async () => {
  database = await createDatabase()
  dir = await mkdtemp(join(tmpdir(), 'tpp-'))
  platform = await startPlatformProcess(dir, { DATABASE_URL: database.url })
  machine = await agentMachine(platform.url)
  if (chromiumPath) browser = await launch()
}, 120_000)
afterAll(async () => {
  await browser?.close()
  expect(await platform.stop()).toBe(0)
  await machine.remove()
  await database.drop()
  await rm(dir, { recursive: true, force: true })
})

const version = (text: string) =>
  `\ntp.auth = 'standard'\ntp.route('/me', (req) => ({ email: req.user?.email ?? null, pid: process.env.TIDEPOOL_REPLICA, version: '${text}' }))\n`

describe('an app on the platform', { timeout: 180_000 }, () => {
  let app: string
  const me = async () => JSON.parse((await ask(platform.port, 'field-notes', '/me')).body)

  test('register, verify, deploy the blog: it is live', async () => {
    const { tp, home } = machine
    await tp(['deploy'], { expected: 1 })
    const registered = await tp(['register', '--email', 'ada@example.com'])
    expect(registered.out).not.toContain('tp_')
    await tp(['init', 'field-notes', '--template', 'blog'])
    app = join(home, 'field-notes')
    expect((await tp(['deploy'], { cwd: app, expected: 1 })).json).toMatchObject({ code: 'unverified' })
    await tp(['verify', String(registered.json.verifyUrl)])
    expect((await tp(['whoami'])).json).toMatchObject({ agent: { email: 'ada@example.com', verified: true } })
    await appendFile(join(app, 'main.ts'), version('1'))
    const deployed = await tp(['deploy'], { cwd: app })
    expect(deployed.json).toMatchObject({ url: `http://field-notes.localhost:${platform.port}`, number: 1 })
    const home1 = await ask(platform.port, 'field-notes')
    expect(home1.status).toBe(200)
    expect(home1.body).toContain('Field Notes')
  })

  test.skipIf(!chromiumPath)('sign up in a browser; three replicas share the session and the data', async () => {
    const url = `http://field-notes.localhost:${platform.port}`
    const context = await browser?.newContext()
    const page = await context?.newPage()
    if (!page) throw new Error('no page')
    await page.goto(`${url}/_auth/signup`)
    await page.getByLabel('E-mail').fill('reader@example.com')
    await page.getByLabel('Password').fill('correct horse battery')
    await page.getByRole('button').first().click()
    const mail = await findMail(platform.url, dir, 'reader@example.com', 'onfirm')
    await page.goto(/http\S+/.exec(mail.text)?.[0] ?? '')
    await page.getByRole('button').first().click()
    await page.goto(`${url}/me`)
    expect(JSON.parse(await page.innerText('body'))).toMatchObject({ email: 'reader@example.com' })
    expect((await machine.tp(['scale', '3'], { cwd: app })).json).toMatchObject({ healthy: 3 })
    const seen = new Set<string>()
    await expect
      .poll(
        async () => {
          await page.goto(`${url}/me`)
          const { email, pid } = JSON.parse(await page.innerText('body'))
          expect(email).toBe('reader@example.com')
          seen.add(pid)
          return seen.size
        },
        { timeout: 20_000, interval: 10 },
      )
      .toBe(3)
    await context?.close()
  })

  test('a new version under load: no request fails', async () => {
    const running = load(platform.port, 'field-notes', [{ path: '/' }, { path: '/me' }, { path: '/feed.xml' }])
    const main = await readFile(join(app, 'main.ts'), 'utf8')
    await writeFile(join(app, 'main.ts'), main.replace("version: '1'", "version: '2'"))
    await machine.tp(['deploy', '--message', 'two'], { cwd: app })
    await expect.poll(async () => (await me()).version).toBe('2')
    // Until the processes of the first version have gone.
    await expect
      .poll(async () => {
        const { replicas }: { replicas: { deployment: string }[] } = JSON.parse(
          (await machine.tp(['status'], { cwd: app })).out,
        )
        return new Set(replicas.map(({ deployment }) => deployment)).size
      })
      .toBe(1)
    const { asked, failed } = await running.stop()
    expect(failed).toEqual([])
    expect(asked).toBeGreaterThan(50)
  })

  test.each([
    [
      'a throw at the start',
      "\nthrow new Error('not today')\n",
      { code: 'boot_failed', error: 'not today', file: 'main.ts' },
    ],
    ['a syntax error', '\nconst = 1\n', { code: 'boot_failed', file: 'main.ts' }],
  ])('a broken version does not go live: %s', async (_what, code, said) => {
    const main = await readFile(join(app, 'main.ts'), 'utf8')
    await writeFile(join(app, 'main.ts'), main + code)
    const failed = await machine.tp(['deploy'], { cwd: app, expected: 1 })
    expect(failed.json).toMatchObject(said)
    expect(failed.json.line).toBeGreaterThan(main.split('\n').length - 2)
    expect((await me()).version).toBe('2')
    await writeFile(join(app, 'main.ts'), main)
  })

  test('rollback, and undo with code and data together', async () => {
    const { tp } = machine
    expect((await tp(['rollback'], { cwd: app })).json).toMatchObject({ message: expect.stringContaining('#1') })
    expect((await me()).version).toBe('1')
    await writeFile(join(app, '..', 'db.json'), '{"note:1":"before"}')
    await tp(['push', '-y', '--file', '../db.json'], { cwd: app })
    expect((await me()).version).toBe('2')
    expect(await tables(tp, app)).toContain('note:1')
    await writeFile(join(app, '..', 'db.json'), '{"note:2":"after"}')
    expect((await tp(['push', '--replace-db', '--file', '../db.json'], { cwd: app, expected: 2 })).json).toMatchObject({
      code: 'usage',
      hint: expect.stringContaining('--yes'),
    })
    await tp(['push', '-y', '--replace-db', '--file', '../db.json'], { cwd: app })
    expect(await tables(tp, app)).toEqual(['note:2'])
    await tp(['undo', '-y'], { cwd: app })
    expect(await tables(tp, app)).toContain('note:1')
    // One undo takes back what one push did: code, secrets and data.
    const main = await readFile(join(app, 'main.ts'), 'utf8')
    await writeFile(join(app, 'main.ts'), main.replace("version: '2'", "version: '3'"))
    await tp(['push', '-y', '--replace-db', '--secret', 'fresh=one', '--file', '../db.json'], { cwd: app })
    expect((await me()).version).toBe('3')
    expect(await tables(tp, app)).not.toContain('note:1')
    await tp(['undo', '-y'], { cwd: app })
    expect((await me()).version).toBe('2')
    expect(await tables(tp, app)).toContain('note:1')
    expect((await tp(['secrets', 'list'], { cwd: app })).json).toMatchObject({ names: [] })
    await writeFile(join(app, 'main.ts'), main)
  })

  test('pull into an empty folder, dev, change, push: live', async () => {
    const { tp, home } = machine
    const copy = join(home, 'copy')
    await tp(['secrets', 'set', 'greeting=moin'], { cwd: app })
    const pulled = await tp(['pull', 'field-notes', '--dir', copy])
    expect(pulled.json).toMatchObject({ name: 'field-notes', secrets: 1 })
    expect(JSON.parse(await readFile(join(copy, 'tp_data', 'db.json'), 'utf8'))).toHaveProperty('note:1')
    expect(JSON.parse(await readFile(join(copy, 'tp_data', 'secrets.json'), 'utf8'))).toEqual({ greeting: 'moin' })
    const dev = await serve(copy, ['dev'])
    expect(await (await fetch(`${dev.url}/`)).text()).toContain('Field Notes')
    await dev.stop()
    await appendFile(join(copy, 'main.ts'), "\ntp.route('/moin', () => tp.secrets.greeting + ' again')\n")
    const pushed = await tp(['push', '-y'], { cwd: copy })
    expect(pushed.json.source).toMatchObject({ changed: ['main.ts'] })
    expect((await ask(platform.port, 'field-notes', '/moin')).body).toBe('moin again')
  })

  test('kill, activate, delete, restore', async () => {
    const { tp } = machine
    await tp(['kill'], { cwd: app })
    expect((await ask(platform.port, 'field-notes')).status).toBe(503)
    await tp(['activate'], { cwd: app })
    expect((await ask(platform.port, 'field-notes')).status).toBe(200)
    const { pod }: { pod: { id: string } } = JSON.parse((await tp(['delete', '-y'], { cwd: app })).out)
    expect((await ask(platform.port, 'field-notes')).status).toBe(404)
    await tp(['restore', '--pod', pod.id])
    expect((await ask(platform.port, 'field-notes', '/moin')).body).toBe('moin again')
  })
})

async function tables(tp: Awaited<ReturnType<typeof agentMachine>>['tp'], app: string): Promise<string[]> {
  const copy = await mkdtemp(join(tmpdir(), 'tpc-'))
  await cp(join(app, '.tidepool.json'), join(copy, '.tidepool.json'))
  await tp(['pull', '--dir', copy])
  const db = JSON.parse(await readFile(join(copy, 'tp_data', 'db.json'), 'utf8'))
  await rm(copy, { recursive: true })
  return Object.keys(db)
}
