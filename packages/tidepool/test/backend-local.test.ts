import { spawn } from 'node:child_process'
import { appendFile, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Backend } from '../src/backend.ts'
import { openLocalBackend } from '../src/backend-local.ts'
import { TpError } from '../src/errors.ts'
import { backendConformance } from './backend-conformance.ts'

const makeFolder = () => mkdtemp(join(tmpdir(), 'tidepool-data-'))

backendConformance('local', async () => {
  const dir = await makeFolder()
  return { open: () => openLocalBackend({ dir }), remove: () => rm(dir, { recursive: true }) }
})

let dir: string
let backend: Backend | undefined
beforeEach(async () => {
  dir = await makeFolder()
})
afterEach(async () => {
  await backend?.close()
  backend = undefined
  await rm(dir, { recursive: true, force: true })
})

const db = () => join(dir, 'db.json')
const fileContent = async (): Promise<unknown> => JSON.parse(await readFile(db(), 'utf8').catch(() => 'null'))
const journals = async () => (await readdir(dir)).filter((name) => name.startsWith('db.journal'))
const set = (key: string, value: number | string) => backend?.write([{ op: 'set', space: 'db', key, value }])

test('db.json is plain, indented JSON soon after a write, and the journal is gone', async () => {
  backend = await openLocalBackend({ dir })
  await backend.write([{ op: 'set', space: 'db', key: 'post:1', value: { title: 'Hello', tags: ['a'] } }])
  expect(await journals()).toHaveLength(1)
  await expect.poll(fileContent).toEqual({ 'post:1': { title: 'Hello', tags: ['a'] } })
  await expect.poll(journals).toEqual([])
  expect(await readFile(db(), 'utf8')).toContain('\n  "post:1": {\n    "title": "Hello",')
})

test('a hand edit is picked up while running; keys that only the pod changed stay', async () => {
  await writeFile(db(), '{"a": 1, "b": 1, "c": 1}')
  const edits: string[][] = []
  backend = await openLocalBackend({ dir, onEdit: (keys) => edits.push(keys) })
  await set('b', 2)
  await writeFile(db(), '{"a": 5, "b": 1, "d": 4}')
  await expect.poll(async () => (await backend?.read('db', 'd'))?.value).toBe(4)
  expect((await backend.scan('db')).map(({ key, value }) => [key, value])).toEqual([
    ['a', 5],
    ['b', 2],
    ['d', 4],
  ])
  expect(edits.flat().sort()).toEqual(['a', 'c', 'd'])
  await expect.poll(fileContent).toEqual({ a: 5, b: 2, d: 4 })
})

test('a hand that breaks db.json is told where; nothing is lost, and mending it merges', async () => {
  await writeFile(db(), '{"a": 1}')
  const problems: (TpError | undefined)[] = []
  backend = await openLocalBackend({ dir, onProblem: (problem) => problems.push(problem) })
  await writeFile(db(), '{\n  "a": 1,\n  "b": \n}')
  await expect.poll(() => problems.length).toBe(1)
  expect(problems[0]?.code).toBe('bad_data_file')
  expect(problems[0]?.details.line).toBe(4)
  await set('c', 3)
  await backend.close()
  expect(await readFile(db(), 'utf8')).toBe('{\n  "a": 1,\n  "b": \n}')
  await writeFile(db(), '{"a": 1, "b": 2}')
  backend = await openLocalBackend({ dir })
  await expect.poll(fileContent).toEqual({ a: 1, b: 2, c: 3 })
})

test.each([
  ['{\n  "a": 1\n  "b": 2\n}', 3, 3],
  ['{"a": 1,}', 1, 9],
  ['{"a": 1', 1, 8],
  ['[1, 2]', 1, 1],
  ['{"a": \'x\'}', 1, 7],
])('a broken db.json stops the start with line and column: %j', async (text, line, column) => {
  await writeFile(db(), text)
  const error = await openLocalBackend({ dir }).catch((reason: unknown) => reason)
  expect(error).toBeInstanceOf(TpError)
  if (error instanceof TpError)
    expect([error.code, error.details.line, error.details.column]).toEqual(['bad_data_file', line, column])
  expect(await readFile(db(), 'utf8')).toBe(text)
  await writeFile(db(), '{}')
  backend = await openLocalBackend({ dir })
})

test('a torn or damaged end of the journal loses only what nobody was told is durable', async () => {
  backend = await openLocalBackend({ dir })
  await set('a', 1)
  const [name] = await journals()
  const line = await readFile(join(dir, name ?? ''), 'utf8')
  await backend.close()
  backend = undefined
  await writeFile(join(dir, 'db.journal.000007'), `${line.replace('"a",1', '"a",2')}`)
  await writeFile(join(dir, 'db.journal.000008'), line)
  await appendFile(join(dir, 'db.journal.000008'), line.slice(0, -4))
  backend = await openLocalBackend({ dir })
  expect((await backend.read('db', 'a'))?.value).toBe(1)
  expect(await fileContent()).toEqual({ a: 1 })
  expect(await journals()).toEqual([])
})

test('kill -9 at any moment: every acknowledged write is there, and batches are whole', {
  timeout: 120_000,
}, async () => {
  const writer = fileURLToPath(new URL('fixtures/journal-writer.ts', import.meta.url))
  let acknowledged = -1
  for (let round = 0; round < 4; round++) {
    const child = spawn(
      process.execPath,
      ['--import', 'tsx', '--conditions=source', writer, dir, String(acknowledged + 1)],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    )
    const goal = acknowledged + 150 * (round + 1)
    await new Promise<void>((resolve) => {
      let rest = ''
      child.stdout.setEncoding('utf8')
      child.stdout.on('data', (text: string) => {
        const lines = (rest + text).split('\n')
        rest = lines.pop() ?? ''
        for (const line of lines) acknowledged = Math.max(acknowledged, Number(line))
        if (acknowledged >= goal) child.kill('SIGKILL')
      })
      child.on('close', () => resolve())
    })
    backend = await openLocalBackend({ dir })
    const left = await backend.keys('db', { prefix: 'left:' })
    expect(left.length).toBeGreaterThan(acknowledged)
    expect(await backend.count('db', 'right:')).toBe(left.length)
    for (let n = 0; n <= acknowledged; n++) expect(left).toContain(`left:${String(n).padStart(9, '0')}`)
    await backend.close()
    backend = undefined
  }
})

test('a second process on the folder is refused; the lock of a dead one is taken over', async () => {
  backend = await openLocalBackend({ dir })
  await expect(openLocalBackend({ dir })).rejects.toMatchObject({ code: 'locked' })
  await backend.close()
  await writeFile(join(dir, 'lock'), JSON.stringify({ pid: process.pid, born: 'long ago', note: '' }))
  backend = await openLocalBackend({ dir })
})

test('files behind symbolic links are neither read nor written', async () => {
  backend = await openLocalBackend({ dir })
  await backend.files.write('real/x', Buffer.from('x'))
  await symlink('/etc', join(dir, 'files', 'link'))
  await symlink('/etc/passwd', join(dir, 'files', 'passwd'))
  await expect(backend.files.read('link/passwd')).rejects.toMatchObject({ code: 'bad_key' })
  await expect(backend.files.read('passwd')).rejects.toMatchObject({ code: 'bad_key' })
  await expect(backend.files.write('link/x', Buffer.from('x'))).rejects.toMatchObject({ code: 'bad_key' })
  expect((await backend.files.list()).map((each) => each.name)).toEqual(['real/x'])
})
