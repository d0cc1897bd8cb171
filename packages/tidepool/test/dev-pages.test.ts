import { expect, test, vi } from 'vitest'
import { visitor } from './browser.ts'
import { rawRequest, startTestPod } from './pod.ts'

const start = (options: Parameters<typeof startTestPod>[1] = {}) =>
  startTestPod((tp) => {
    tp.auth = 'standard'
    tp.route('/fails', () => {
      throw new Error('<b>broken</b>')
    })
    tp.background({ seconds: 60 }, function tidyUp() {})
    tp.route('/mail', async () => {
      await tp.email(
        'ada@example.com',
        'Look <b>',
        tp.html`<p>Hi <script>alert(1)</script><a href="https://x.example/y">y</a></p>`,
      )
      return 'sent'
    })
  }, options)

test('mails are shown on the terminal and at /_dev/mail, their HTML in a sandbox', async () => {
  const pod = await start()
  await visitor(pod).post('/_auth/signup', { email: 'ada@example.com', password: 'a long password' })
  await vi.waitFor(() => expect(pod.logged.some(({ message }) => message.includes('Confirm your address'))).toBe(true))
  const line = pod.logged.find(({ message }) => message.startsWith('Mail to ada@example.com'))?.message ?? ''
  expect(line).toMatch(/http:\/\/localhost:\d+\/_auth\/confirm\?token=/)
  await pod.fetch('/mail')
  const { mails }: { mails: { id: string; subject: string; links: string[] }[] } = JSON.parse(
    await (await pod.fetch('/_dev/mail')).text(),
  )
  expect(mails.map(({ subject, links }) => [subject, links.length])).toEqual([
    ['Look <b>', 1],
    ['Confirm your address', 1],
  ])
  const [{ id = '' } = {}] = mails
  const page = await (await pod.page(`/_dev/mail/${id}`)).text()
  expect(page).toContain('Look &lt;b&gt;')
  expect(page).toContain('<iframe title="The mail as HTML" sandbox src=')
  const framed = await pod.page(`/_dev/mail/${id}/html`)
  expect(framed.headers.get('content-security-policy')).toMatch(/^sandbox; default-src 'none'/)
  expect((await pod.fetch('/_dev/mail/none')).status).toBe(404)
})

test('/_dev lists routes, users, errors and tasks, as a page and as JSON', async () => {
  const pod = await start()
  await pod.tp.createUser('ada@example.com', 'a long password')
  await pod.fetch('/fails')
  const page = await pod.page('/_dev')
  const text = await page.text()
  for (const part of ['/fails', 'ada@example.com', 'tidyUp', '&lt;b&gt;broken&lt;/b&gt;', '60 s'])
    expect(text).toContain(part)
  expect(page.headers.get('content-security-policy')).toMatch(/^default-src 'none'/)
  const json = await (await pod.fetch('/_dev?format=json')).json()
  expect(json).toMatchObject({
    users: [{ email: 'ada@example.com' }],
    background: [{ name: 'tidyUp', seconds: 60 }],
    errors: [{ method: 'GET', path: '/fails' }],
  })
  expect(JSON.stringify(json)).not.toMatch(/argon2|passwordHash/)
})

test('they are for this machine only, and not there in production', async () => {
  const pod = await start()
  expect((await rawRequest(pod.port, { path: '/_dev/mail', headers: { host: 'rebound.evil.example' } })).status).toBe(
    403,
  )
  const live = await start({ mode: 'production' })
  expect((await live.fetch('/_dev')).status).toBe(404)
  expect((await live.fetch('/_dev/mail')).status).toBe(404)
  await live.fetch('/mail')
  expect(live.logged.some(({ message }) => message.includes('Mail to'))).toBe(false)
})
