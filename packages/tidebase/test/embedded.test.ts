import { type ChildProcess, spawn } from 'node:child_process'
import { chmod, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { accountFor } from '../src/embedded/account.ts'
import { takeLock } from '../src/embedded/lock.ts'
import { commandLine } from '../src/embedded/processes.ts'
import { startEmbedded } from '../src/embedded.ts'
import { canContain, connectionOf, eventually, harness, read, runs, write } from './embedded/harness.ts'
import { query } from './embedded/query.ts'

let h: Awaited<ReturnType<typeof harness>>
beforeAll(async () => {
  h = await harness()
})
afterEach(() => h.clean())
afterAll(() => h.remove())

describe('start and stop', () => {
  test('a fresh folder becomes a durable, private database', async () => {
    const dataDir = h.folder()
    const db = await h.start({ dataDir, settings: { work_mem: '7MB' } })
    const settings = ['fsync', 'synchronous_commit', 'listen_addresses', 'max_connections', 'work_mem']
    const columns = settings.map((name) => `current_setting('${name}')`).join()
    expect(await query(db.connection, `select ${columns}`)).toEqual([['on', 'on', '', '60', '7MB']])
    expect(await query(db.connection, 'show server_encoding')).toEqual([['UTF8']])
    for (const folder of [dataDir, db.connection.host, join(dataDir, 'postgres')]) {
      expect((await stat(folder)).mode & 0o777, folder).toBe(0o700)
    }
    await db.stop()
    await db.stop()
    expect(await runs(db.pid())).toBe(false)
    await expect(query(db.connection, 'select 1')).rejects.toThrow('ENOENT')
  })

  test('a restart keeps the data and the connection settings', async () => {
    const dataDir = h.folder()
    const first = await h.start({ dataDir })
    await write(first.connection, 'kept')
    await first.stop()
    const second = await h.start({ dataDir })
    expect(second.connection).toEqual(first.connection)
    expect(await read(second.connection)).toEqual(['kept'])
  })

  test('stop drops busy connections, and leaves nothing that keeps the process alive', async () => {
    const server = h.serve(h.used)
    const { at, postgres } = await connectionOf(server)
    const busy = expect(query(at, 'select pg_sleep(60)')).rejects.toThrow(/terminating connection/)
    await eventually(
      'the query runs',
      async () =>
        (await query(at, "select 1 where exists (select from pg_stat_activity where query like '%sleep(60)')")).length >
        0,
    )
    server.write('stop\n')
    await busy
    expect(await server.ended).toBe('exit code 0')
    expect(await runs(postgres)).toBe(false)
  })

  test('Ctrl-C reaches the server only: Postgres answers until the server stops it', async () => {
    const server = h.serve(h.used)
    const { postgres } = await connectionOf(server)
    process.kill(-server.pid, 'SIGINT')
    expect(await server.ended).toBe('exit code 0')
    expect(await server.until('interrupted')).toMatchObject({ rows: [['1']] })
    expect(await runs(postgres)).toBe(false)
  })

  test('a server that exits without stopping takes Postgres with it', async () => {
    const server = h.serve(h.used)
    const { postgres } = await connectionOf(server)
    server.write('crash\n')
    expect(await server.ended).toBe('exit code 1')
    await eventually('Postgres ends', async () => !(await runs(postgres)))
  })

  test('the log is bounded', async () => {
    const dataDir = h.folder()
    await mkdir(dataDir)
    await chmod(dataDir, 0o755)
    await writeFile(join(dataDir, 'postgres.log'), 'x'.repeat(6_000_000))
    await h.start({ dataDir })
    expect((await stat(join(dataDir, 'postgres.log.1'))).size).toBe(6_000_000)
    expect((await stat(join(dataDir, 'postgres.log'))).size).toBeLessThan(10_000)
  })
})

describe('one server per folder', () => {
  test('a second server is refused, and told who holds the folder', async () => {
    const dataDir = h.used
    const holder = h.serve(dataDir)
    const { at } = await connectionOf(holder)
    const began = Date.now()
    await expect(h.start({ dataDir })).rejects.toMatchObject({
      code: 'data_dir_in_use',
      message: `The data folder ${dataDir} is in use by process ${holder.pid}.`,
      hint: expect.stringMatching(/Stop.*--data DIR.*DATABASE_URL/),
    })
    expect(Date.now() - began).toBeLessThan(5_000)
    expect(await query(at, 'select 1')).toEqual([['1']])
    holder.write('stop\n')
    await holder.ended
    await h.start({ dataDir })
    await expect(startEmbedded({ dataDir })).rejects.toMatchObject({ code: 'data_dir_in_use' })
  })

  test('a holder that does not answer still holds', async () => {
    const dataDir = h.used
    const holder = h.serve(dataDir)
    await connectionOf(holder)
    process.kill(holder.pid, 'SIGSTOP')
    await expect(h.start({ dataDir })).rejects.toMatchObject({ code: 'data_dir_in_use' })
  })

  test('of servers that start at once exactly one wins, also when a killed one left its lock', async () => {
    const dataDir = h.folder()
    for (let round = 0; round < 3; round++) {
      const servers = [1, 2, 3, 4].map(() => h.serve(dataDir))
      const outcomes = await Promise.all(
        servers.map((server) => Promise.any([server.until('ready'), server.until('failed')])),
      )
      const codes = outcomes.map((told) => told.code ?? told.event).sort()
      expect(codes).toEqual(['data_dir_in_use', 'data_dir_in_use', 'data_dir_in_use', 'ready'])
      for (const server of servers) server.kill('SIGKILL')
      await Promise.all(servers.map((server) => server.ended))
    }
  })

  test('the lock has one holder at any time, however many try', async () => {
    const folder = h.folder()
    await mkdir(folder)
    let holders = 0
    let taken = 0
    const contend = async () => {
      for (let attempt = 0; attempt < 20; attempt++) {
        const lock = await takeLock(folder, undefined).catch((error: unknown) => {
          expect(error).toMatchObject({ code: 'data_dir_in_use' })
        })
        if (!lock) continue
        taken++
        expect(++holders).toBe(1)
        await delay(Math.random() * 3)
        holders--
        lock.release()
      }
    }
    await Promise.all(Array.from({ length: 20 }, contend))
    expect(taken).toBeGreaterThan(1)
    expect((await readdir(join(folder, 'lock'))).length).toBeLessThan(5)
  })

  test('a Postgres that somebody started by hand on the folder is left alone', async () => {
    const dataDir = h.used
    const db = await h.start({ dataDir })
    const [bin = ''] = (await commandLine(db.pid())).split(' ')
    await db.stop()
    const args = [
      '-D',
      join(dataDir, 'postgres'),
      '-c',
      'listen_addresses=',
      '-c',
      `unix_socket_directories=${dataDir}`,
    ]
    const byHand = spawn(bin, args, { ...(await accountFor(join(dataDir, 'postgres'))), cwd: dataDir, stdio: 'ignore' })
    await eventually('it runs', async () =>
      (await readFile(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8').catch(() => '')).includes('ready'),
    )
    await expect(h.start({ dataDir })).rejects.toMatchObject({
      code: 'data_dir_in_use',
      message: expect.stringContaining(`process ${byHand.pid}`),
    })
    byHand.kill('SIGINT')
    await eventually('it ends', () => byHand.exitCode !== null)
    await h.start({ dataDir })
  })
})

describe('after a crash', () => {
  test('the Postgres of a killed server does not block the next one, and nothing is lost', async () => {
    const dataDir = h.used
    const killed = h.serve(dataDir)
    const { at, postgres } = await connectionOf(killed)
    await write(at, 'written before the server was killed')
    killed.kill('SIGKILL')
    await killed.ended
    expect(await runs(postgres)).toBe(true)
    const db = await h.start({ dataDir })
    expect(await read(db.connection)).toContain('written before the server was killed')
    expect(await runs(postgres)).toBe(false)
  })

  test('a killed Postgres is started again, at the same address', async () => {
    const logs: string[] = []
    const db = await h.start({ dataDir: h.used, log: (message) => logs.push(message) })
    for (const text of ['a', 'b', 'c']) {
      await write(db.connection, text)
      const before = db.pid()
      process.kill(before, 'SIGKILL')
      await eventually('another Postgres runs', () => db.pid() !== before)
      expect(await read(db.connection)).toContain(text)
    }
    expect(logs.filter((line) => line.includes('ended unexpectedly (SIGKILL)'))).toHaveLength(3)
  })

  test('a killed Postgres is started again though a process of it is busy', async () => {
    const db = await h.start({ dataDir: h.used })
    const endless = query(db.connection, 'select count(*) from generate_series(1, 1e12) a').catch(() => 'cut off')
    const active = "select 1 from pg_stat_activity where query like 'select count%' and state = 'active'"
    await eventually('it is busy', async () => (await query(db.connection, active)).length > 0)
    const before = db.pid()
    process.kill(before, 'SIGKILL')
    await eventually('another Postgres runs', () => db.pid() !== before)
    expect(await endless).toBe('cut off')
    expect(await query(db.connection, active)).toEqual([])
  })

  test('server and Postgres killed together', async () => {
    const dataDir = h.used
    const killed = h.serve(dataDir)
    const { at, postgres } = await connectionOf(killed)
    await write(at, 'written before both were killed')
    killed.kill('SIGKILL')
    process.kill(postgres, 'SIGKILL')
    await killed.ended
    const db = await h.start({ dataDir })
    expect(await read(db.connection)).toContain('written before both were killed')
  })

  test('stop while Postgres is being started again', async () => {
    for (const wait of [0, 5, 30]) {
      const db = await h.start({ dataDir: h.used })
      process.kill(db.pid(), 'SIGKILL')
      await delay(wait)
      await db.stop()
      expect(await h.postgresIn(h.used)).toEqual([])
    }
  })

  test('a Postgres that cannot live is given up, with its last words', async () => {
    const dataDir = h.used
    const told: unknown[] = []
    const db = await h.start({ dataDir, restartPauses: [0, 10], onGiveUp: (error) => told.push(error) })
    const version = join(dataDir, 'postgres', 'PG_VERSION')
    const original = await readFile(version)
    await writeFile(version, 'nonsense\n')
    process.kill(db.pid(), 'SIGKILL')
    await eventually('it is given up', () => told.length > 0)
    expect(told).toMatchObject([
      { code: 'embedded_failed', message: expect.stringMatching(/2 times in a row.*PG_VERSION/s) },
    ])
    await db.stop()
    await writeFile(version, original)
  })

  test('a pid file whose pid belongs to another program by now', async () => {
    const dataDir = h.used
    const db = await h.start({ dataDir })
    const file = join(dataDir, 'postgres', 'postmaster.pid')
    const lines = (await readFile(file, 'utf8')).split('\n')
    await db.stop()
    // As Postgres's own user: what Postgres itself would take for a postmaster.
    const other: ChildProcess = spawn('sleep', ['60'], { ...(await accountFor(join(dataDir, 'postgres'))), cwd: '/' })
    try {
      await writeFile(file, [other.pid, ...lines.slice(1)].join('\n'))
      const again = await h.start({ dataDir })
      expect(await query(again.connection, 'select 1')).toEqual([['1']])
      expect(other.exitCode).toBe(null)
    } finally {
      other.kill()
    }
  })

  test.skipIf(!canContain)('containers, where every process gets the pid that it had before', async () => {
    for (let round = 0; round < 3; round++) {
      const server = h.serve(h.used, { contained: true })
      const { at } = await connectionOf(server)
      await write(at, `round ${round}`)
      expect(await read(at)).toContain('round 0')
      const second = h.serve(h.used, { contained: true })
      expect(await second.until('failed')).toMatchObject({ code: 'data_dir_in_use' })
      server.kill('SIGKILL')
      await server.ended
      await eventually('the container ends', async () => (await h.postgresIn(h.used)).length === 0)
    }
  })

  test('a first start that is killed half-way leaves nothing in the way', async () => {
    const dataDir = h.folder()
    const making = async () => (await readdir(dataDir).catch(() => [])).find((name) => name.startsWith('postgres.new-'))
    const killed = h.serve(dataDir)
    await eventually('initdb is at work', async () => {
      const name = await making()
      return name !== undefined && (await readdir(join(dataDir, name)).catch((): string[] => [])).includes('PG_VERSION')
    })
    process.kill(-killed.pid, 'SIGKILL')
    await killed.ended
    expect(await readdir(dataDir)).not.toContain('postgres')
    const db = await h.start({ dataDir })
    expect(await query(db.connection, 'select 1')).toEqual([['1']])
    expect(await making()).toBe(undefined)
  })
})
