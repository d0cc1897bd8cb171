// The Python SDK: its own tests against a real server, its types, and runs that one SDK begins and the other finishes.
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { restartable } from '../packages/sdk/test/helpers.ts'
import { startServer } from './server.ts'
import { hasPython, program, sdk, venv } from './venv.ts'

const python = await hasPython()
if (!python) console.warn('\n*** SKIPPED: the Python SDK needs python3, 3.9 or newer.\n')

const leaseMs = 1_000
let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer({ leaseMs, reconcileMs: 20, webhookSecret: 'shh', allowPrivateWebhooks: true })
})
afterAll(() => server.stop(500))

const env = () => ({ ...process.env, PYTHONPATH: sdk, TIDEBASE_URL: server.url, TEST_LEASE_MS: String(leaseMs) })

test.runIf(python)('the tests of the Python SDK', { timeout: 180_000 }, async () => {
  const { exit } = program('python3', ['-B', '-W', 'error::ResourceWarning', '-m', 'unittest'], {
    cwd: sdk,
    env: env(),
  })
  expect(await exit).toBe(0)
})

test.runIf(python)('mypy --strict', { timeout: 300_000 }, async ({ skip }) => {
  const mypy = await venv('mypy==2.4.1')
  if (!mypy) return skip('mypy cannot be installed here')
  const { exit, lines } = program(mypy, ['-m', 'mypy', '--strict'], { cwd: sdk })
  expect(await exit, lines.join('\n')).toBe(0)
})

const typescript = fileURLToPath(new URL('../packages/sdk/test/program.ts', import.meta.url))
const programs = {
  Python: (...args: string[]) =>
    program('python3', ['-B', join(sdk, 'tests', 'program.py'), server.url, ...args], { env: env() }),
  TypeScript: (...args: string[]) =>
    program(process.execPath, ['--conditions=source', '--import', 'tsx', typescript, server.url, ...args]),
}

test.runIf(python).each([
  ['TypeScript', 'Python'],
  ['Python', 'TypeScript'],
  ['Python', 'Python'],
] as const)('a run begun by %s and killed is finished by %s', async (beginner, finisher) => {
  const first = programs[beginner]()
  await first.line('step 2')
  const runId = /run_\w+/.exec(first.lines[0] ?? '')?.[0] ?? ''
  await expect.poll(async () => (await server.ok('getRun', { params: { runId } })).steps.length).toBe(2)
  first.child.kill('SIGKILL')
  await first.exit
  const second = programs[finisher](runId)
  expect(await second.exit).toBe(0)
  expect(first.lines).toEqual([`run ${runId} attempt 1`, 'step 1', 'step 2'])
  expect(second.lines).toEqual([`run ${runId} attempt 2`, 'step 3', 'done'])
  const { run, steps } = await server.ok('getRun', { params: { runId } })
  expect(run).toMatchObject({ status: 'completed', result: 'done', attempt: 2 })
  expect(steps.map(({ name }) => name)).toEqual(['work#1', 'work#2', 'work#3'])
})

const patient = `
import time
from tidebase import Tidebase
def work(run):
    for n in range(8):
        run.step("work", lambda: time.sleep(0.05), each=True, side_effects=["x"])
        print(n, flush=True)
    return run.attempt
print("attempt", Tidebase().run("patient", work), flush=True)
`

test.runIf(python)('a restart of the server in the middle of a run is waited out', async () => {
  const server = await restartable()
  const { line, lines, exit } = program('python3', ['-B', '-c', patient], {
    env: { ...env(), TIDEBASE_URL: server.url },
  })
  await line('2')
  await server.stop()
  await server.start()
  expect(await exit).toBe(0)
  expect(lines.at(-1)).toBe('attempt 1')
  await server.end()
})
