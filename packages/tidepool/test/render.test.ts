import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { startTestPod } from './pod.ts'

test('templates escape what they are given, but not what is safe already: markdown and tp.html', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'tidepool-render-'))
  onTestFinished(() => rm(dir, { recursive: true, force: true }))
  await mkdir(join(dir, 'templates'))
  await writeFile(join(dir, 'templates', 'base.html'), '<main>{% block content %}{% endblock %}</main>')
  await writeFile(
    join(dir, 'templates', 'page.html'),
    '{% extends "base.html" %}{% block content %}{{ text }}|{{ body | markdown }}|{{ piece }}|{{ missing }}{% endblock %}',
  )
  await writeFile(join(dir, 'templates', 'broken.html'), 'one\ntwo {{ oops(1 }}\n')
  const { fetch } = await startTestPod(
    (tp) => {
      tp.route('/', () => tp.render('page.html', { text: '<b>', body: '*hi* <script>', piece: tp.html`<i>${'<'}</i>` }))
      tp.route('/broken', () => tp.render('broken.html'))
      tp.route('/none', () => tp.render('none.html'))
    },
    { dir },
  )
  expect(await (await fetch('/')).text()).toBe(
    '<main>&lt;b&gt;|<p><em>hi</em> &lt;script&gt;</p>\n|<i>&lt;</i>|</main>',
  )
  const broken = await (await fetch('/broken')).json()
  expect(broken).toMatchObject({ code: 'template', file: 'templates/broken.html', line: 2 })
  expect(await (await fetch('/none')).json()).toMatchObject({
    code: 'template',
    hint: expect.stringContaining('templates/none.html'),
  })
})
