import type { AddressInfo } from 'node:net'
import PostalMime from 'postal-mime'
import { SMTPServer } from 'smtp-server'
import { expect, onTestFinished, test } from 'vitest'
import { client, startServer } from '../../../test/server.ts'
import { startTestPlatform } from './harness.ts'

// What a platform may have elsewhere: the run server, the mail server.

test('a Tidebase elsewhere: each pod has a project of its own there', { timeout: 90_000 }, async () => {
  const key = 'the-own-key-of-this-server-0123456789'
  const tidebase = await startServer({ apiKey: key })
  onTestFinished(() => tidebase.stop())
  const platform = await startTestPlatform({ tidebaseUrl: tidebase.url, tidebaseKey: key })
  onTestFinished(() => platform.stop())
  const ada = await platform.agent()
  const source = {
    'main.ts': `import tp from 'tidepool'
tp.workflow('greet', async (run, input: { name: string }) => { await run.step('say', () => tp.db.set('said', input.name)) })
tp.route('/', async (req) => ({ said: await tp.db.get('said', null), runs: (await tp.runs.list()).runs.map(({ id }) => id) }))
tp.route('/go/:name', async (_req, { name }) => ({ id: (await tp.enqueue('greet', { input: { name } })).run.id }))
`,
  }
  await platform.deploy(ada, 'first', source)
  await platform.deploy(ada, 'second', source)
  const { id } = (await platform.fetchPod('first', '/go/world')).body
  await expect.poll(async () => (await platform.fetchPod('first')).body).toEqual({ said: 'world', runs: [id] })
  expect((await platform.fetchPod('second')).body).toEqual({ said: null, runs: [] })
  // Deployments are runs there too, in the platform's project; the server's own project has none of it.
  const { runs } = await tidebase.ok('listRuns')
  expect(runs).toEqual([])
  // A key of a project makes none in others.
  const made = await tidebase.ok('createProjectKey', {
    params: { project: 'mine' },
    body: { name: 'k', scope: 'admin' },
  })
  const refused = await client(tidebase.url, made.secret).send('createProjectKey', {
    params: { project: 'pod first' },
    body: { name: 'k', scope: 'admin' },
  })
  expect([refused.status, refused.body.code]).toEqual([403, 'forbidden'])
})

test('mail leaves by SMTP_URL: the link of a registration, and what pods send', { timeout: 60_000 }, async () => {
  const received: { to: string; subject: string | undefined; text: string; attachments: string[] }[] = []
  const smtp = new SMTPServer({
    authOptional: true,
    disabledCommands: ['STARTTLS'],
    onData(stream, session, done) {
      const chunks: Buffer[] = []
      stream.on('data', (chunk: Buffer) => chunks.push(chunk))
      stream.on('end', () => {
        PostalMime.parse(Buffer.concat(chunks)).then(({ subject, text = '', attachments }) => {
          const names = attachments.map(({ filename }) => filename ?? '')
          received.push({ to: session.envelope.rcptTo[0]?.address ?? '', subject, text, attachments: names })
          done()
        }, done)
      })
    },
  })
  await new Promise<void>((resolve) => smtp.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => new Promise<void>((resolve) => smtp.close(() => resolve())))
  const { port } = smtp.server.address() as AddressInfo
  const platform = await startTestPlatform({ smtpUrl: `smtp://127.0.0.1:${port}`, mailFrom: 'pods@example.com' })
  onTestFinished(() => platform.stop())

  const registered = await platform.call('POST', '/api/agents', { body: { email: 'ada@example.com' } })
  // Whoever registers an address must be able to read its mail.
  expect(registered.body).not.toHaveProperty('verifyUrl')
  const token = /token=(\S+)/.exec(received[0]?.text ?? '')?.[1]
  expect(received[0]?.to).toBe('ada@example.com')
  expect((await platform.call('POST', '/api/agents/verify', { body: { token } })).status).toBe(200)

  const ada = {
    id: '',
    email: 'ada@example.com',
    key: String(registered.body.key),
    call: (method: string, path: string, body?: unknown) =>
      platform.call(method, path, { key: String(registered.body.key), body }),
  }
  await platform.deploy(ada, 'postman', {
    'main.ts': `import tp from 'tidepool'
tp.route('/', async () => tp.email('bob@example.com', 'Your file', 'Here it is.', { attachments: [{ filename: 'a.txt', content: 'hello' }] }))
tp.route('/many', async () => { for (let n = 0; n < 6; n++) await tp.email('bob@example.com', 'x', 'y') })
`,
  })
  expect((await platform.fetchPod('postman')).body).toMatchObject({ status: 'sent' })
  expect(received.at(-1)).toMatchObject({ to: 'bob@example.com', subject: 'Your file', attachments: ['a.txt'] })
  const refused = await platform.fetchPod('postman', '/many')
  expect([refused.status, refused.body.code]).toEqual([429, 'mail_limit'])
})
