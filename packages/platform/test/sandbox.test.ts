import { mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from 'vitest'
import { attacker, eventually, read, runInPod } from './attacker.ts'
import { type Agent, type Live, sandboxed, startTestPlatform, type TestPlatform } from './harness.ts'

// Case 21: a pod that tries to get out of its sandbox, or to take more than its share. Whatever it does, the pod beside
// it goes on answering.

interface Replicas {
  replicas: { state: string; restarts: number }[]
}

describe.skipIf(!sandboxed)('in the sandbox', () => {
  let platform: TestPlatform
  let agent: Agent
  let bad: Live
  let good: Live
  let outside: string

  beforeAll(async () => {
    platform = await startTestPlatform()
    agent = await platform.agent()
    bad = await platform.deploy(agent, 'bad', attacker)
    good = await platform.deploy(agent, 'good', attacker, { secrets: { set: { good_secret: 'a secret of good' } } })
    // Anybody of this machine may connect to it: what keeps a pod away is the sandbox alone.
    outside = await mkdtemp(join(tmpdir(), 'tpo-'))
  })
  afterAll(async () => {
    await platform.stop()
    await rm(outside, { recursive: true, force: true })
  })

  afterEach(async () => {
    expect(await platform.fetchPod(good.name)).toMatchObject({ status: 200, text: 'the app answers' })
    expect((await agent.call('GET', '/api/me')).status).toBe(200)
    await healthy()
  })

  const run = (code: string) => runInPod(platform, bad.name, code)
  const replica = async () => read<Replicas>(await agent.call('GET', `/api/pods/${bad.id}`)).replicas[0]
  const healthy = (restarts = 0) =>
    eventually(
      async () => ({ replica: await replica(), answer: await platform.fetchPod(bad.name).catch(() => undefined) }),
      (now) => now.replica?.state === 'healthy' && now.replica.restarts >= restarts && now.answer?.status === 200,
      45_000,
    )
  const limits = (what: string) => {
    const missing = platform.isolation.includes('NOT limited') || platform.isolation.includes(what)
    if (missing) console.warn(`SKIPPED: ${platform.isolation}`)
    return !missing
  }

  test('it sees no file of others: of pods, of the platform, of the system', async () => {
    const { dir } = platform
    const places = [
      dir,
      join(dir, 'master.key'),
      join(dir, 'operator.key'),
      join(dir, 'storage'),
      join(dir, 'logs'),
      join(dir, 'releases', good.id, good.deployment, 'main.ts'),
      join(dir, 'releases', bad.id),
      '/etc/shadow',
      '/etc/passwd',
      '/etc/hosts',
      '/root',
      '/home',
      '/sys',
      '/var',
      '/proc/1/root/etc/shadow',
      '/proc/self/cwd/../../etc/shadow',
      '/proc/kcore',
      '/dev/mem',
      '/dev/kmsg',
      '/dev/sda',
      process.cwd(),
    ].filter((place) => place !== '')
    const { value } = await run(`
      const fs = require('fs')
      const read = (place) => {
        try { return fs.statSync(place).isDirectory() ? fs.readdirSync(place).join() : String(fs.openSync(place)) } catch { return '' }
      }
      return ${JSON.stringify(places)}.map((place) => [place, read(place)]).filter(([, found]) => found !== '')`)
    // Folders on the way to the runtime exist, and hold nothing else.
    const seen = value as [string, string][]
    for (const [place, found] of seen) {
      expect([place, process.cwd()]).toContain(process.cwd())
      expect(found.split(',').every((name) => ['packages', 'node_modules'].includes(name))).toBe(true)
    }
  })

  test('its folders hold what is its own', async () => {
    const { value } = await run(`
      const list = (place) => require('fs').readdirSync(place).sort()
      return { run: list('/run'), tmp: list('/tmp'), app: list('/app') }`)
    expect(value).toMatchObject({ run: ['platform.sock'], app: ['main.ts', 'node_modules', 'tp_data'] })
    expect((value as { tmp: string[] }).tmp).toContain('pod.sock')
  })

  test('it sees no process but its own', async () => {
    const { value } = await run(`
      const fs = require('fs')
      const pids = fs.readdirSync('/proc').filter((name) => /^\\d+$/.test(name))
      return pids.map((pid) => { try { return fs.readFileSync('/proc/' + pid + '/cmdline', 'utf8') } catch { return '' } })`)
    const commands = value as string[]
    expect(commands.length).toBeLessThanOrEqual(2)
    for (const command of commands) expect(command).toMatch(/node|^$/)
    const killed = await run(`
      const out = []
      for (const pid of [${process.pid}, ${process.ppid}]) try { process.kill(pid, 0); out.push(pid) } catch {}
      return out`)
    expect(killed.value).toEqual([])
  })

  test('its environment and its user are nobody’s', async () => {
    const { value } = await run(`
      const status = require('fs').readFileSync('/proc/self/status', 'utf8')
      return { keys: Object.keys(process.env).sort(), uid: process.getuid(), caps: /CapEff:\\s*(\\w+)/.exec(status)[1],
        privileges: /NoNewPrivs:\\s*(\\d)/.exec(status)[1], host: require('os').hostname() }`)
    expect(value).toMatchObject({ uid: 65_534, caps: '0000000000000000', privileges: '1', host: 'pod' })
    const { keys } = value as { keys: string[] }
    expect(keys.filter((key) => !/^(TIDEPOOL_|NODE_ENV$|PATH$|HOME$|LANG$|PWD$)/.test(key))).toEqual([])
  })

  test('it connects to nothing: ports of this machine, metadata, the internet, sockets of others', async () => {
    const ports = [platform.port, Number(new URL(platform.tidebaseUrl).port)]
    const database = new URLSearchParams(inject('postgresQuery'))
    const postgres = `${database.get('host') ?? '/var/run/postgresql'}/.s.PGSQL.${database.get('port') ?? 5432}`
    const { value } = await run(`
      const net = require('net')
      const reach = (target) => new Promise((resolve) => {
        const socket = net.connect(target)
        socket.setTimeout(1500)
        socket.on('connect', () => { socket.destroy(); resolve('connected') })
        socket.on('error', (error) => resolve(error.code))
        socket.on('timeout', () => { socket.destroy(); resolve('timeout') })
      })
      const targets = [
        ...${JSON.stringify(ports)}.flatMap((port) => ['127.0.0.1', '::1', '0.0.0.0'].map((host) => ({ host, port }))),
        { host: '169.254.169.254', port: 80 }, { host: '10.0.0.1', port: 80 }, { host: '1.1.1.1', port: 53 },
        { path: ${JSON.stringify(postgres)} }, { path: '/var/run/docker.sock' }, { path: '\\0/tmp/x' },
      ]
      return Promise.all(targets.map(async (target) => [target, await reach(target)]))`)
    const found = value as [object, string][]
    expect(found.filter(([, result]) => !/^(ECONNREFUSED|ENETUNREACH|ENOENT|EADDRNOTAVAIL)$/.test(result))).toEqual([])
    const interfaces = await run("return Object.keys(require('os').networkInterfaces())")
    expect((interfaces.value as string[]).filter((name) => name !== 'lo')).toEqual([])
  })

  test('raw sockets, datagrams, mounts and privileges are refused', async () => {
    const { value } = await run(`
      const { spawnSync } = require('child_process')
      const tried = [
        ['ping', '-c', '1', '-W', '1', '169.254.169.254'], ['mount', '-t', 'tmpfs', 'x', '/app'], ['su', '-c', 'true'],
        ['chroot', '/', 'true'], ['nsenter', '-t', '1', '-n', 'true'], ['sh', '-c', 'echo b > /proc/sysrq-trigger'],
        ['sh', '-c', 'echo x > /proc/sys/kernel/core_pattern'], ['python3', '-c', 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)'],
        ['python3', '-c', 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'], ['chown', '0', '/tmp/pod.sock'],
      ].map(([command, ...args]) => [command, args.at(-1), spawnSync(command, args, { timeout: 5000 }).status])
      const datagram = await new Promise((resolve) => {
        const socket = require('dgram').createSocket('udp4')
        socket.on('error', (error) => resolve(error.code))
        socket.send('x', 53, '1.1.1.1', (error) => { socket.close(); resolve(error ? error.code : 'sent') })
      })
      return { done: tried.filter(([, , status]) => status === 0), datagram }`)
    expect(value).toEqual({ done: [], datagram: 'ENETUNREACH' })
  })

  test('a link in place of its socket leads the gateway nowhere', async () => {
    const path = join(outside, 'machine.sock')
    const server = createServer((_req, res) => res.end('a service of this machine')).listen(path)
    try {
      for (const place of [
        `fs.symlinkSync(${JSON.stringify(path)}, '/tmp/pod.sock')`,
        "fs.writeFileSync('/tmp/pod.sock', 'x')",
      ]) {
        const before = (await replica())?.restarts ?? 0
        await run(`const fs = require('fs'); fs.rmSync('/tmp/pod.sock'); ${place}`)
        // More at once than there are connections from before. They wait for the pod to be started again.
        const answers = await Promise.all(Array.from({ length: 12 }, () => platform.fetchPod(bad.name)))
        for (const { status, text } of answers) {
          expect(text).not.toContain('a service of this machine')
          expect([200, 502, 503]).toContain(status)
        }
        await healthy(before + 1)
      }
    } finally {
      server.close()
      server.closeAllConnections()
    }
  }, 60_000)

  test('it writes nowhere but in its /tmp', async () => {
    const { value } = await run(`
      const fs = require('fs')
      const write = (place) => { try { fs.writeFileSync(place + '/x', 'x'); return 'written' } catch (error) { return error.code } }
      return ['/app', '/app/tp_data', '/app/tp_data/build', '/app/node_modules', '/', '/run', '/dev', '/usr', '/etc', '/tmp'].map((place) => [place, write(place)])`)
    for (const [place, result] of value as [string, string][])
      expect([place, result]).toEqual([
        place,
        place === '/tmp' ? 'written' : expect.stringMatching(/^(EROFS|EACCES|EPERM|ENOENT)$/),
      ])
  })

  test('its /tmp is full at its limit, and it goes on', async () => {
    const fill = (place: string) => `
      const fs = require('fs')
      let bytes = 0
      const block = Buffer.alloc(1024 * 1024)
      const file = fs.openSync('${place}/fill', 'w')
      try { for (; bytes < 300e6;) bytes += fs.writeSync(file, block) } catch (error) { return { bytes, code: error.code } } finally { fs.closeSync(file); fs.rmSync('${place}/fill') }
      return { bytes, code: 'never' }`
    const { value } = await run(fill('/tmp'))
    expect(value).toMatchObject({ code: 'ENOSPC' })
    expect((value as { bytes: number }).bytes).toBeLessThanOrEqual(64 * 1024 * 1024)
    expect(await run(fill('/dev/shm'))).toMatchObject({ value: { code: expect.stringMatching(/ENOSPC|EROFS|EACCES/) } })
  })

  test('a fork bomb ends at the limit of processes', async () => {
    if (!limits('pids')) return
    const { value, error } = await run(`
      const { spawn } = require('child_process')
      const children = []
      for (let at = 0; at < 400; at++) {
        const child = await new Promise((resolve) => {
          const made = spawn('sleep', ['60'], { stdio: 'ignore' })
          made.once('spawn', () => resolve(made))
          made.once('error', () => resolve(undefined))
        }).catch(() => undefined)
        if (!child) break
        children.push(child)
      }
      for (const child of children) child.kill('SIGKILL')
      return children.length`)
    expect(error).toBeUndefined()
    expect(value).toBeGreaterThan(5)
    expect(value).toBeLessThan(128)
    await run(
      "require('child_process').spawn('sh', ['-c', 'bomb() { bomb | bomb & }; bomb'], { stdio: 'ignore', detached: true }).on('error', () => {})",
    )
    expect(await platform.fetchPod(good.name)).toMatchObject({ status: 200 })
    expect((await agent.call('POST', `/api/pods/${bad.id}/kill`)).status).toBe(200)
    await eventually(replica, (now) => now === undefined)
    expect((await agent.call('POST', `/api/pods/${bad.id}/activate`)).status).toBe(200)
    await healthy()
  })

  test('a memory hog is ended and started again', async () => {
    if (!limits('memory')) return
    const before = (await replica())?.restarts ?? 0
    const { status } = await run('const all = []; for (;;) all.push(Buffer.alloc(16 * 1024 * 1024, 1))')
    expect(status).toBe(502)
    await healthy(before + 1)
    const { lines } = read<{ lines: { message: string }[] }>(await agent.call('GET', `/api/pods/${bad.id}/logs`))
    expect(lines.map(({ message }) => message).join('\n')).toMatch(/more than its 256 MB of memory|ended with code 137/)
  })

  test('a flood of output is cut off', async () => {
    await run(`
      const line = 'flood '.repeat(2000) + '\\n'
      for (let at = 0; at < 5000; at++) process.stdout.write(line)
      process.stdout.write('x'.repeat(8 * 1024 * 1024))`)
    const logs = await eventually(
      async () => (await agent.call('GET', `/api/pods/${bad.id}/logs`)).text,
      (text) => text.includes('Too much output'),
    )
    expect(logs.length).toBeLessThan(8_000_000)
    const folder = join(platform.dir, 'logs', bad.id)
    let size = 0
    for (const name of await readdir(folder)) size += (await stat(join(folder, name))).size
    expect(size).toBeLessThan(30_000_000)
  })

  test('a blocked event loop is noticed, ended and started again', async () => {
    const before = (await replica())?.restarts ?? 0
    const blocked = run('for (;;) {}')
    await eventually(
      () => platform.fetchPod(good.name),
      ({ status }) => status === 200,
    )
    expect((await blocked).status).toBe(502)
    await healthy(before + 1)
  }, 60_000)
})
