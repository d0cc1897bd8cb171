import { chown, mkdir, readFile, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { startEmbedded } from '../src/embedded.ts'
import { connectionOf, eventually, harness, isRoot, read, runs, write } from './embedded/harness.ts'
import { query } from './embedded/query.ts'

let h: Awaited<ReturnType<typeof harness>>
beforeAll(async () => {
  h = await harness()
})
afterEach(() => h.clean())
afterAll(() => h.remove())

describe('what cannot work is explained', () => {
  test('data of another major version', async () => {
    const dataDir = h.used
    const version = join(dataDir, 'postgres', 'PG_VERSION')
    const original = await readFile(version)
    await writeFile(version, '15\n')
    await expect(h.start({ dataDir })).rejects.toMatchObject({
      code: 'embedded_version',
      message: expect.stringMatching(/Postgres 15; this Tidebase brings Postgres \d+/),
      hint: expect.stringContaining('DATABASE_URL'),
    })
    await writeFile(version, original)
  })

  test('a setting that Postgres refuses, without holding the folder', async () => {
    const dataDir = h.used
    await expect(h.start({ dataDir, settings: { shared_buffers: 'much' } })).rejects.toMatchObject({
      code: 'embedded_failed',
      message: expect.stringContaining('invalid value for parameter "shared_buffers"'),
      hint: expect.stringContaining('postgres.log'),
    })
    await h.start({ dataDir })
  })

  test('files that are no database', async () => {
    const dataDir = h.folder()
    await mkdir(join(dataDir, 'postgres'), { recursive: true })
    await writeFile(join(dataDir, 'postgres', 'mine.txt'), 'precious')
    await expect(h.start({ dataDir })).rejects.toMatchObject({ code: 'embedded_failed' })
    expect(await readFile(join(dataDir, 'postgres', 'mine.txt'), 'utf8')).toBe('precious')
  })

  test('a platform without binaries', async () => {
    const server = h.serve(h.folder(), { program: await h.installBare() })
    expect(await server.until('failed')).toMatchObject({
      code: 'embedded_unsupported',
      hint: expect.stringContaining('DATABASE_URL'),
    })
  })
})

describe('places and users', () => {
  test('a path too long for a socket', async () => {
    const dataDir = join(h.folder(), 'long'.repeat(30), 'data')
    const db = await h.start({ dataDir })
    expect(await query(db.connection, 'select 1')).toEqual([['1']])
    expect((await stat(db.connection.host)).mode & 0o777).toBe(0o700)
    await expect(startEmbedded({ dataDir })).rejects.toMatchObject({ code: 'data_dir_in_use' })
    await db.stop()
    await expect(stat(db.connection.host)).rejects.toThrow('ENOENT')
  })

  test('a path with characters that mean something to Postgres', async () => {
    const db = await h.start({ dataDir: h.folder(` it's, "a" $HOME \\ é`) })
    expect(await query(db.connection, 'select 1')).toEqual([['1']])
  })

  test('the folder is the same by any name', async () => {
    const dataDir = h.used
    await h.start({ dataDir })
    const alias = h.folder('-alias')
    await symlink(dataDir, alias)
    await expect(h.start({ dataDir: alias })).rejects.toMatchObject({ code: 'data_dir_in_use' })
  })

  test.skipIf(!isRoot)('root, below a folder that is closed to everybody else, as /root is', async () => {
    const home = h.folder('-home')
    await mkdir(home, { mode: 0o700 })
    const dataDir = join(home, '.tidebase')
    const killed = h.serve(dataDir, { program: await h.install(home) })
    const { at, postgres } = await connectionOf(killed)
    await write(at, 'kept')
    killed.kill('SIGKILL')
    await killed.ended
    const db = await h.start({ dataDir })
    expect(await read(db.connection)).toEqual(['kept'])
    expect(await runs(postgres)).toBe(false)
    const before = db.pid()
    process.kill(before, 'SIGKILL')
    await eventually('another Postgres runs', () => db.pid() !== before)
    expect(await read(db.connection)).toEqual(['kept'])
  })

  test.skipIf(!isRoot)('a normal user, with a package that is read-only and unfinished', async () => {
    const uid = 1 // daemon: a user that every system has
    const program = await h.install(h.folder('-install'))
    const home = h.folder('-home')
    await mkdir(home)
    await chown(home, uid, uid)
    const first = h.serve(join(home, '.tidebase'), { program, uid })
    const { at, postgres } = await connectionOf(first)
    await write(at, 'mine')
    expect((await stat(`/proc/${postgres}`)).uid).toBe(uid)
    first.write('stop\n')
    expect(await first.ended).toBe('exit code 0')

    // Root takes over without taking the files away from their owner.
    const db = await h.start({ dataDir: join(home, '.tidebase') })
    expect(await read(db.connection)).toEqual(['mine'])
    expect((await stat(`/proc/${db.pid()}`)).uid).toBe(uid)
    await db.stop()
    const again = h.serve(join(home, '.tidebase'), { program, uid })
    expect(await read((await connectionOf(again)).at)).toEqual(['mine'])
  })
})
