// The demo: starts a server, starts the agent, kills it with SIGKILL in the middle, resumes it, approves its gate, and
// shows that what was done before the kill was not done again. Exits 1 if it was.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { type RunDetail, Tidebase } from '@tidebase/sdk'

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url))
const folder = await mkdtemp(join(tmpdir(), 'tidebase-demo-'))
const out = join(folder, 'out')
const children = new Set<ChildProcess>()

/** Starts a program of ours and gives its lines. */
function start(args: string[], env: Record<string, string>): { child: ChildProcess; lines: AsyncIterator<string> } {
  const child = spawn(process.execPath, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'inherit'] })
  children.add(child)
  child.once('exit', () => children.delete(child))
  return { child, lines: createInterface({ input: child.stdout })[Symbol.asyncIterator]() }
}

async function next(lines: AsyncIterator<string>): Promise<string> {
  const { value, done } = await lines.next()
  if (done) throw new Error('the program ended without saying anything more')
  return value
}

/** Looks at the run until it is as wished. */
async function until(tide: Tidebase, runId: string, reached: (run: RunDetail) => boolean): Promise<RunDetail> {
  for (;;) {
    const detail = await tide.runs.get(runId)
    if (reached(detail)) return detail
    await sleep(50)
  }
}

const say = (text: string) => console.log(`\n▸ ${text}`)
const completed = ({ steps }: RunDetail) => steps.filter(({ status }) => status === 'completed').map(({ name }) => name)

try {
  say('Starting Tidebase with an empty database. Leases last 2 s here, so that a dead worker is noticed soon.')
  const data = ['--data', join(folder, 'data')]
  const server = start([path('../../packages/tidebase/bin/tidebase.mjs'), 'start', '--json', ...data], {
    TIDEBASE_LEASE_MS: '2000',
    LOG_LEVEL: 'warn',
    PORT: '0',
  })
  const { url } = JSON.parse(await next(server.lines)) as { url: string }
  const tide = new Tidebase({ url })
  console.log(`  ${url}`)

  const agent = (runId: string[]) =>
    start(['--conditions=source', '--import', 'tsx', path('agent.ts'), path('../../docs'), ...runId], {
      TIDEBASE_URL: url,
      AGENT_OUT: out,
      AGENT_PACE_MS: '250',
    })

  say('The agent reads the files in docs/, a step for each.')
  const first = agent([])
  const runId = await next(first.lines)
  const before = completed(await until(tide, runId, (run) => completed(run).length >= 3))
  first.child.kill('SIGKILL')
  await once(first.child, 'exit')
  console.log(`  ${runId}\n  killed with SIGKILL after ${before.join(', ')}`)

  say('The same command with the run’s id: it waits for the dead worker’s lease to end and goes on.')
  const second = agent([runId])
  await next(second.lines)
  const waiting = await until(tide, runId, ({ gates }) => gates.some(({ status }) => status === 'pending'))
  const gate = waiting.gates.find(({ status }) => status === 'pending')
  console.log(`  ${completed(waiting).length} steps are done now; the agent asks: “${gate?.prompt}”`)

  say('Approving.')
  await fetch(`${url}/runs/${runId}/gates/${gate?.id}/resolve`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ token: gate?.resolveToken, decision: 'approved', actor: 'demo' }),
  })
  console.log(`  ${await next(second.lines)}`)

  const ran = (await readFile(join(out, 'ran.log'), 'utf8')).trim().split('\n')
  const repeated = before.filter((name) => ran.filter((line) => line === name).length !== 1)
  const done = await tide.runs.get(runId)
  say(
    repeated.length
      ? `These steps ran again: ${repeated.join(', ')}`
      : 'No step that was done before the kill ran again.',
  )
  console.log(`  attempts: ${done.run.attempt}, status: ${done.run.status}, words read: ${wordsRead(done)}`)
  for (const { name, attempt, status } of done.steps) {
    console.log(
      `  ${status}  ${name.padEnd(10)} recorded attempt ${attempt}, ran ${ran.filter((line) => line === name).length}×`,
    )
  }
  process.exitCode = repeated.length || done.run.status !== 'completed' ? 1 : 0
} finally {
  for (const child of children) child.kill('SIGTERM')
  await Promise.all([...children].map((child) => once(child, 'exit')))
  await rm(folder, { recursive: true, force: true })
}

function wordsRead({ usage }: RunDetail): number {
  return usage.reduce((sum, { quantity }) => sum + (quantity ?? 0), 0)
}
