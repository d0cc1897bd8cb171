import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'

const bin = fileURLToPath(new URL('../bin/tidepool.mjs', import.meta.url))

interface Done {
  code: number
  stdout: string
  stderr: string
}

function tidepool(cwd: string, ...args: string[]): Promise<Done> {
  return new Promise((resolve) => {
    execFile(process.execPath, [bin, ...args], { cwd }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : error ? 1 : 0, stdout, stderr })
    })
  })
}

let root: string
let app: string
let server: ChildProcess
let url: string
let printed = ''

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'tidepool-dev-'))
  app = join(root, 'my-app')
  const made = await tidepool(root, 'init', 'my-app', '--json')
  expect(JSON.parse(made.stdout)).toMatchObject({ dir: app, template: 'hello', next: ['cd my-app', 'tidepool dev'] })
  server = spawn(process.execPath, [bin, 'dev', '--port', '0', '--json'], {
    cwd: app,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  server.stderr?.on('data', (chunk) => {
    printed += chunk
  })
  const line = await new Promise<string>((resolve) => server.stdout?.once('data', (chunk) => resolve(String(chunk))))
  url = JSON.parse(line).url
})
afterAll(async () => {
  if (server.exitCode === null) {
    server.kill('SIGTERM')
    await new Promise((resolve) => server.once('exit', resolve))
  }
  await rm(root, { recursive: true })
})

const get = async (path: string, accept = '*/*') => (await fetch(url + path, { headers: { accept } })).text()
const main = (code: string) => writeFile(join(app, 'main.ts'), `import tp from 'tidepool'\n${code}\n`)

test('a pod outside the repository runs without an install, with templates, static files and tp_data', async () => {
  expect(await get('/')).toContain('opened 1 time.')
  expect(await get('/')).toContain('opened 2 times.')
  expect(await get('/api/hello/ada')).toBe('{"hello":"ada"}')
  expect(await get('/static/style.css')).toContain('color-scheme')
  await expect.poll(() => readFile(join(app, 'tp_data/db.json'), 'utf8')).toBe('{\n  "visits": 2\n}\n')
})

test('a save is served; a syntax error and a throw in main.ts are shown with their line until they are mended', async () => {
  await main(`tp.page('/', 'second version')`)
  await expect.poll(() => get('/')).toBe('second version')
  await main(`const a = 1\ntp.page('/', `)
  await expect.poll(() => get('/')).toContain('"code":"build_failed"')
  expect(JSON.parse(await get('/'))).toMatchObject({ file: 'main.ts', line: 4 })
  expect(await get('/', 'text/html')).toContain('main.ts:4')
  await main(`const x: { a?: { b: string } } = {}\ntp.page('/', x.a.b)`)
  await expect.poll(() => get('/')).toContain('"code":"main_failed"')
  expect(JSON.parse(await get('/'))).toMatchObject({ file: 'main.ts', line: 3 })
  expect(await get('/', 'text/html')).toContain('tp.page(&#39;/&#39;, x.a.b)')
  expect(printed).toContain('main.ts:3')
  await main(`tp.page('/', 'mended')`)
  await expect.poll(() => get('/')).toBe('mended')
})

test('an error of a handler is shown with the line of the source and those around it', async () => {
  await main(`tp.route('/boom', () => {\n  const user: { name?: string } = {}\n  return user.name.length\n})`)
  await expect.poll(() => get('/boom')).toContain('"code":"internal"')
  expect(JSON.parse(await get('/boom'))).toMatchObject({ file: 'main.ts', line: 4 })
  const page = await get('/boom', 'text/html')
  expect(page).toContain('main.ts:4')
  expect(page).toContain('&gt; 4 |   return user.name.length')
})

test('a second dev server on the folder is refused and says who has it', async () => {
  const second = await tidepool(app, 'dev', '--port', '0', '--json')
  expect(second.code).toBe(1)
  expect(JSON.parse(second.stdout)).toMatchObject({ code: 'locked', hint: expect.stringContaining(String(server.pid)) })
})

test('wrong commands exit with 2 and say what is right, failures with 1', async () => {
  const unknown = await tidepool(root, 'fly', '--json')
  expect([unknown.code, JSON.parse(unknown.stdout).code]).toEqual([2, 'usage'])
  const template = await tidepool(root, 'init', 'x', '--template', 'nothing', '--json')
  expect([template.code, JSON.parse(template.stdout).code]).toEqual([2, 'usage'])
  const taken = await tidepool(root, 'init', 'my-app', '--json')
  expect([taken.code, JSON.parse(taken.stdout).code]).toEqual([1, 'folder_exists'])
  const empty = await tidepool(root, 'dev', '--json')
  expect([empty.code, JSON.parse(empty.stdout).code]).toEqual([1, 'no_main'])
})

test('eject copies the runtime, dev uses the copy, and deleting it undoes that', async () => {
  const ejected = await tidepool(app, 'eject', '--json')
  expect(JSON.parse(ejected.stdout)).toMatchObject({ dir: join(app, 'tidepool'), undo: 'rm -r tidepool' })
  expect((await tidepool(app, 'eject', '--json')).code).toBe(1)
  const file = join(app, 'tidepool', 'respond.ts')
  await writeFile(file, (await readFile(file, 'utf8')).replace("'nosniff',", "'nosniff', 'x-runtime', 'mine',"))
  server.kill('SIGTERM')
  await new Promise((resolve) => server.once('exit', resolve))
  const header = async () => {
    const own = spawn(process.execPath, [bin, 'dev', '--port', '0', '--json'], {
      cwd: app,
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const line = await new Promise<string>((resolve) => own.stdout.once('data', (chunk) => resolve(String(chunk))))
    const answer = await fetch(`${JSON.parse(line).url}/`)
    expect([answer.status, await answer.text()]).toEqual([200, 'whole'])
    own.kill('SIGTERM')
    await new Promise((resolve) => own.once('exit', resolve))
    return answer.headers.get('x-runtime')
  }
  await main(`tp.page('/', 'whole')`)
  expect(await header()).toBe('mine')
  await rm(join(app, 'tidepool'), { recursive: true })
  expect(await header()).toBeNull()
})
