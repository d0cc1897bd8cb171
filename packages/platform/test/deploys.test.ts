import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { createDatabase } from '../../../test/server.ts'
import { createCollector, sweepPods } from '../src/pods.ts'
import { type Agent, startTestPlatform, type TestPlatform } from './harness.ts'

let platform: TestPlatform
let ada: Agent
beforeAll(async () => {
  platform = await startTestPlatform()
  ada = await platform.agent()
}, 120_000)
afterAll(() => platform.stop())

const main = (text: string, more = '') => ({
  'main.ts': `import tp from 'tidepool'\ntp.route('/', () => '${text}')\n${more}`,
})
const read = async (name: string, path = '/') => (await platform.fetchPod(name, path)).text
const parse = <T>(text: string): T => JSON.parse(text)

describe('deployments', { timeout: 60_000 }, () => {
  test('one of a pod at a time; a repeated call of the same files is the same deployment', async () => {
    const slow = main('slow', 'await new Promise((done) => setTimeout(done, 1500))')
    const first = await platform.begin(ada, 'serial', slow)
    const again = await platform.begin(ada, 'serial', slow)
    expect(again.deployment).toBe(first.deployment)
    await expect(platform.begin(ada, 'serial', main('other'))).rejects.toThrow('deploy_running')
    expect((await platform.ended(ada, first)).status).toBe('live')
    await platform.deploy(ada, 'serial', main('other'))
    expect(await read('serial')).toBe('other')
  })

  test('cancelled: what is live stays live, the next one may begin', async () => {
    await platform.deploy(ada, 'calm', main('one'))
    const stuck = await platform.begin(
      ada,
      'calm',
      main('two', 'await new Promise((done) => setTimeout(done, 20_000))'),
    )
    const path = `/api/pods/${stuck.id}/deployments/${stuck.deployment}/cancel`
    expect((await ada.call('POST', path)).status).toBe(200)
    expect((await ada.call('POST', path)).status).toBe(200)
    expect((await platform.ended(ada, stuck)).status).toBe('cancelled')
    expect(await read('calm')).toBe('one')
    await platform.deploy(ada, 'calm', main('three'))
    expect(await read('calm')).toBe('three')
    const groups = () => platform.platform.replicas.groups().filter(({ pod }) => pod === stuck.id)
    await expect.poll(groups).toHaveLength(1)
  })

  test('a home page that fails is not healthy: the error names the line', async () => {
    await platform.deploy(ada, 'frail', main('fine'))
    const files = { 'main.ts': "import tp from 'tidepool'\n\ntp.route('/', () => { throw new Error('no home') })\n" }
    const begun = await platform.begin(ada, 'frail', files)
    const { status, error } = await platform.ended(ada, begun)
    expect(status).toBe('failed')
    expect(error).toMatchObject({
      code: 'unhealthy',
      file: 'main.ts',
      line: 3,
      error: expect.stringContaining('no home'),
    })
    expect(await read('frail')).toBe('fine')
  })

  test('a main.ts that never ends, or ends the process, does not go live', async () => {
    const exit = await platform.begin(ada, 'exits', main('x', 'process.exit(3)'))
    expect(await platform.ended(ada, exit)).toMatchObject({
      status: 'failed',
      error: { code: 'boot_failed', error: expect.stringContaining('code 3') },
    })
    expect((await platform.fetchPod('exits')).status).toBe(503)
  })

  test('what was not uploaded is named; nothing is deployed', async () => {
    const { body } = await ada.call('POST', '/api/pods', { name: 'empty' })
    const sha256 = 'a'.repeat(64)
    const { pod }: { pod: { id: string } } = body as never
    const answer = await ada.call('POST', `/api/pods/${pod.id}/deployments`, { files: [['main.ts', sha256, 5]] })
    expect(answer.status).toBe(409)
    expect(parse(answer.text)).toMatchObject({ code: 'missing_files', missing: [sha256] })
    expect((await platform.fetchPod('empty')).body).toMatchObject({ code: 'not_deployed' })
  })

  test('packages come from the lockfile, without scripts, and are kept for the next deployment', async () => {
    const manifest = {
      name: 'deps',
      private: true,
      type: 'module',
      // If it ran, the installation would fail.
      scripts: { postinstall: 'exit 1' },
      dependencies: { 'is-number': '7.0.0' },
    }
    const work = await mkdtemp(join(tmpdir(), 'tpl-'))
    onTestFinished(() => rm(work, { recursive: true, force: true }))
    await writeFile(join(work, 'package.json'), JSON.stringify(manifest))
    await promisify(execFile)('npm', ['install', '--package-lock-only', '--ignore-scripts', '--no-audit'], {
      cwd: work,
    })
    const lock = await readFile(join(work, 'package-lock.json'), 'utf8')
    const files = (text: string) => ({
      'package.json': JSON.stringify(manifest),
      'package-lock.json': lock,
      'main.ts': `import tp from 'tidepool'\nimport isNumber from 'is-number'\ntp.route('/', () => '${text} ' + isNumber(5))\n`,
    })
    const live = await platform.deploy(ada, 'deps', files('one'))
    expect(await read('deps')).toBe('one true')
    const second = await platform.deploy(ada, 'deps', files('two'))
    const found = await ada.call('GET', `/api/pods/${live.id}/deployments/${second.deployment}`)
    const { deployment } = parse<{ deployment: { steps: { name: string; detail: object }[] } }>(found.text)
    expect(deployment.steps.find(({ name }) => name === 'install')?.detail).toMatchObject({ cached: true })
    const bad = await platform.begin(ada, 'deps', {
      ...files('three'),
      'package.json': JSON.stringify({ ...manifest, dependencies: { 'is-number': '999.0.0' } }),
    })
    expect(await platform.ended(ada, bad)).toMatchObject({
      status: 'failed',
      error: { code: 'install_failed', error: expect.stringMatching(/lock file|is-number/) },
    })
    expect(await read('deps')).toBe('two true')
  })

  test('rollback goes to a number; nothing to roll back or undo is said', async () => {
    const { id } = await platform.deploy(ada, 'steps', main('one'))
    expect((await ada.call('POST', `/api/pods/${id}/rollback`, {})).body).toMatchObject({ code: 'not_deployed' })
    expect((await ada.call('POST', `/api/pods/${id}/undo`)).body).toMatchObject({ code: 'nothing_to_undo' })
    await platform.deploy(ada, 'steps', main('two'))
    await platform.deploy(ada, 'steps', main('three'))
    const { deployment } = parse<{ deployment: { id: string } }>(
      (await ada.call('POST', `/api/pods/${id}/rollback`, { deployment: '1' })).text,
    )
    await platform.ended(ada, { id, deployment: deployment.id })
    expect(await read('steps')).toBe('one')
  })
})

describe('replicas', { timeout: 60_000 }, () => {
  const shared = {
    'main.ts': `import tp from 'tidepool'
tp.background({}, async function once() { await tp.db.increment('once') })
tp.background({ seconds: 1 }, async function tick() { await tp.db.increment('ticks') })
tp.route('/', async () => ({ replica: process.env.TIDEPOOL_REPLICA, once: await tp.db.get('once'), ticks: await tp.db.get('ticks', 0) }))
tp.route('/add', async () => ({ n: await tp.db.increment('n') }))
tp.route('/work', async () => ({ id: (await tp.enqueue('job')).run.id }))
tp.route('/done', async () => tp.db.keys('done:'))
tp.route('/die', () => process.exit(1))
tp.workflow('job', async (run) => {
  await run.step('one', () => tp.db.increment('step-one'))
  await run.step('two', async () => { await tp.db.set('done:' + run.id, true) })
})
`,
  }

  test('share data, background tasks and workflows; scaling and restarting fails no request', async () => {
    const { id } = await platform.deploy(ada, 'crowd', shared)
    const failed: string[] = []
    let asked = 0
    let stop = false
    const load = Promise.all(
      [1, 2, 3, 4].map(async () => {
        while (!stop) {
          asked += 1
          const { status, text } = await platform.fetchPod('crowd', '/add')
          if (status !== 200) failed.push(`${status} ${text}`)
        }
      }),
    )
    await ada.call('PATCH', `/api/pods/${id}`, { replicas: 3 })
    const seen = new Set<string>()
    await expect
      .poll(async () => seen.add(String((await platform.fetchPod('crowd')).body.replica)).size, { timeout: 20_000 })
      .toBe(3)
    expect((await ada.call('POST', `/api/pods/${id}/restart`)).status).toBe(200)
    await ada.call('PATCH', `/api/pods/${id}`, { replicas: 2 })
    await expect.poll(() => platform.platform.replicas.of(id).length, { timeout: 20_000 }).toBe(2)
    stop = true
    await load
    expect(failed).toEqual([])
    // Every answer was counted, once.
    expect((await platform.fetchPod('crowd', '/add')).body).toEqual({ n: asked + 1 })
    const { id: run } = parse<{ id: string }>(await read('crowd', '/work'))
    await expect.poll(async () => parse<string[]>(await read('crowd', '/done'))).toEqual([`done:${run}`])
    // Once a deployment, whatever the number of replicas and restarts.
    const state = parse<{ once: number; ticks: number }>(await read('crowd'))
    expect(state.once).toBe(1)
    expect(state.ticks).toBeGreaterThan(0)
  })

  test('a process that dies is started again', async () => {
    const { id } = await platform.deploy(ada, 'phoenix', shared)
    await platform.fetchPod('phoenix', '/die').catch(() => undefined)
    expect((await platform.fetchPod('phoenix')).status).toBe(200)
    const logs = await ada.call('GET', `/api/pods/${id}/logs`)
    expect(logs.text).toContain('ended with code 1; it is started again')
  })
})

test('everything of a pod can be made again from the database and the storage', { timeout: 60_000 }, async () => {
  const database = await createDatabase()
  const first = await startTestPlatform({ databaseUrl: database.url, masterKey: '0'.repeat(64) })
  const bob = await first.agent('bob@example.com')
  await first.deploy(
    bob,
    'lasting',
    main('still here', "await tp.db.set('k', tp.secrets.word ?? 'none')\ntp.route('/k', () => tp.db.get('k'))"),
    {
      secrets: { set: { word: 'kept' } },
    },
  )
  const { dir } = first
  await first.platform.replicas.close()
  await rm(join(dir, 'releases'), { recursive: true })
  const storage = join(dir, 'storage')
  // Only the storage moves to the new machine.
  const moved = await mkdtemp(join(tmpdir(), 'tpm-'))
  await cp(storage, join(moved, 'storage'), { recursive: true })
  await first.stop()
  const second = await startTestPlatform({ databaseUrl: database.url, masterKey: '0'.repeat(64), dir: moved })
  try {
    expect((await second.fetchPod('lasting')).text).toBe('still here')
    expect((await second.fetchPod('lasting', '/k')).text).toBe('kept')
  } finally {
    await second.stop()
    await rm(moved, { recursive: true, force: true })
    await database.drop()
  }
})

test('bytes that nothing names any more are collected; what a rollback needs stays', { timeout: 60_000 }, async () => {
  const { id } = await platform.deploy(ada, 'litter', main('one'))
  await platform.deploy(ada, 'litter', main('two'))
  const { files, storage } = platform.platform
  await files.write(id, 'gone.txt', once('gone'))
  await files.write(id, 'kept.txt', once('kept'))
  await files.delete(id, 'gone.txt')
  const stray = 'b'.repeat(64)
  await storage.put(`pods/${id}/source/${stray}`, Buffer.from('never deployed'))
  const objects = async () => (await storage.list(`pods/${id}/`)).map(({ key }) => key)
  const before = await objects()
  expect(before).toHaveLength(5)
  // As if all of it had been there for long.
  const now = Date.now
  Date.now = () => now() + 7_200_000
  try {
    await createCollector({ ...platform.platform, db: only(id) })()
  } finally {
    Date.now = now
  }
  const after = await objects()
  expect(after).toHaveLength(3)
  expect(after).not.toContain(`pods/${id}/source/${stray}`)
  expect((await platform.fetchPod('litter', '/_files/kept.txt')).text).toBe('kept')
  const { deployment } = parse<{ deployment: { id: string } }>(
    (await ada.call('POST', `/api/pods/${id}/rollback`, {})).text,
  )
  expect((await platform.ended(ada, { id, deployment: deployment.id })).status).toBe('live')
  expect(await read('litter')).toBe('one')
})

test('one that the platform cannot do is told as tried again, ends when it is given up, and holds up no other', async () => {
  const eve = await platform.agent()
  const { db, releases } = platform.platform
  const unpack = vi.spyOn(releases, 'unpack').mockRejectedValue(new Error('no space left on the device'))
  onTestFinished(() => unpack.mockRestore())
  const begun = await platform.begin(eve, 'stuck', main('one'))
  const path = `/api/pods/${begun.id}/deployments/${begun.deployment}`
  const seen = async () => (await eve.call('GET', path)).text
  await expect.poll(seen, { timeout: 30_000 }).toContain('it is tried again')
  expect(await seen()).not.toContain('no space left')
  await db.query(
    `update tidebase.runs set max_attempts = attempt + 1, run_at = now() where id = (
      select substr(run, 5)::uuid from platform.deployments where id = $1)`,
    [begun.deployment],
  )
  await db.query(`update tidebase.live_runs set run_at = now() where queue = 'deploys'`)
  await db.query(`update platform.deployments set created_at = created_at - interval '1 hour' where id = $1`, [
    begun.deployment,
  ])
  expect(await platform.ended(eve, begun)).toMatchObject({ status: 'failed', error: { code: 'internal' } })
  unpack.mockRestore()
  await platform.deploy(eve, 'stuck', main('two'))
  expect(await read('stuck')).toBe('two')
}, 60_000)

test('a pod that cannot be kept or removed holds up no other', { timeout: 60_000 }, async () => {
  const eve = await platform.agent()
  const { db, storage } = platform.platform
  const broken = await platform.deploy(eve, 'broken', main('broken'), { secrets: { set: { word: 'x' } } })
  const sound = await platform.deploy(eve, 'sound', main('sound'))
  // As with a master key that is another's.
  await db.query("update platform.secrets set sealed = 'torn' where pod = $1", [broken.id])
  expect((await eve.call('PATCH', `/api/pods/${broken.id}`, { replicas: 2 })).status).toBe(200)
  expect((await eve.call('PATCH', `/api/pods/${sound.id}`, { replicas: 2 })).status).toBe(200)
  const healthy = () => platform.platform.replicas.healthy(sound.id, sound.deployment).length
  await expect.poll(healthy, { timeout: 30_000 }).toBe(2)
  expect((await eve.call('GET', '/api/pods/broken/logs')).text).toContain('The pod could not be started')
  expect(await read('broken')).toBe('broken')

  for (const { id } of [broken, sound]) expect((await eve.call('DELETE', `/api/pods/${id}`)).status).toBe(200)
  await db.query("update platform.pods set deleted_at = now() - interval '1 year' where id = any ($1)", [
    [broken.id, sound.id],
  ])
  const { deletePrefix } = storage
  const away = vi.spyOn(storage, 'deletePrefix').mockImplementation((prefix) => {
    return prefix.includes(broken.id) ? Promise.reject(new Error('the storage is away')) : deletePrefix(prefix)
  })
  onTestFinished(() => away.mockRestore())
  await expect(sweepPods(platform.platform)).rejects.toThrow('the storage is away')
  const left = await db.query<{ id: string }>('select id from platform.pods where id = any ($1)', [
    [broken.id, sound.id],
  ])
  expect(left.map(({ id }) => id)).toEqual([broken.id])
})

test('a package.json that is no object is said with its place', { timeout: 60_000 }, async () => {
  const eve = await platform.agent()
  for (const [text, message] of [
    ['null', 'package.json is not a JSON object'],
    ['{', 'package.json is not valid JSON'],
  ] as const)
    await expect(platform.deploy(eve, 'manifest', { ...main('x'), 'package.json': text })).rejects.toThrow(
      new RegExp(`"code":"install_failed".*"file":"package.json".*"error":"${message}`),
    )
})

test('what a killed or failed work left half made goes, what is at work stays', { timeout: 60_000 }, async () => {
  const eve = await platform.agent()
  const { id, deployment } = await platform.deploy(eve, 'halves', main('one'))
  // Live is not the end: it tidies up afterwards.
  const path = `/api/pods/${id}/deployments/${deployment}`
  const over = async () =>
    parse<{ deployment: { endedAt: string | null } }>((await eve.call('GET', path)).text).deployment.endedAt
  await expect.poll(over, { timeout: 30_000 }).toBeTypeOf('string')
  const releases = join(platform.dir, 'releases', id)
  const modules = join(platform.dir, 'modules')
  const old = [join(releases, `.${deployment}-killed`), join(modules, '.install-killed')]
  const young = [join(releases, `.${deployment}-atwork`), join(modules, '.install-atwork')]
  for (const folder of [...old, ...young]) await mkdir(join(folder, 'half'), { recursive: true })
  const then = Date.now() / 1000 - 7_200
  for (const folder of old) await utimes(folder, then, then)
  const missing = Array.from({ length: 20 }, (_, n): [string, string, number] => [
    `${n}.ts`,
    `${n}`.repeat(64).slice(0, 64),
    1,
  ])
  await expect(platform.platform.releases.prepare(id, 'aaaaaaaa', missing)).rejects.toMatchObject({
    code: 'missing_files',
  })
  expect((await readdir(releases)).sort()).toEqual(
    [`.${deployment}-atwork`, `.${deployment}-killed`, deployment].sort(),
  )
  const next = await platform.deploy(eve, 'halves', main('two'))
  const left = [`.${deployment}-atwork`, deployment, next.deployment].sort()
  await expect.poll(async () => (await readdir(releases)).sort(), { timeout: 30_000 }).toEqual(left)
  await expect
    .poll(async () => (await readdir(modules)).filter((name) => name.startsWith('.')))
    .toEqual(['.install-atwork'])
})

/** The platform's database, in which this pod is the only one that is listed. */
function only(pod: string): TestPlatform['platform']['db'] {
  const { db } = platform.platform
  return {
    ...db,
    query: (text, values) =>
      text.startsWith('select id from platform.pods where id >')
        ? db.query('select $1::text as id', [pod])
        : db.query(text, values),
  }
}

async function* once(content: string): AsyncGenerator<Uint8Array> {
  yield Buffer.from(content)
}
