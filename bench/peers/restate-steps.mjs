// Restate: the same workflow. Its server in a temporary folder, the service and the load in this process.
// node restate-steps.mjs <concurrent runs> <steps per run> <runs>
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { createServer } from 'node:net'
import { arch, platform, tmpdir } from 'node:os'
import { join } from 'node:path'

// Its SDK needs what Node 20 lacks.
Promise.withResolvers ??= function withResolvers() {
  let resolve
  let reject
  const promise = new this((yes, no) => {
    resolve = yes
    reject = no
  })
  return { promise, resolve, reject }
}

const [concurrent, steps, runs] = process.argv.slice(2).map(Number)
const resolve = createRequire(import.meta.url).resolve
const find = (name) => {
  try {
    return resolve(name)
  } catch {
    return undefined
  }
}
const program = find(`@restatedev/restate-server-${platform()}-${arch()}/bin/restate-server`)
if (!program) {
  console.log(JSON.stringify({ skipped: `Restate: no server binary for ${platform()} ${arch()}` }))
  process.exit(0)
}
const { version } = JSON.parse(await readFile(resolve('@restatedev/restate-server/package.json'), 'utf8'))
// A line per run would be the load.
process.env.RESTATE_LOGGING = 'ERROR'
const restate = await import('@restatedev/restate-sdk')

const ms = []
let measuring = false
const bench = restate.service({
  name: 'bench',
  handlers: {
    run: async (ctx) => {
      for (let n = 0; n < steps; n++) {
        const began = performance.now()
        await ctx.run(`s${n}`, () => ({ ok: n }))
        if (measuring) ms.push(performance.now() - began)
      }
    },
  },
})

/** Ports that are free now, all different. */
async function freePorts(count) {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'))
  await Promise.all(servers.map((server) => once(server, 'listening')))
  const ports = servers.map((server) => server.address().port)
  await Promise.all(servers.map((server) => new Promise((closed) => server.close(closed))))
  return ports
}

const [service, ingress, admin, node] = await freePorts(4)
await restate.serve({ port: service, services: [bench] })
const folder = await mkdtemp(join(tmpdir(), 'restate-bench-'))
const address = (port) => `127.0.0.1:${port}`
const server = spawn(program, ['--no-logo', '--node-name', 'bench', '--base-dir', folder], {
  cwd: folder,
  stdio: ['ignore', 'ignore', 'inherit'],
  env: {
    ...process.env,
    DO_NOT_TRACK: '1',
    RESTATE_DISABLE_TELEMETRY: 'true',
    // Its search for a newer release has no switch; where there is no internet it need not be heard.
    RESTATE_LOG_FILTER: 'error,octocrab=off',
    RESTATE_LISTEN_MODE: 'tcp',
    RESTATE_BIND_IP: '127.0.0.1',
    RESTATE_BIND_ADDRESS: address(node),
    RESTATE_INGRESS__BIND_ADDRESS: address(ingress),
    RESTATE_ADMIN__BIND_ADDRESS: address(admin),
    RESTATE_ADMIN__DISABLE_WEB_UI: 'true',
  },
})
const stop = async () => {
  if (server.exitCode === null && server.signalCode === null) {
    const exited = once(server, 'exit')
    // Nothing of it is needed any more, and its own shutdown takes its time.
    server.kill('SIGKILL')
    await exited
  }
  await rm(folder, { recursive: true, force: true })
}
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => void stop().finally(() => process.exit(0)))

const until = async (what, ask) => {
  for (const giveUp = Date.now() + 60_000; Date.now() < giveUp; ) {
    if (server.exitCode !== null) throw new Error(`restate-server ended with ${server.exitCode}`)
    if (await ask().catch(() => false)) return
    await new Promise((next) => setTimeout(next, 50))
  }
  throw new Error(`restate-server: ${what} took too long`)
}
const post = async (port, path, body) => {
  const headers = { 'content-type': 'application/json' }
  const answer = await fetch(`http://127.0.0.1:${port}${path}`, { method: 'POST', headers, body: JSON.stringify(body) })
  const text = await answer.text()
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${text}`)
}
const many = async (total) => {
  let next = 0
  const worker = async () => {
    while (next < total) await post(ingress, '/bench/run', next++)
  }
  await Promise.all(Array.from({ length: Math.min(concurrent, total) }, worker))
}

try {
  await until('start', async () => (await fetch(`http://127.0.0.1:${admin}/health`)).ok)
  await until('registration', () =>
    post(admin, '/deployments', { uri: `http://127.0.0.1:${service}` }).then(() => true),
  )
  await until('first run', () => post(ingress, '/bench/run', 0).then(() => true))
  await many(Math.min(concurrent, runs))
  measuring = true
  const began = performance.now()
  await many(runs)
  const seconds = (performance.now() - began) / 1000
  ms.sort((a, b) => a - b)
  const at = (share) => Math.round((ms[Math.floor(ms.length * share)] ?? 0) * 100) / 100
  const stepsPerSecond = Math.round((runs * steps) / seconds)
  console.log(JSON.stringify({ system: `Restate ${version}`, stepsPerSecond, p50ms: at(0.5), p99ms: at(0.99) }))
} finally {
  await stop()
}
process.exit(0)
