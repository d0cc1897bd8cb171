import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { agentMachine } from '../../../test/e2e/platform.ts'
import { type Agent, startTestPlatform, type TestPlatform } from './harness.ts'

// The command line against a platform: what is sent, what is said, and what is asked first.

let platform: TestPlatform
let machine: Awaited<ReturnType<typeof agentMachine>>
let ada: Agent
beforeAll(async () => {
  platform = await startTestPlatform()
  machine = await agentMachine(platform.url)
  ada = await platform.agent('ada@example.com')
  await machine.tp(['login', '--key', ada.key])
}, 120_000)
afterAll(async () => {
  await platform.stop()
  await machine.remove()
})

async function app(name: string, files: Record<string, string> = {}): Promise<string> {
  const dir = join(machine.home, name)
  const all = { 'main.ts': "import tp from 'tidepool'\ntp.route('/', () => tp.secrets.word ?? 'no word')\n", ...files }
  for (const [path, content] of Object.entries(all)) {
    await mkdir(join(dir, path, '..'), { recursive: true })
    await writeFile(join(dir, path), content)
  }
  return dir
}

const sourceOf = async (pod: string): Promise<string[]> => {
  const { files }: { files: [string, string, number][] } = JSON.parse(
    (await ada.call('GET', `/api/pods/${pod}/source`)).text,
  )
  return files.map(([path]) => path)
}

describe('the command line', { timeout: 60_000 }, () => {
  test('leaves out what .tpignore and the fixed rules name, and says what it leaves out for its size', async () => {
    const dir = await app('tidy', {
      '.tpignore': '*.tmp\nnotes/\n!notes/keep.md\n',
      'a.tmp': 'x',
      'notes/secret.md': 'x',
      'build_log.txt': 'x',
      '.env': 'SECRET=1',
      'node_modules/x/index.js': 'x',
      'tp_data/db.json': '{"seed": 1}',
      'static/style.css': 'a{}',
    })
    await writeFile(join(dir, 'huge.bin'), '')
    await truncate(join(dir, 'huge.bin'), 51 * 1024 * 1024)
    await symlink('/etc/passwd', join(dir, 'link'))
    const { json, err } = await machine.tp(['deploy'], { cwd: dir })
    expect(json.warnings).toEqual(['huge.bin is larger than 50 MB and was left out', 'link is a link and was left out'])
    expect(err).toContain('huge.bin')
    expect(await sourceOf('tidy')).toEqual(['main.ts', 'static/style.css'])
    // The database of the laptop is not pushed by a deployment.
    expect((await ada.call('GET', '/api/pods/tidy/db')).body).toEqual({})
  })

  test('deploy takes secrets and files along; --secret overrules; only what changed is sent again', async () => {
    const dir = await app('carry', {
      'tp_data/secrets.json': '{"word": "from the file"}',
      'tp_data/files/a b/ü.txt': 'hello',
    })
    expect((await machine.tp(['deploy'], { cwd: dir })).json).toMatchObject({ uploaded: ['a b/ü.txt'] })
    expect((await platform.fetchPod('carry')).text).toBe('from the file')
    expect((await platform.fetchPod('carry', '/_files/a%20b/%C3%BC.txt')).text).toBe('hello')
    const again = await machine.tp(['deploy', '--secret', 'word=from the flag'], { cwd: dir })
    expect(again.json).toMatchObject({ uploaded: [], number: 2 })
    expect((await platform.fetchPod('carry')).text).toBe('from the flag')
    const { mode } = await stat(join(machine.home, 'config', 'tidepool', 'credentials.json'))
    expect(mode & 0o777).toBe(0o600)
  })

  test('push merges; --sync removes files that are not here, after asking; undo brings them back', async () => {
    const dir = await app('sync', { 'tp_data/files/keep.txt': 'k' })
    await machine.tp(['deploy'], { cwd: dir })
    await platform.platform.files.write((await podId('sync')) ?? '', 'extra.txt', bytes('extra'))
    expect((await machine.tp(['push', '--sync'], { cwd: dir, expected: 2 })).json).toMatchObject({ code: 'usage' })
    const pushed = await machine.tp(['push', '--sync', '-y'], { cwd: dir })
    expect(pushed.json).toMatchObject({ files: { upload: [], delete: ['extra.txt'] } })
    expect((await platform.fetchPod('sync', '/_files/extra.txt')).status).toBe(404)
    expect((await platform.fetchPod('sync', '/_files/keep.txt')).text).toBe('k')
    await machine.tp(['undo', '-y'], { cwd: dir })
    expect((await platform.fetchPod('sync', '/_files/extra.txt')).text).toBe('extra')
  })

  test('logs -f goes on line by line', async () => {
    const dir = await app('chatty', {
      'main.ts': "import tp from 'tidepool'\ntp.route('/', () => { console.log('somebody came'); return 'x' })\n",
    })
    await machine.tp(['deploy'], { cwd: dir })
    const cli = fileURLToPath(new URL('../../tidepool/bin/tidepool.mjs', import.meta.url))
    const child = spawn(process.execPath, [cli, 'logs', '-f', '--json'], {
      cwd: dir,
      env: { ...process.env, XDG_CONFIG_HOME: join(machine.home, 'config'), TIDEPOOL_URL: platform.url },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    onTestFinished(() => void child.kill('SIGKILL'))
    let out = ''
    child.stdout.on('data', (chunk) => {
      out += chunk
    })
    const lines = () => out.split('\n').filter((line) => line.includes('somebody came')).length
    for (let n = 1; n <= 3; n++) {
      await platform.fetchPod('chatty')
      await expect.poll(lines, { timeout: 10_000 }).toBeGreaterThanOrEqual(n)
    }
    child.kill('SIGINT')
    const [code]: (number | null)[] = await once(child, 'exit')
    expect(code).toBe(0)
  })

  test('logs show what an app prints, and nothing of it reaches further than its line', async () => {
    const odd = [
      '{"time":1e300,"level":50,"msg":"far away"}',
      '{"time":-5,"level":"constructor","msg":"long ago"}',
      '{"level":{},"msg":"no level","replica":"other","at":"x"}',
      'null',
      'a title \u001b]0;owned\u0007 a clear \u001b[2J a colour \u001b[31mred\u001b[0m',
    ]
    const dir = await app('loud', {
      'main.ts': `import tp from 'tidepool'\nfor (const line of ${JSON.stringify(odd)}) console.log(line)\ntp.route('/', () => 'x')\n`,
    })
    const began = Date.now()
    await machine.tp(['deploy'], { cwd: dir })
    const { lines }: { lines: { at: number; level: string; replica: string; message: string }[] } = JSON.parse(
      (await machine.tp(['logs'], { cwd: dir })).out,
    )
    const printed = lines.filter(({ replica }) => replica !== 'platform')
    expect(printed.map(({ message }) => message).slice(0, 5)).toEqual([
      'far away',
      'long ago',
      'no level',
      ...odd.slice(3),
    ])
    for (const { at, level, replica } of printed) {
      expect(at).toBeGreaterThan(began - 60_000)
      expect(at).toBeLessThanOrEqual(Date.now())
      expect(['info', 'warn', 'error']).toContain(level)
      expect(replica).not.toBe('other')
    }
    const { out } = await machine.tp(['logs'], { cwd: dir, json: false })
    expect(out).toContain('a title ]0;owned a clear [2J a colour \u001b[31mred\u001b[0m')
  })

  test('what it is not told it asks nobody for, and says how to tell it', async () => {
    const empty = await mkdtemp(join(tmpdir(), 'tpx-'))
    onTestFinished(() => rm(empty, { recursive: true }))
    for (const [args, expected, code] of [
      [['register'], 2, 'usage'],
      [['login'], 2, 'usage'],
      [['scale', 'many'], 2, 'usage'],
      [['restart'], 2, 'usage'],
      [['pull'], 2, 'usage'],
      [['push'], 2, 'usage'],
      [['secrets', 'set', 'novalue', '--pod', 'tidy'], 2, 'usage'],
      [['deploy'], 1, 'no_main'],
      [['status', '--pod', 'nobodys'], 1, 'not_found'],
      [['deploy', '--frobnicate'], 2, 'usage'],
    ] as const) {
      const { json, err } = await machine.tp([...args], { cwd: empty, expected })
      expect([args, json.code]).toEqual([args, code])
      expect(json.hint).toBeTruthy()
      expect(err).toBe('')
    }
    const dashed = await machine.tp(['secrets', 'set', 'a-b=1', '--pod', 'tidy'], { expected: 1 })
    expect(dashed.json).toMatchObject({ code: 'invalid', error: 'set.a-b: must be letters, digits and _.' })
    expect((await machine.tp(['whoami', '--url', 'http://127.0.0.1:9'], { expected: 1 })).json).toMatchObject({
      code: 'unauthorized',
      next: expect.arrayContaining([expect.stringContaining('register')]),
    })
  })

  test('a narrower key does what it is for and no more', async () => {
    const made = await ada.call('POST', '/api/keys', { name: 'reader', pods: ['tidy'], verbs: ['read'] })
    const other = await agentMachine(platform.url)
    onTestFinished(() => other.remove())
    await other.tp(['login', '--key', String(made.body.secret)])
    expect((await other.tp(['status', '--pod', 'tidy'])).json).toMatchObject({ pod: { name: 'tidy' } })
    expect((await other.tp(['status', '--pod', 'carry'], { expected: 1 })).json).toMatchObject({ code: 'not_found' })
    expect((await other.tp(['kill', '--pod', 'tidy'], { expected: 1 })).json).toMatchObject({ code: 'forbidden' })
    const { credentials } = {
      credentials: await readFile(join(other.home, 'config', 'tidepool', 'credentials.json'), 'utf8'),
    }
    expect(credentials).toContain(platform.url)
  })
})

test('without bubblewrap the platform says what to install and runs no pod', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'tpn-'))
  onTestFinished(() => rm(dir, { recursive: true, force: true }))
  // A machine that has everything but that.
  const bin = join(dir, 'bin')
  await mkdir(bin)
  for (const name of ['sh', 'node', 'setpriv', 'npm']) {
    const found = (process.env.PATH ?? '').split(delimiter).map((path) => join(path, name))
    for (const path of found)
      if (
        await stat(path).then(
          () => true,
          () => false,
        )
      )
        await symlink(path, join(bin, name)).catch(() => {})
  }
  const before = process.env.PATH
  process.env.PATH = bin
  try {
    const bare = await startTestPlatform({ unsandboxed: false })
    onTestFinished(() => bare.stop())
    expect(bare.isolation).toContain('NOT RUN')
    const bob = await bare.agent()
    await expect(bare.begin(bob, 'unsafe', { 'main.ts': '' })).rejects.toThrow('no_sandbox')
    await expect(bare.begin(bob, 'unsafe', { 'main.ts': '' })).rejects.toThrow('--unsandboxed')
    // The rest of it works, Tidebase too.
    expect((await fetch(`${bare.tidebaseUrl}/health`)).status).toBe(200)
  } finally {
    process.env.PATH = before
  }
})

async function podId(name: string): Promise<string | undefined> {
  const { pod }: { pod: { id: string } } = JSON.parse((await ada.call('GET', `/api/pods/${name}`)).text)
  return pod.id
}

async function* bytes(text: string): AsyncGenerator<Uint8Array> {
  yield Buffer.from(text)
}
