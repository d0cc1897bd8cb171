// A platform as its operator starts it, and the command line as an agent uses it, for tests.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { Agent, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { sandboxed } from '../../packages/platform/test/harness.ts'

const program = fileURLToPath(new URL('../../packages/platform/bin/tidepool-platform.mjs', import.meta.url))
const cli = fileURLToPath(new URL('../../packages/tidepool/bin/tidepool.mjs', import.meta.url))

export interface Said {
  code: number
  /** What was printed, as JSON with --json. */
  json: { [field: string]: unknown }
  out: string
  err: string
}

export interface PlatformProcess {
  url: string
  port: number
  /** The process that does the work, under the one that was started. */
  pid(): number
  process: ChildProcess
  /** Everything printed to stderr. */
  log(): string
  stop(): Promise<number | null>
}

/** Starts `tidepool platform start` in `dir`, on free ports unless `env` says otherwise. */
export async function startPlatformProcess(
  dir: string,
  env: Record<string, string> = {},
  port = 0,
): Promise<PlatformProcess> {
  const args = ['start', '--json', '--port', String(port), ...(sandboxed ? [] : ['--unsandboxed'])]
  const child = spawn(process.execPath, [program, ...args], {
    cwd: dir,
    env: { ...process.env, TIDEBASE_PORT: '0', TIDEBASE_RECONCILE_MS: '100', LOG_LEVEL: 'warn', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let out = ''
  let err = ''
  child.stderr.on('data', (chunk) => {
    err += chunk
  })
  const up = await new Promise<{ url: string; pid: number }>((resolve, reject) => {
    child.stdout.on('data', (chunk) => {
      out += chunk
      const line = out.split('\n').find((each) => each.includes('"url"'))
      if (line) resolve(JSON.parse(line))
    })
    child.once('exit', (code) => reject(new Error(`the platform ended with ${code}: ${out}${err}`)))
  })
  return {
    url: up.url,
    port: Number(new URL(up.url).port),
    pid: () => up.pid,
    process: child,
    log: () => err,
    async stop() {
      if (child.exitCode !== null) return child.exitCode
      const ended = once(child, 'exit')
      child.kill('SIGTERM')
      await ended
      return child.exitCode
    },
  }
}

/** A machine of an agent: its own configuration, and the command line on it. */
export async function agentMachine(url: string) {
  const home = await mkdtemp(join(tmpdir(), 'tpe-'))
  /** Runs `tidepool --json …`, or as people do without `json`; rejects unless it ends with `expected`. */
  async function tp(
    args: string[],
    { cwd = home, expected = 0, json = true }: { cwd?: string; expected?: number; json?: boolean } = {},
  ): Promise<Said> {
    const child = spawn(process.execPath, [cli, ...(json ? ['--json'] : []), ...args], {
      cwd,
      env: { ...process.env, XDG_CONFIG_HOME: join(home, 'config'), TIDEPOOL_URL: url, NO_COLOR: '1' },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let out = ''
    let err = ''
    child.stdout.on('data', (chunk) => {
      out += chunk
    })
    child.stderr.on('data', (chunk) => {
      err += chunk
    })
    const [code]: (number | null)[] = await once(child, 'close')
    if (code !== expected) throw new Error(`tidepool ${args.join(' ')} ended with ${code}: ${out}${err}`)
    return { code: code ?? -1, out, err, json: out.startsWith('{') ? JSON.parse(out) : {} }
  }
  return { home, tp, remove: () => rm(home, { recursive: true, force: true }) }
}

/** A mail that the platform or a pod sent, as its operator reads it. */
export async function findMail(url: string, dir: string, to: string, subject: string): Promise<{ text: string }> {
  const key = (await readFile(join(dir, '.tidepool', 'operator.key'), 'utf8')).trim()
  for (let tries = 0; tries < 100; tries++) {
    const answer = await fetch(`${url}/api/operator/mails`, { headers: { authorization: `Bearer ${key}` } })
    const { mails }: { mails: { to: string; subject: string; text: string }[] } = JSON.parse(await answer.text())
    const found = mails.find((mail) => mail.to === to && mail.subject.includes(subject))
    if (found) return found
    await new Promise((done) => setTimeout(done, 50))
  }
  throw new Error(`there was no mail to ${to} about ${subject}`)
}

export interface Answer {
  status: number
  body: string
  headers: Record<string, string | string[] | undefined>
}

const agent = new Agent({ keepAlive: true })

/** A request to the app `name`. */
export function ask(
  port: number,
  name: string,
  path = '/',
  init: { method?: string; body?: string; headers?: Record<string, string>; agent?: Agent } = {},
): Promise<Answer> {
  const { method = 'GET', body, headers } = init
  return new Promise((resolve, reject) => {
    const sent = request(
      {
        host: '127.0.0.1',
        port,
        path,
        method,
        agent: init.agent ?? agent,
        headers: { host: `${name}.localhost:${port}`, ...headers },
      },
      (answer) => {
        let text = ''
        answer.setEncoding('utf8')
        answer.on('data', (chunk: string) => {
          text += chunk
        })
        answer.on('end', () => resolve({ status: answer.statusCode ?? 0, body: text, headers: answer.headers }))
        answer.on('error', reject)
      },
    )
    sent.on('error', reject)
    sent.end(body)
  })
}

/** Asks again and again until it is told to stop. */
export function load(
  port: number,
  name: string,
  requests: { path: string; method?: string; body?: string }[],
  clients = 8,
) {
  let stopped = false
  const answers: (Answer | Error)[] = []
  const agent = new Agent({ keepAlive: true })
  const client = async (first: number) => {
    for (let at = first; !stopped; at++) {
      const { path, ...init } = requests[at % requests.length] ?? { path: '/' }
      answers.push(
        await ask(port, name, path, { ...init, agent }).catch((error: unknown) =>
          error instanceof Error ? error : new Error(String(error)),
        ),
      )
    }
  }
  const running = Array.from({ length: clients }, (_, at) => client(at))
  return {
    /** Ends it. @returns how many were asked, and those that were not answered with 200 */
    async stop(): Promise<{ asked: number; failed: string[] }> {
      stopped = true
      await Promise.all(running)
      agent.destroy()
      const failed = answers.filter((answer) => answer instanceof Error || answer.status !== 200)
      return {
        asked: answers.length,
        failed: failed.map((answer) =>
          answer instanceof Error ? answer.message : `${answer.status} ${answer.body.slice(0, 200)}`,
        ),
      }
    },
  }
}
