import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createDatabase } from '../../../test/server.ts'
import type { Endpoint } from '../src/endpoint.ts'
import { endpoints } from '../src/endpoints.ts'
import { askSocket, attacker, eventually, read, runInPod } from './attacker.ts'
import { type Agent, type Live, logTo, startTestPlatform, type TestPlatform } from './harness.ts'

// Case 19: secrets that can be recognised anywhere are given to a pod that is careless with them in every way. They may
// come out of one endpoint, and of no other place.

const canaries = {
  plain: 'canary-plain-5b1f0c',
  quoted: 'canary-"quoted"\\back\u00e9-77a1',
  lines: '-----BEGIN CANARY-----\ncanaryline1aaaa1111\ncanaryline2bbbb2222\n-----END CANARY-----\n',
  by_deploy: 'canary-by-deploy-99d0',
}
/** Pieces of them that give them away, in the spellings that they could have. */
const tells = ['canary-', 'canaryline', 'CANARY'].flatMap((text) => [text, Buffer.from(text).toString('hex')])

let platform: TestPlatform
let database: Awaited<ReturnType<typeof createDatabase>>
let db: pg.Client
let agent: Agent
let other: Agent
let live: Live
let beside: Live
const told: string[] = []

function clean(where: string, text: string): void {
  for (const tell of tells)
    expect([where, text.includes(tell) && text.slice(Math.max(0, text.indexOf(tell) - 100))]).toEqual([where, false])
}

const careless = {
  'main.ts': `${attacker['main.ts']}
const all = () => Object.values(tp.secrets)
for (const secret of all()) console.log('at the start: ' + secret)
tp.route('/throw', () => { throw new Error('wrong key ' + all().join(' and ')) })
tp.route('/late', () => { setTimeout(() => { throw new Error('late ' + all().join(' ')) }, 1); return 'ok' })
`,
}

beforeAll(async () => {
  database = await createDatabase()
  platform = await startTestPlatform({
    databaseUrl: database.url,
    log: logTo(told),
  })
  db = new pg.Client({ connectionString: database.url })
  await db.connect()
  agent = await platform.agent()
  other = await platform.agent()
  const { by_deploy, ...first } = canaries
  await agent.call('POST', '/api/pods', { name: 'careless' })
  const set = await agent.call('PATCH', '/api/pods/careless/secrets', { set: first })
  expect(set.status).toBe(200)
  live = await platform.deploy(agent, 'careless', careless, { secrets: { set: { by_deploy } } })
  beside = await platform.deploy(other, 'beside', attacker)

  const code = `
    for (const secret of Object.values(tp.secrets)) {
      console.log(secret); console.error(secret); console.log({ secret, list: [secret] }); console.log(new Error(secret))
      process.stdout.write(secret + '\\n'); process.stderr.write('x'.repeat(15990) + secret + 'y'.repeat(3000) + '\\n')
      process.stdout.write('z'.repeat(17000) + secret + 'z'.repeat(9000) + '\\n')
      process.stdout.write(secret.slice(0, 9)); await new Promise((done) => setTimeout(done, 30)); process.stdout.write(secret.slice(9) + '\\n')
      process.stdout.write(secret.slice(0, 9)); Promise.reject(new Error('in the middle')); await new Promise((done) => setTimeout(done, 30)); process.stdout.write(secret.slice(9) + '\\n')
      Promise.reject(new Error(secret))
      await new Promise((done) => setTimeout(done, 30))
    }
    console.log('the last line')`
  expect(await runInPod(platform, 'careless', code)).toMatchObject({ status: 200 })
  for (const path of ['/throw', '/late']) {
    const headers = { accept: path === '/throw' ? 'text/html' : 'application/json' }
    clean(path, (await platform.fetchPod('careless', path, { headers })).text)
    clean(path, (await platform.fetchPod('careless', path)).text)
  }
  await eventually(
    async () => (await agent.call('GET', '/api/pods/careless/logs?limit=2000')).text,
    (text) => text.includes('the last line') && text.includes('late '),
  )
})
afterAll(async () => {
  await platform.stop()
  await db.end()
  await database.drop()
})

describe('a secret that the pod prints and throws', () => {
  test('is what was set, to the pod and to who may see it', async () => {
    expect((await runInPod(platform, 'careless', 'return tp.secrets')).value).toEqual(canaries)
    const { values } = read<{ values: object }>(await agent.call('GET', '/api/pods/careless/secrets?values=1'))
    expect(values).toEqual(canaries)
  })

  test('is in no log, on the disk or by the API', async () => {
    const folder = join(platform.dir, 'logs')
    for (const entry of await readdir(folder, { recursive: true, withFileTypes: true }))
      if (entry.isFile()) clean(entry.name, await readFile(join(entry.parentPath, entry.name), 'utf8'))
    const logs = (await agent.call('GET', '/api/pods/careless/logs?limit=2000')).text
    clean('logs', logs)
    expect(logs).toContain('[secret]')
    clean('the platform’s own log', told.join('\n'))
  })

  test('is in no file of the platform', async () => {
    for (const entry of await readdir(platform.dir, { recursive: true, withFileTypes: true }))
      if (entry.isFile()) clean(entry.name, await readFile(join(entry.parentPath, entry.name), 'latin1'))
  })

  test('is in no answer of any endpoint but that one', async () => {
    const paths = ({ path }: Endpoint, pod: string) =>
      path
        .replace(':pod', pod)
        .replace(':deployment', live.deployment)
        .replace(':sha256', '0'.repeat(64))
        .replace('*', 'x')
    for (const endpoint of Object.values(endpoints).filter(
      ({ method, path }) => method === 'GET' && !path.endsWith('/events'),
    ))
      for (const key of [agent.key, other.key, platform.operatorKey, undefined])
        for (const query of ['', '?values=0', '?deleted=1'])
          clean(endpoint.path, (await platform.call('GET', paths(endpoint, live.id) + query, { key })).text)
    for (const path of ['/api', '/openapi.json', '/llms.txt', '/health', '/'])
      clean(path, (await platform.call('GET', path)).text)
    clean('of another', (await other.call('GET', `/api/pods/${live.id}/secrets?values=1`)).text)
    const set = await agent.call('PATCH', '/api/pods/careless/secrets', { set: { plain: canaries.plain } })
    clean('set again', set.text)
    clean(
      'bad set',
      (await agent.call('PATCH', '/api/pods/careless/secrets', { set: { 'a-b': canaries.plain, x: [canaries.plain] } }))
        .text,
    )
    clean('page of an app that is gone', (await platform.fetchPod('nothing', `/?${'a'.repeat(9)}`)).text)
  })

  test('is in no environment and no command line of a process', async () => {
    const { value } = await runInPod(
      platform,
      'careless',
      "return [process.env, process.argv, process.execArgv, require('fs').readFileSync('/proc/self/environ', 'latin1')]",
    )
    clean('the pod itself', JSON.stringify(value))
    for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name)))
      for (const file of ['environ', 'cmdline'])
        clean(`${file} of ${pid}`, await readFile(`/proc/${pid}/${file}`, 'latin1').catch(() => ''))
  })

  test('is in no table of the database in plain text, nor in Tidebase’s', async () => {
    const { rows } = await db.query<{ schema: string; name: string }>(
      "select table_schema as schema, table_name as name from information_schema.tables where table_schema in ('platform', 'tidebase') and table_type = 'BASE TABLE'",
    )
    expect(rows.length).toBeGreaterThan(20)
    for (const { schema, name } of rows) {
      const found = await db.query<{ row: string }>(`select t::text as row from "${schema}"."${name}" t`)
      clean(`${schema}.${name}`, found.rows.map(({ row }) => row).join('\n'))
    }
    const sealed = await db.query<{ sealed: Buffer }>('select sealed from platform.secrets')
    expect(sealed.rows.length).toBeGreaterThan(0)
    for (const { sealed: bytes } of sealed.rows) {
      clean('sealed', bytes.toString('latin1'))
      expect(() => gunzipSync(bytes)).toThrow()
    }
  })

  test('is not in the other pod', async () => {
    const { value } = await runInPod(
      platform,
      'beside',
      `${askSocket}
      return [tp.secrets, process.env, (await ask('/data/welcome')).text, (await ask('/data/welcome', { body: { pod: '${live.id}', deployment: '${live.deployment}' } })).text]`,
    )
    clean('the other pod', JSON.stringify(value))
    expect((value as object[])[0]).toEqual({})
    expect(beside.id).not.toBe(live.id)
  })

  test('thrown while it starts, is not in what the deployment says', async () => {
    const files = {
      'main.ts': "import tp from 'tidepool'\nthrow new Error('not accepted: ' + Object.values(tp.secrets).join(' '))\n",
    }
    const begun = await platform.begin(agent, 'careless', files)
    const { status, error } = await platform.ended(agent, begun)
    expect([status, error]).toMatchObject(['failed', { code: 'boot_failed', file: 'main.ts', line: 2 }])
    expect(JSON.stringify(error)).toContain('not accepted: [secret]')
    clean('the deployment', JSON.stringify(error))
    clean('its log', (await agent.call('GET', '/api/pods/careless/logs?limit=2000')).text)
    const row = await db.query<{ row: string }>('select t::text as row from platform.deployments t')
    clean('deployments', row.rows.map((each) => each.row).join('\n'))
    const runs = await db.query<{ row: string }>('select t::text as row from tidebase.runs t')
    clean('runs', runs.rows.map((each) => each.row).join('\n'))
    expect((await platform.fetchPod('careless')).status).toBe(200)
  })

  test('thrown at the health check, is not in what the deployment says', async () => {
    const files = {
      'main.ts':
        "import tp from 'tidepool'\ntp.route('/', () => { throw new Error('no: ' + Object.values(tp.secrets).join(' ')) })\n",
    }
    const { status, error } = await platform.ended(agent, await platform.begin(agent, 'careless', files))
    expect([status, error]).toMatchObject(['failed', { code: 'unhealthy' }])
    clean('the deployment', JSON.stringify(error))
  })
})
