import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { startTestPod } from './pod.ts'

const bin = fileURLToPath(new URL('../bin/tidepool.mjs', import.meta.url))

let app: string
let server: ChildProcess | undefined
beforeEach(async () => {
  app = await mkdtemp(join(tmpdir(), 'tidepool-workflows-'))
})
afterEach(async () => {
  if (server && server.exitCode === null) {
    const ended = new Promise((resolve) => server?.once('exit', resolve))
    server.kill('SIGTERM')
    await ended
  }
  server = undefined
  await rm(app, { recursive: true, force: true })
})

const main = (code: string) => writeFile(join(app, 'main.ts'), `import tp from 'tidepool'\n${code}\n`)

async function dev(): Promise<(path: string) => Promise<string>> {
  server = spawn(process.execPath, [bin, 'dev', '--port', '0', '--json'], {
    cwd: app,
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, TIDEBASE_LEASE_MS: '1000' },
  })
  const line = await new Promise<string>((resolve) => server?.stdout?.once('data', (chunk) => resolve(String(chunk))))
  const { url }: { url: string } = JSON.parse(line)
  return async (path) => (await fetch(url + path)).text()
}

const notes = `
tp.route('/pid', () => String(process.pid))
tp.route('/notes', async () => (await tp.db.get('notes', [])) as string[])
const note = (text: string) => tp.db.update('notes', (now: string[] = []) => [...now, text])
`

test('a workflow goes on at its last checkpoint after its pod was killed, on a Tidebase that the dev server started', {
  timeout: 120_000,
}, async () => {
  await main(`${notes}
    tp.workflow('report', async (run, input: { topic: string }) => {
      const plan = await run.step('plan', async () => {
        await note('plan')
        return 'plan of ' + input.topic
      })
      await run.step('slow', async () => {
        await note('slow')
        if (run.attempt === 1) await new Promise((resolve) => setTimeout(resolve, 60_000))
      })
      return plan
    })
    tp.route('/start', async () => (await tp.enqueue('report', { input: { topic: 'tides' } })).run.id)
    tp.route('/run/:id', async (_req, { id }) => {
      const { run } = await tp.runs.get(id)
      return { status: run.status, result: run.result, attempt: run.attempt }
    })`)
  const get = await dev()
  const id = await get('/start')
  expect(id).toMatch(/^run_/)
  await vi.waitFor(async () => expect(JSON.parse(await get('/notes'))).toEqual(['plan', 'slow']), 30_000)
  process.kill(Number(await get('/pid')), 'SIGKILL')
  await vi.waitFor(
    async () =>
      expect(JSON.parse(await get(`/run/${id}`))).toEqual({ status: 'completed', result: 'plan of tides', attempt: 2 }),
    { timeout: 60_000, interval: 200 },
  )
  expect(JSON.parse(await get('/notes'))).toEqual(['plan', 'slow', 'slow'])
})

test('a restart of the pod keeps its runs, and a pod without workflows starts no Tidebase', {
  timeout: 120_000,
}, async () => {
  await main(`${notes}\ntp.background({ seconds: 3600 }, async () => { await note('tick') })`)
  const get = await dev()
  await vi.waitFor(async () => expect(JSON.parse(await get('/notes'))).toEqual(['tick']), 20_000)
  const { existsSync } = await import('node:fs')
  expect(existsSync(join(app, 'tp_data', 'tidebase'))).toBe(false)
  const code = (version: string) => `${notes}
    tp.page('/version', '${version}')
    tp.workflow('ask', async (run) => (await run.gate('ok?')).decision)
    tp.route('/start', async () => (await tp.enqueue('ask')).run.id)
    tp.route('/approve/:id', async (_req, { id }) => {
      const [gate] = (await tp.runs.get(id)).gates
      if (!gate) return 404
      await tp.runs.resolveGate(id, gate.id, { decision: 'approved' })
      return 'done'
    })
    tp.route('/run/:id', async (_req, { id }) => (await tp.runs.get(id)).run.result ?? 'waiting')`
  await main(code('one'))
  await vi.waitFor(async () => expect(await get('/version')).toBe('one'), 20_000)
  const id = await get('/start')
  await main(code('two'))
  await vi.waitFor(async () => expect(await get('/version')).toBe('two'), 20_000)
  await vi.waitFor(async () => expect(await get(`/approve/${id}`)).toBe('done'), 20_000)
  await vi.waitFor(async () => expect(await get(`/run/${id}`)).toBe('approved'), { timeout: 40_000, interval: 200 })
})

test('in production it is where the environment says; what is missing is said', async () => {
  const tidebase = await startServer({ apiKey: 'key-of-the-pod' })
  onTestFinished(() => tidebase.stop())
  const seen: unknown[] = []
  const pod = await startTestPod(
    (tp) => {
      const greet = tp.workflow('greet', { queue: 'mail' }, async (_run, input: { name: string }) => {
        seen.push(input.name)
        return `hello ${input.name}`
      })
      tp.route('/start', async () => tp.runs.wait((await tp.enqueue(greet, { input: { name: 'ada' } })).run.id))
      tp.route('/unknown', () => tp.enqueue('greeet'))
      tp.route('/list', async () => (await tp.runs.list()).runs.map(({ queue }) => queue))
    },
    { mode: 'production', tidebase: async () => ({ url: `${tidebase.url}/`, apiKey: 'key-of-the-pod' }) },
  )
  expect(await (await pod.fetch('/start')).json()).toMatchObject({
    status: 'completed',
    result: 'hello ada',
    maxAttempts: 5,
  })
  expect(seen).toEqual(['ada'])
  expect(await (await pod.fetch('/list')).json()).toEqual(['mail'])
  expect((await pod.fetch('/unknown')).status).toBe(500)
  expect(pod.logged.map(({ message }) => message).join()).toContain("There is no workflow 'greeet'")
  expect(JSON.stringify(pod.logged)).not.toContain('key-of-the-pod')
  const alone = await startTestPod((tp) => {
    tp.route('/', async () => (await tp.runs.list()).runs)
  })
  const answer = await alone.fetch('/')
  expect([answer.status, await answer.json()]).toMatchObject([
    503,
    { code: 'no_tidebase', hint: expect.stringContaining('TIDEBASE_URL') },
  ])
})
