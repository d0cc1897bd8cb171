import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { expect, onTestFinished, test, vi } from 'vitest'
import { openLocalBackend } from '../src/backend-local.ts'
import { isPublicAddress } from '../src/fetch.ts'
import { startTestPod } from './pod.ts'

// What a pod may not do, and how clearly it is told.

test('the 101st event stream is told to come back; closed ones make room, and their generators end', async () => {
  let ended = 0
  const pod = await startTestPod((tp) => {
    tp.route('/live', async function* (req) {
      try {
        yield 1
        await new Promise((resolve) => req.signal.addEventListener('abort', resolve))
      } finally {
        ended++
      }
    })
  })
  const open = await Promise.all(
    Array.from({ length: 100 }, async () => {
      const stop = new AbortController()
      const answer = await pod.fetch('/live', { signal: stop.signal })
      const reader = answer.body?.getReader()
      let text = ''
      while (!text.includes('data: 1')) text += Buffer.from((await reader?.read())?.value ?? []).toString()
      return stop
    }),
  )
  const refused = await pod.fetch('/live')
  expect([refused.status, refused.headers.get('retry-after'), await refused.json()]).toMatchObject([
    503,
    '5',
    { code: 'too_many_streams' },
  ])
  for (const stop of open.slice(0, 10)) stop.abort()
  await vi.waitFor(() => expect(ended).toBe(10))
  const again = await pod.fetch('/live')
  expect(again.status).toBe(200)
  for (const stop of open) stop.abort()
  await again.body?.cancel()
  await vi.waitFor(() => expect(ended).toBe(101))
})

test('a stream whose generator throws, or yields what is not JSON, ends with an error event and nothing else', async () => {
  const pod = await startTestPod((tp) => {
    tp.route('/throws', function* () {
      yield 1
      throw new Error('in the middle')
    })
    tp.route('/bigint', async function* () {
      yield { ok: true }
      yield 10n
    })
    tp.page('/', 'still here')
  })
  for (const path of ['/throws', '/bigint']) {
    const text = await (await pod.fetch(path)).text()
    expect(text).toMatch(/data: .*\n\nevent: error\ndata: \{"error":/)
    expect(text.match(/event: error/g)).toHaveLength(1)
  }
  expect(await (await pod.fetch('/')).text()).toBe('still here')
})

test('the sixth mail of a handler call and the sixth background task are refused', async () => {
  const pod = await startTestPod((tp) => {
    tp.route('/mails', async () => {
      for (let n = 0; n < 6; n++) await tp.email('ada@example.com', `Mail ${n}`, 'x')
    })
    tp.route('/one', async () => tp.email('ada@example.com', 'One', 'x'))
    // What came with a request may be missing, whatever its type says.
    tp.route('/missing', async (req) => Reflect.apply(tp.email, tp, [req.query.to, req.query.subject ?? 'One', 'x']))
    tp.route('/no-text', async (req) => Reflect.apply(tp.email, tp, ['ada@example.com', req.query.subject]))
  })
  const answer = await pod.fetch('/mails')
  expect([answer.status, await answer.json()]).toMatchObject([429, { code: 'mail_limit', hint: expect.any(String) }])
  expect(await pod.backend.mail.list()).toHaveLength(5)
  expect((await pod.fetch('/one')).status).toBe(200)
  for (const path of ['/missing', '/no-text'])
    expect(await (await pod.fetch(path)).json()).toMatchObject({ code: 'invalid', hint: expect.any(String) })
  const failed = await startTestPod((tp) => {
    for (let n = 0; n < 6; n++) tp.background({ seconds: 60 }, () => undefined)
  }).catch((error: unknown) => error)
  expect(failed).toMatchObject({ code: 'task_limit', message: expect.stringContaining('at most 5') })
})

test('a background task runs on one of several replicas at a time, and once per deployment without seconds', async () => {
  let now = 0
  let most = 0
  const runs = { every: 0, once: 0 }
  const backend = await openLocalBackend({ dir: join((await startTestPod(() => undefined)).dir, 'shared') })
  onTestFinished(() => backend.close())
  const replica = () =>
    startTestPod(
      (tp) => {
        tp.background({ seconds: 0.2 }, async function every() {
          runs.every++
          most = Math.max(most, ++now)
          await new Promise((resolve) => setTimeout(resolve, 350))
          now--
        })
        tp.background(function once() {
          runs.once++
        })
      },
      { deployment: 'one', open: async () => Object.create(backend, { close: { value: async () => undefined } }) },
    )
  await Promise.all([replica(), replica(), replica()])
  await vi.waitFor(() => expect(runs.every).toBeGreaterThanOrEqual(2), 5000)
  expect(most).toBe(1)
  expect(runs.once).toBe(1)
})

test('a background task that was held up for longer than its lease leaves the lease of who took over alone', async () => {
  let end = () => {}
  const pod = await startTestPod((tp) => {
    tp.background({ seconds: 60 }, () => new Promise<void>((resolve) => (end = resolve)))
  })
  const lease = async () => (await pod.backend.read('tasks', 'lease:0'))?.value
  await vi.waitFor(async () => expect(await lease()).toBeTypeOf('string'), 5000)
  await pod.backend.write([{ op: 'set', space: 'tasks', key: 'lease:0', value: 'another replica', ttl: 30_000 }])
  end()
  await new Promise((resolve) => setTimeout(resolve, 100))
  expect(await lease()).toBe('another replica')
})

test('tp.http reaches public addresses only, however they are spelled', async () => {
  for (const address of [
    '0.0.0.0',
    '127.0.0.1',
    '127.9.9.9',
    '10.0.0.1',
    '172.16.0.1',
    '192.168.1.1',
    '169.254.169.254',
    '100.64.0.1',
    '224.0.0.1',
    '255.255.255.255',
    '192.0.2.1',
    '198.18.0.1',
    '::',
    '::1',
    '::ffff:127.0.0.1',
    '::ffff:7f00:1',
    '::127.0.0.1',
    'fe80::1',
    'fc00::1',
    'fd00:ec2::254',
    'ff02::1',
    '64:ff9b::7f00:1',
    '2002:7f00:1::',
    '2001:db8::1',
  ])
    expect({ address, open: isPublicAddress(address) }).toEqual({ address, open: false })
  for (const address of ['93.184.215.14', '8.8.8.8', '2606:4700::1111']) expect(isPublicAddress(address)).toBe(true)
  const inner = createServer((request, response) => {
    if (request.url === '/redirect') response.writeHead(302, { location: 'http://169.254.169.254/latest/' }).end()
    else response.end('inner secret')
  }).listen(0, '127.0.0.1')
  onTestFinished(() => void inner.close())
  await new Promise((resolve) => inner.once('listening', resolve))
  const { port } = inner.address() as AddressInfo
  const pod = await startTestPod(
    (tp) => {
      tp.route('/get', async (req) => (await tp.http.get(req.query.url ?? '')).text())
    },
    // The one exception is where the redirect starts.
    { allowHosts: [`localhost:${port}`] },
  )
  const get = async (url: string) => {
    const answer = await pod.fetch(`/get?url=${encodeURIComponent(url)}`)
    return { status: answer.status, text: await answer.text() }
  }
  for (const url of [
    `http://127.0.0.1:${port}/`,
    `http://2130706433:${port}/`,
    `http://0177.0.0.1:${port}/`,
    `http://0x7f.1:${port}/`,
    `http://127.1:${port}/`,
    `http://[::1]:${port}/`,
    `http://[::ffff:127.0.0.1]:${port}/`,
    `http://[::ffff:7f00:1]:${port}/`,
    `http://0.0.0.0:${port}/`,
    'http://169.254.169.254/latest/meta-data/',
    `http://localhost:${port}/redirect`,
  ]) {
    const { status, text } = await get(url)
    expect({ url, blocked: text.includes('blocked_address'), status }).toEqual({ url, blocked: true, status })
    expect(text).not.toContain('inner secret')
    expect(status).toBeGreaterThanOrEqual(400)
  }
  for (const url of ['file:///etc/passwd', 'ftp://127.0.0.1/', 'gopher://127.0.0.1/', 'not an address'])
    expect((await get(url)).status).toBeGreaterThanOrEqual(400)
  expect(await get(`http://localhost:${port}/`)).toEqual({ status: 200, text: 'inner secret' })
})

test('a name that is public when it is checked and private when it is connected to is not reached', async () => {
  const { guardedConnector } = await import('../src/fetch.ts')
  const asked: string[] = []
  // The connector below asks for the number it was given, not for the name: there is no second look-up to win.
  const connector = guardedConnector((options, callback) => {
    asked.push(options.hostname)
    callback(new Error('no route'), null)
  }, [])
  const failed = await new Promise((resolve) =>
    connector({ hostname: 'localhost', host: 'localhost', protocol: 'http:', port: '80' }, (...[error]) =>
      resolve(error),
    ),
  )
  expect(failed).toMatchObject({ code: 'blocked_address' })
  expect(asked).toEqual([])
})

test('the 201st request of tp.http within a minute is refused', async () => {
  const inner = createServer((_request, response) => response.end('x')).listen(0, '127.0.0.1')
  onTestFinished(() => void inner.close())
  await new Promise((resolve) => inner.once('listening', resolve))
  const { port } = inner.address() as AddressInfo
  const pod = await startTestPod(
    (tp) => {
      tp.route('/many', async () => {
        for (let n = 0; n < 200; n++) await (await tp.http.get(`http://127.0.0.1:${port}/`)).text()
        return 'done'
      })
      tp.route('/one', async () => (await tp.http.get(`http://127.0.0.1:${port}/`)).text())
    },
    { allowHosts: [`127.0.0.1:${port}`] },
  )
  expect(await (await pod.fetch('/many')).text()).toBe('done')
  const refused = await pod.fetch('/one')
  expect([refused.status, await refused.json()]).toMatchObject([429, { code: 'http_limit' }])
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
})

test('bodies and uploads that are too large are refused, and the server goes on', async () => {
  const pod = await startTestPod((tp) => {
    tp.route('/small', { methods: ['POST'], maxBody: 1000, maxUpload: 2000 }, (req) => ({
      size: req.raw.length,
      files: req.files,
    }))
  })
  const send = (body: string | FormData) => pod.fetch('/small', { method: 'POST', body })
  expect((await send('x'.repeat(1000))).status).toBe(200)
  const refused = await send('x'.repeat(1001))
  expect([refused.status, await refused.json()]).toMatchObject([413, { code: 'too_large' }])
  const form = new FormData()
  form.set('file', new Blob(['x'.repeat(2001)]), 'a.txt')
  expect((await send(form)).status).toBe(413)
  expect(await pod.backend.files.list()).toEqual([])
  expect((await send('{}')).status).toBe(200)
})

test('tp.db refuses what goes beyond its size, takes less again, and keeps what it has', async () => {
  const pod = await startTestPod(() => undefined)
  const backend = await openLocalBackend({ dir: join(pod.dir, 'other'), maxDbBytes: 10_000 })
  onTestFinished(() => backend.close())
  const set = (key: string, size: number) => backend.write([{ op: 'set', space: 'db', key, value: 'x'.repeat(size) }])
  await set('a', 6000)
  await expect(set('b', 6000)).rejects.toMatchObject({ code: 'quota_exceeded' })
  await set('b', 2000)
  await set('a', 10)
  await set('c', 6000)
  expect(await backend.keys('db')).toEqual(['a', 'b', 'c'])
  await expect(
    backend.write([{ op: 'set', space: 'db', key: 'x', value: 'y'.repeat(33 * 1024 * 1024) }]),
  ).rejects.toMatchObject({ code: 'bad_value' })
})

test('the public state is served with an ETag, and 304 to who has it', async () => {
  const pod = await startTestPod((tp) => {
    tp.page('/', 'home')
    tp.route('/score/:n', { methods: ['POST'] }, async (_req, { n }) =>
      tp.publish({ score: Number(n), gone: undefined }),
    )
  })
  expect(await (await pod.fetch('/?format=json')).text()).toBe('home')
  await pod.post('/score/1', {})
  const first = await pod.fetch('/?format=json')
  expect(await first.json()).toEqual({ score: 1 })
  const etag = first.headers.get('etag') ?? ''
  expect((await pod.fetch('/?format=json', { headers: { 'if-none-match': etag } })).status).toBe(304)
  await pod.post('/score/2', {})
  const second = await pod.fetch('/?format=json', { headers: { 'if-none-match': etag } })
  expect([second.status, await second.json()]).toEqual([200, { score: 2 }])
  expect(pod.tp.state).toEqual({ score: 2 })
})

test('markdown has tables, code and footnotes, and runs nothing', async () => {
  const { markdown } = (await startTestPod(() => undefined)).tp
  const text = String(markdown('| a | b |\n|---|---|\n| 1 | 2 |\n\n```ts\nconst x = 1 < 2\n```\n\nx[^1]\n\n[^1]: note'))
  for (const part of ['<table>', '<td>1</td>', '<pre><code', '1 &lt; 2', 'footnote']) expect(text).toContain(part)
  for (const evil of [
    '<script>alert(1)</script>',
    '<img src=x onerror=alert(1)>',
    '[x](javascript:alert(1))',
    '![x](javascript:alert(1))',
    '<a href="javascript:alert(1)">x</a>',
    '[x](data:text/html,<script>alert(1)</script>)',
    '<svg onload=alert(1)>',
    '[x](JaVaScRiPt:alert(1))',
    '<iframe src="https://evil.example"></iframe>',
    '[x](vbscript:x)',
    '`</code><script>`',
    '[a](https://x.example "><script>alert(1)</script>")',
    '<style>@import url(//evil)</style>',
    '<x onclick=alert(1)>y',
  ])
    for (const options of [{}, { unsafe: false }])
      expect({ evil, html: String(markdown(evil, options)) }).toEqual({
        evil,
        html: expect.not.stringMatching(
          /<(script|svg|iframe|style)|<[a-z][^>]*\s(on\w+=|(href|src)="(javascript|data|vbscript):)/i,
        ),
      })
  expect(String(markdown('<b>x</b>', { unsafe: true }))).toContain('<b>x</b>')
})
