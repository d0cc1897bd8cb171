import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { rawRequest, startTestPod } from './pod.ts'

test('files are served with ranges, ETags and HEAD; static files from the source', async () => {
  const { tp, fetch, dir, port } = await startTestPod(() => undefined)
  await tp.files.write('a b/digits.txt', '0123456789')
  const url = tp.files.url('a b/digits.txt')
  expect(url).toBe('/_files/a%20b/digits.txt')
  const whole = await fetch(url)
  expect([whole.status, whole.headers.get('content-type'), await whole.text()]).toEqual([
    200,
    'text/plain; charset=utf-8',
    '0123456789',
  ])
  const etag = whole.headers.get('etag') ?? ''
  expect((await fetch(url, { headers: { 'if-none-match': etag } })).status).toBe(304)
  for (const [range, status, text, header] of [
    ['bytes=2-4', 206, '234', 'bytes 2-4/10'],
    ['bytes=7-', 206, '789', 'bytes 7-9/10'],
    ['bytes=-3', 206, '789', 'bytes 7-9/10'],
    ['bytes=4-99', 206, '456789', 'bytes 4-9/10'],
    ['bytes=10-', 416, '', 'bytes */10'],
    ['lines=1-2', 200, '0123456789', null],
  ] as const) {
    const part = await fetch(url, { headers: { range } })
    expect([range, part.status, await part.text(), part.headers.get('content-range')]).toEqual([
      range,
      status,
      text,
      header,
    ])
  }
  const head = await rawRequest(port, { method: 'HEAD', path: url })
  expect([head.status, head.headers['content-length'], head.text]).toEqual([200, '10', ''])
  await mkdir(join(dir, 'static'))
  await writeFile(join(dir, 'static', 'x.css'), 'p {}')
  expect(await (await fetch('/static/x.css')).text()).toBe('p {}')
  for (const path of ['/static/../main.ts', '/static/%2e%2e/main.ts', '/_files/..%2f..%2fdb.json', '/_files/none'])
    expect((await rawRequest(port, { path })).status, path).toBe(404)
})

test('uploads are streamed into files; markup among them is never run on the origin of the app', async () => {
  const { tp, fetch, dir, port } = await startTestPod((tp) => {
    tp.route('/up', { methods: ['POST'], maxUpload: 100 }, (req) => ({ files: req.files, body: req.body }))
  })
  const form = new FormData()
  form.append('title', 'Cat')
  form.append('photo', new File(['<script>alert(1)</script>'], '../../evil.html', { type: 'image/png' }))
  form.append('photo', new File(['<svg onload="alert(1)"/>'], 'pic.svg'))
  form.append('empty', new File([], ''))
  const answer: { files: Record<'photo' | 'photo[1]', { url: string }> } = JSON.parse(
    await (await fetch('/up', { method: 'POST', body: form })).text(),
  )
  expect(answer).toMatchObject({
    body: { title: 'Cat' },
    files: {
      photo: { filename: 'evil.html', contentType: 'text/html', size: 25 },
      'photo[1]': { filename: 'pic.svg', contentType: 'image/svg+xml' },
    },
  })
  for (const [url, disposition] of [
    [answer.files.photo.url, 'attachment'],
    [answer.files['photo[1]'].url, 'inline'],
  ] as const) {
    const { headers } = await fetch(url)
    expect(headers.get('content-disposition')).toContain(disposition)
    expect(headers.get('content-security-policy')).toContain('sandbox')
    expect(headers.get('x-content-type-options')).toBe('nosniff')
  }
  const large = new FormData()
  large.append('a', new File(['small'], 'a.txt'))
  large.append('b', new File(['x'.repeat(101)], 'b.txt'))
  const refused = await fetch('/up', { method: 'POST', body: large })
  expect([refused.status, await refused.json()]).toEqual([413, expect.objectContaining({ code: 'too_large' })])
  expect(await tp.files.list()).toHaveLength(2)
  const broken = await fetch('/up', {
    method: 'POST',
    body: '--x\r\nContent-Disposition: form-data; name="a"; filename="a.txt"\r\n\r\nabc',
    headers: { 'content-type': 'multipart/form-data; boundary=x' },
  })
  expect([broken.status, await broken.json()]).toEqual([400, expect.objectContaining({ code: 'bad_form' })])
  expect(await tp.files.list()).toHaveLength(2)
  const socket = connect(port, '127.0.0.1')
  socket.write(
    'POST /up HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\ncontent-type: multipart/form-data; boundary=x\r\n\r\n',
  )
  socket.write('--x\r\nContent-Disposition: form-data; name="a"; filename="a.txt"\r\n\r\nabc')
  await expect.poll(() => readdir(join(dir, 'tp_data', 'incoming'))).toHaveLength(1)
  socket.destroy()
  await expect.poll(() => readdir(join(dir, 'tp_data', 'incoming'))).toEqual([])
  expect(await tp.files.list()).toHaveLength(2)
})
