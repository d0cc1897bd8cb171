// The FastAPI example as a user runs it: uvicorn, workers that are killed, a person who decides in the app.
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished, test } from 'vitest'
import { startServer } from './server.ts'
import { hasPython, type Program, program, sdk, venv } from './venv.ts'

const example = fileURLToPath(new URL('../examples/fastapi', import.meta.url))
const requirements = readFileSync(join(example, 'requirements.txt'), 'utf8').split('\n')
const packages = requirements.filter((line) => /^\w/.test(line))
const python = (await hasPython()) ? await venv(...packages) : undefined
if (!python) console.warn('\n*** SKIPPED: the FastAPI example needs python3 and PyPI.\n')

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  return typeof address === 'object' && address ? address.port : 0
}

/** The run server, and the example's programs on it. */
async function world() {
  const server = await startServer({ leaseMs: 600, reconcileMs: 20, webhookSecret: 'shh', allowPrivateWebhooks: true })
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const env = {
    ...process.env,
    PYTHONPATH: sdk,
    TIDEBASE_URL: server.url,
    TIDEBASE_WEBHOOK_SECRET: 'shh',
    PUBLIC_URL: url,
  }
  const programs: Program[] = []
  const start = (pauseS: number, ...args: string[]) => {
    const started = program(python ?? '', ['-B', ...args], { cwd: example, env: { ...env, PAUSE_S: String(pauseS) } })
    programs.push(started)
    return started
  }
  onTestFinished(async () => {
    for (const { child } of programs) child.kill('SIGKILL')
    await Promise.all(programs.map(({ exit }) => exit))
    await server.stop(500)
  })
  const call = async (method: string, path: string, body?: unknown) => {
    const headers = { 'content-type': 'application/json' }
    const response = await fetch(url + path, {
      method,
      headers,
      redirect: 'manual',
      body: JSON.stringify(body),
    })
    const text = await response.text()
    return { status: response.status, text, json: text.startsWith('{') ? JSON.parse(text) : undefined }
  }
  return {
    server,
    call,
    /** @param pauseS how long the model thinks, in seconds */
    worker: (pauseS: number) => start(pauseS, 'worker.py'),
    async app(pauseS = 0.01) {
      const app = start(pauseS, '-m', 'uvicorn', 'app:app', '--port', String(port), '--log-level', 'warning')
      await expect
        .poll(() => call('GET', '/').catch(() => undefined), { timeout: 20_000 })
        .toMatchObject({ status: 200 })
      return app
    },
  }
}

const patient = { timeout: 20_000, interval: 50 }

test.runIf(python)(
  'a report survives its worker, asks a person in the app, and is mailed once',
  { timeout: 90_000 },
  async () => {
    const { server, call, worker, app } = await world()
    await app()
    const first = worker(1)
    const { status, json } = await call('POST', '/reports', { topic: 'tides' })
    expect(status).toBe(202)
    expect(json).toEqual({ runId: expect.stringMatching(/^run_/), deduplicated: false })
    expect((await call('POST', '/reports', { topic: 'tides' })).json).toEqual({ ...json, deduplicated: true })

    await first.line('asking: tides, part 2')
    expect((await call('GET', `/reports/${json.runId}`)).json).toMatchObject({
      status: 'running',
      progress: { doing: 'tides, part 2', done: 1, of: 3 },
      result: null,
    })
    first.child.kill('SIGKILL')
    const second = worker(0.01)
    const report = async () => (await call('GET', `/reports/${json.runId}`)).json
    await expect
      .poll(report, patient)
      .toMatchObject({ questions: [{ prompt: 'Publish the report about tides?', data: expect.anything() }] })
    expect(first.lines).toEqual(['asking: tides, part 1', 'asking: tides, part 2'])
    expect(second.lines).toEqual(['asking: tides, part 2', 'asking: tides, part 3'])

    const inbox = await call('GET', '/')
    expect(inbox.text).toContain('Publish the report about tides?')
    expect(inbox.text).not.toContain('resolveToken')
    const action = /action="([^"]+approved)"/.exec(inbox.text)?.[1] ?? ''
    expect((await call('POST', action)).status).toBe(303)
    expect((await call('POST', action)).json).toMatchObject({ code: 'gate_resolved' })
    await expect.poll(report, patient).toMatchObject({
      status: 'completed',
      result: { published: true, by: 'somebody who is logged in' },
    })
    expect(second.lines.filter((each) => each === 'mailed')).toHaveLength(1)
    expect((await call('GET', '/')).text).toContain('Nothing.')
    const { run } = await server.ok('getRun', { params: { runId: json.runId } })
    expect(run).toMatchObject({ attempt: 2 })
    second.child.kill('SIGTERM')
    expect(await second.exit).toBe(0)
  },
)

test.runIf(python)(
  'a summary that its web process left is brought back by the signed webhook',
  { timeout: 90_000 },
  async () => {
    const { call, app } = await world()
    const first = await app(1)
    expect(await call('POST', '/webhooks/tidebase', { type: 'run.resume' })).toMatchObject({
      status: 401,
      json: { code: 'invalid_signature' },
    })
    expect(await call('GET', `/summaries/run_${'0'.repeat(32)}`)).toMatchObject({ json: { code: 'run_not_found' } })
    const { json } = await call('POST', '/summaries', { topic: 'moons' })
    await first.line(/in one sentence/)
    first.child.kill('SIGKILL')
    await first.exit
    const second = await app()
    await expect
      .poll(async () => (await call('GET', `/summaries/${json.runId}`)).json, { timeout: 25_000, interval: 50 })
      .toMatchObject({ status: 'completed', result: expect.stringContaining('in one sentence') })
    expect(second.lines).toEqual([expect.stringContaining('in one sentence')])
  },
)
