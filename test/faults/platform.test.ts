// kill -9 of a pod, of the platform and of Postgres under load, and of the platform in the middle of deployments.
import { appendFile, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { agentMachine, ask, type PlatformProcess, startPlatformProcess } from '../e2e/platform.ts'

let dir: string
let port: number
let platform: PlatformProcess
let machine: Awaited<ReturnType<typeof agentMachine>>
let app: string

async function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const address = probe.address()
      probe.close(() => resolve(typeof address === 'object' && address ? address.port : 0))
    })
  })
}

const source = `import tp from 'tidepool'
tp.auth = 'standard'
tp.route('/', () => 'version 0')
tp.route('/add/:key', { methods: ['POST'] }, async (_req, { key }) => {
  await tp.db.set('added:' + key, true)
  return { key }
})
tp.route('/count', async () => ({ n: await tp.db.increment('count'), pid: process.env.TIDEPOOL_REPLICA }))
tp.route('/added', async () => tp.db.keys('added:'))
`

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'tpf-'))
  // A port of its own, so that it is the same after a restart; its own embedded database, which dies with it.
  port = await freePort()
  platform = await startPlatformProcess(dir, { TIDEBASE_DATA_DIR: join(dir, 'pg') }, port)
  machine = await agentMachine(platform.url)
  app = join(machine.home, 'app')
  const { tp } = machine
  await tp(['init', 'app'])
  await rm(join(app, 'main.ts'))
  await appendFile(join(app, 'main.ts'), source)
  const registered = await tp(['register', '--email', 'ada@example.com'])
  await tp(['verify', String(registered.json.verifyUrl)])
  await tp(['deploy'], { cwd: app })
  await tp(['scale', '2'], { cwd: app })
}, 180_000)
afterAll(async () => {
  await platform.stop()
  await machine.remove()
  await rm(dir, { recursive: true, force: true })
})

/** Posts new keys until it is told to stop. @returns the keys whose answer was 200 */
function writers() {
  let stopped = false
  const acknowledged: string[] = []
  const client = async (name: number) => {
    for (let n = 0; !stopped; n++) {
      const key = `${name}-${n}-${Math.random().toString(36).slice(2)}`
      const answer = await ask(port, 'app', `/add/${key}`, { method: 'POST' }).catch(() => undefined)
      if (answer?.status === 200) acknowledged.push(key)
      else await new Promise((done) => setTimeout(done, 20))
    }
  }
  const running = [0, 1, 2, 3].map(client)
  return {
    count: () => acknowledged.length,
    async stop() {
      stopped = true
      await Promise.all(running)
      return acknowledged
    },
  }
}

const answers = async () => (await ask(port, 'app').catch(() => undefined))?.status === 200

/** Lets `harm` be done under load, waits until writes are acknowledged again, and looks for what was lost. */
async function survive(harm: () => Promise<void>): Promise<void> {
  const load = writers()
  await expect.poll(load.count, { timeout: 20_000 }).toBeGreaterThan(20)
  await harm()
  const before = load.count()
  await expect.poll(load.count, { timeout: 60_000 }).toBeGreaterThan(before + 50)
  const acknowledged = await load.stop()
  const { body } = await ask(port, 'app', '/added')
  const kept = new Set(JSON.parse(body))
  expect(acknowledged.filter((key) => !kept.has(`added:${key}`))).toEqual([])
}

/** Processes whose command line contains all of `words`. */
async function processes(...words: string[]): Promise<number[]> {
  const found: number[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const line = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '')
    if (words.every((word) => line.includes(word))) found.push(Number(name))
  }
  return found
}

/** The process that does the platform's work. */
async function worker(): Promise<number> {
  const [pid] = (await processes('tidepool-platform.mjs', String(port))).filter((pid) => pid !== platform.process.pid)
  if (!pid) throw new Error('no platform runs')
  return pid
}

describe('a platform survives', { timeout: 180_000 }, () => {
  test('kill -9 of a pod under load: it comes back by itself, nothing acknowledged is lost', async () => {
    await survive(async () => {
      const { replicas }: { replicas: { id: string }[] } = JSON.parse((await machine.tp(['status'], { cwd: app })).out)
      const [one] = replicas
      const pods = await processes(`main.mjs`, '--max-old-space-size')
      expect(replicas).toHaveLength(2)
      const mine = await Promise.all(
        pods.map(async (pid) =>
          (await readFile(`/proc/${pid}/environ`, 'utf8').catch(() => '')).includes(one?.id ?? '-') ? pid : 0,
        ),
      )
      const pid = mine.find((each) => each > 0)
      if (!pid) throw new Error('the process of the replica was not found')
      process.kill(pid, 'SIGKILL')
    })
    await expect
      .poll(
        async () => {
          const { replicas }: { replicas: { state: string }[] } = JSON.parse(
            (await machine.tp(['status'], { cwd: app })).out,
          )
          return replicas.filter(({ state }) => state === 'healthy').length
        },
        { timeout: 20_000 },
      )
      .toBe(2)
  })

  test('kill -9 of the platform under load', async () => {
    await survive(async () => {
      process.kill(await worker(), 'SIGKILL')
    })
    await expect.poll(answers).toBe(true)
  })

  test('kill -9 of Postgres under load', async () => {
    await survive(async () => {
      const [pid] = (await readFile(join(dir, 'pg', 'postgres', 'postmaster.pid'), 'utf8')).split('\n')
      process.kill(Number(pid), 'SIGKILL')
    })
  })

  test.each([
    0, 150, 400, 900, 1500,
  ])('kill -9 of the platform %i ms into a deployment: it goes on and goes live', async (ms) => {
    await rm(join(app, 'main.ts'))
    await appendFile(join(app, 'main.ts'), source.replace('version 0', `version ${ms}`))
    const deploying = machine.tp(['deploy'], { cwd: app })
    // Not unhandled while the platform is being killed.
    deploying.catch(() => {})
    await expect
      .poll(
        async () => {
          const found = await machine.tp(['status'], { cwd: app }).catch(() => undefined)
          const { deployments = [] }: { deployments?: { status: string }[] } = found ? JSON.parse(found.out) : {}
          return deployments[0]?.status
        },
        { interval: 20, timeout: 20_000 },
      )
      .toMatch(/queued|running|live/)
    await new Promise((done) => setTimeout(done, ms))
    process.kill(await worker(), 'SIGKILL')
    expect((await deploying).json).toMatchObject({ url: `http://app.localhost:${port}` })
    await expect
      .poll(async () => (await ask(port, 'app').catch(() => undefined))?.body, { timeout: 30_000 })
      .toBe(`version ${ms}`)
    const { deployments }: { deployments: { status: string }[] } = JSON.parse(
      (await machine.tp(['status'], { cwd: app })).out,
    )
    expect(deployments.filter(({ status }) => status === 'live')).toHaveLength(1)
  })

  test('after all that: no pod or database is left over when it stops', async () => {
    expect(await platform.stop()).toBe(0)
    expect(await processes('bwrap', dir)).toEqual([])
    expect(await processes('postgres', join(dir, 'pg'))).toEqual([])
  })
})
