import { randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { createDatabase } from '../../../test/server.ts'
import { openPlatformBackend } from '../../tidepool/src/backend-platform.ts'
import { platformSocket } from '../../tidepool/src/platform/socket.ts'
import { backendConformance } from '../../tidepool/test/backend-conformance.ts'
import { startDataApi } from '../src/data-api.ts'
import { type Database, openDatabase } from '../src/db.ts'
import { createEgress } from '../src/egress.ts'
import { createMailer } from '../src/mail.ts'
import { createMaster } from '../src/master.ts'
import { migrate } from '../src/migrate.ts'
import { createPodFiles } from '../src/pod-files.ts'
import { openStorage } from '../src/storage.ts'
import { createStore } from '../src/store.ts'

// The platform's backend by the same rules as the local one: the runtime's client against the data API on a socket.

let database: Awaited<ReturnType<typeof createDatabase>>
let db: Database
let dir: string
let path: string
let api: Awaited<ReturnType<typeof startDataApi>>
let pods = 0
const master = createMaster(Buffer.alloc(32, 7))

beforeAll(async () => {
  database = await createDatabase()
  db = openDatabase({ connectionString: database.url })
  await migrate(db)
  await db.query("insert into platform.agents (id, email, verified_at) values ('agent000', 'a@example.com', now())")
  dir = await mkdtemp(join(tmpdir(), 'tpb-'))
  path = join(dir, 'platform.sock')
  const storage = await openStorage({ dir: join(dir, 'storage') })
  api = await startDataApi(path, {
    store: createStore(db),
    files: createPodFiles(db, storage),
    mailer: createMailer(db, { from: 'tidepool@localhost' }),
    master,
    egress: createEgress([], async () => []),
    welcome: async () => ({ secrets: { hello: 'world' } }),
    admit: async () => true,
    report: () => {},
    tidebase: async () => ({ url: 'http://127.0.0.1:1', key: '' }),
    onError: (error) => {
      throw error
    },
  })
})
afterAll(async () => {
  await api.close()
  await db.close()
  await database.drop()
  await rm(dir, { recursive: true, force: true })
})

async function makePod(): Promise<() => ReturnType<typeof openPlatformBackend>> {
  const id = `pod${String(++pods).padStart(5, '0')}`
  await db.query("insert into platform.pods (id, agent, name, environment) values ($1, 'agent000', $1, 'standard')", [
    id,
  ])
  await db.query('insert into platform.stores (pod) values ($1)', [id])
  return () => openPlatformBackend(platformSocket({ socket: path, token: master.podToken(id, 'deploy00') }))
}

backendConformance('platform', async () => ({ open: await makePod(), remove: async () => {} }))

test('what no runtime sends is refused as such, and those who write at that moment write', async () => {
  await makePod()
  const socket = platformSocket({
    socket: path,
    token: master.podToken(`pod${String(pods).padStart(5, '0')}`, 'deploy00'),
  })
  onTestFinished(() => socket.close())
  const op = { op: 'set', space: 'db', key: 'k', json: '1' }
  const odd: [string, object][] = [
    ...[null, 'x', { ...op, op: 'add' }, { ...op, key: 5 }, { ...op, space: '__proto__' }, { ...op, if: {} }].map(
      write,
    ),
    ...['', 'x', '\0', null, 5, {}].map((json) => write({ ...op, json })),
    ...[-1, 1e300, 'x', null].map((ttl) => write({ ...op, ttl })),
    ...['x', 5, null, '1'.repeat(36)].map((id): [string, object] => ['/data/write', { id, ops: [op] }]),
    ['/data/write', { ops: 'x' }],
    ['/data/read', { reads: [['db', 5]] }],
    ['/data/scan', { space: 'constructor' }],
    ['/data/mail', { mail: { to: 'a@b.c' } }],
  ]
  let n = 0
  for (const [call, body] of odd) {
    const beside = { id: randomUUID(), ops: [{ ...op, key: `beside ${++n}` }] }
    const [refused, written] = await Promise.allSettled([socket.call(call, body), socket.call('/data/write', beside)])
    expect([body, refused]).toEqual([
      body,
      expect.objectContaining({ reason: expect.objectContaining({ code: 'invalid' }) }),
    ])
    expect(written).toMatchObject({ value: { ok: true } })
  }
  const { entries } = await socket.call<{ entries: object[] }>('/data/scan', { space: 'db', limit: 1e300 })
  expect(entries).toHaveLength(odd.length)
})
const write = (each: unknown): [string, object] => ['/data/write', { ops: [each] }]

test('replicas increment and update one record without losing any', async () => {
  const open = await makePod()
  const replicas = await Promise.all([open(), open(), open()])
  onTestFinished(async () => void (await Promise.all(replicas.map((each) => each.close()))))
  await Promise.all(
    replicas.flatMap((backend) =>
      Array.from({ length: 50 }, () => backend.write([{ op: 'increment', space: 'db', key: 'n', by: 1 }])),
    ),
  )
  expect((await replicas[0]?.read('db', 'n'))?.value).toBe(150)
  const wins = await Promise.all(
    replicas.map((backend) => backend.write([{ op: 'set', space: 'db', key: 'once', value: 1, if: 'absent' }])),
  )
  expect(wins.filter(({ ok }) => ok)).toHaveLength(1)
})

test('a write whose answer was lost happens once, however often it is repeated', async () => {
  const open = await makePod()
  const backend = await open()
  const id = '0b1c2d3e-0000-4000-8000-000000000001'
  const token = master.podToken(`pod${String(pods).padStart(5, '0')}`, 'deploy00')
  const socket = platformSocket({ socket: path, token })
  onTestFinished(async () => {
    socket.close()
    await backend.close()
  })
  const body = { id, ops: [{ op: 'increment', space: 'db', key: 'n', by: 1 }] }
  const first = await socket.call('/data/write', body)
  const again = await socket.call('/data/write', body, {
    method: 'POST',
    body: JSON.stringify(body),
    headers: { 'x-tidepool-retry': '1' },
  })
  expect(again).toEqual(first)
  expect((await backend.read('db', 'n'))?.value).toBe(1)
})

test('one pod reads nothing of another', async () => {
  const [a, b] = [await (await makePod())(), await (await makePod())()]
  onTestFinished(async () => void (await Promise.all([a.close(), b.close()])))
  await a.write([{ op: 'set', space: 'db', key: 'x', value: 'mine' }])
  await a.files.write('x.txt', Buffer.from('mine'))
  await a.mail.send({ to: 'a@example.com', subject: 'mine', text: 'mine' })
  expect(await b.read('db', 'x')).toBeUndefined()
  expect(await b.keys('db')).toEqual([])
  expect(await b.files.list()).toEqual([])
  expect(await b.files.read('x.txt')).toBeUndefined()
  expect(await b.mail.list()).toEqual([])
})
