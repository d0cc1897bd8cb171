/**
 * The command `tidepool-platform` (also `tidepool platform start`), and the only reader of its environment.
 *
 * A small parent watches over the process that does the work and starts it again when it dies; pods and the embedded
 * database end with that process, so what starts again starts clean.
 */
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { Command, CommanderError, InvalidArgumentError } from 'commander'
import { pino } from 'pino'
import packageJson from '../package.json' with { type: 'json' }
import { codes, messageOf, PlatformError } from './errors.ts'
import { logLevels, type PlatformOptions, serverOptions, startPlatform, usageError, variables } from './main.ts'

const graceMs = 15_000
const backoffMs = { first: 200, most: 10_000, forgetAfter: 3_000 }
/** Tells the process that does the work from its parent. */
const workerMark = 'TIDEPOOL_PLATFORM_WORKER'

interface Flags {
  dataDir?: string
  port?: number
  host?: string
  domain?: string
  url?: string
  unsandboxed?: boolean
  json?: boolean
}

/** Runs the command line. @param argv without the program's name */
export async function main(argv: string[]): Promise<void> {
  const program = new Command('tidepool-platform')
    .description('Runs the platform: control plane, gateway, pods and Tidebase.')
    .version(packageJson.version)
    .exitOverride()
    .configureOutput({ writeErr: () => undefined })
  program
    .command('start', { isDefault: true })
    .description('Start everything on this machine: apps at http://<name>.localhost:8080, Tidebase at 7373.')
    .option('--port <n>', 'of the control plane and the apps (default: PORT or 8080)', parsePort)
    .option('--host <address>', 'to listen on (default: HOST or 127.0.0.1)')
    .option('--domain <name>', 'apps are at <app>.<name> (default: TIDEPOOL_DOMAIN or localhost)')
    .option('--url <url>', 'where it is reached from outside (default: TIDEPOOL_PUBLIC_URL)')
    .option('--data-dir <dir>', 'what it keeps on disk (default: ./.tidepool)')
    .option('--unsandboxed', 'run apps WITHOUT isolation: only for your own')
    .option('--json', 'one JSON document on standard output when it is up')
    .addHelpText(
      'after',
      '\nEnvironment: DATABASE_URL, S3_ENDPOINT, S3_BUCKET, S3_ACCESS_KEY, S3_SECRET_KEY, SMTP_URL, TIDEBASE_URL, and those of Tidebase.\nSee docs/platform.md.',
    )
    .action((flags: Flags) => (process.env[workerMark] ? work(flags) : supervise(argv, flags)))
  try {
    await program.parseAsync(argv, { from: 'user' })
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    if (error.exitCode === 0) return
    report(usageError(error, argv, program), argv.includes('--json'))
    process.exitCode = 2
  }
}

function parsePort(text: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 0 || value > 65_535) throw new InvalidArgumentError('a port is 0 to 65535')
  return value
}

/** Keeps the process that does the work running until it is told to stop. */
async function supervise(argv: string[], flags: Flags): Promise<void> {
  const self = fileURLToPath(new URL('../bin/tidepool-platform.mjs', import.meta.url))
  let stopping = false
  let failures = 0
  let wake = () => {}
  let child = begin()

  function begin() {
    return fork(self, argv, {
      env: { ...process.env, [workerMark]: flags.json && failures > 0 ? 'quiet' : '1' },
      stdio: 'inherit',
    })
  }
  for (const signal of ['SIGTERM', 'SIGINT'] as const)
    process.on(signal, () => {
      stopping = true
      child.kill('SIGTERM')
      wake()
    })
  for (;;) {
    const startedAt = Date.now()
    const up = { is: false }
    child.on('message', () => {
      up.is = true
    })
    const code = await new Promise<number | null>((resolve) => child.once('exit', resolve))
    if (stopping || code === 0) {
      process.exitCode = code ?? 0
      return
    }
    // What never came up says why by itself, and trying again would say it again.
    if (failures === 0 && !up.is) {
      process.exitCode = code ?? 1
      return
    }
    failures = Date.now() - startedAt > backoffMs.forgetAfter ? 1 : failures + 1
    const wait = Math.min(backoffMs.most, backoffMs.first * 2 ** (failures - 1))
    process.stderr.write(`The platform's process died; it is started again in ${wait} ms.\n`)
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, wait)
      wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
    if (stopping) return
    child = begin()
  }
}

function environment(flags: Flags): PlatformOptions {
  const { env } = process
  const { text, whole, flag, address, domain } = variables(env)
  const given = variables({ '--url': flags.url, '--domain': flags.domain })
  const tidebase = serverOptions(env, { port: 'TIDEBASE_PORT', host: 'TIDEBASE_HOST' })
  const endpoint = address('S3_ENDPOINT')
  const need = (name: string) => {
    const value = text(name)
    if (!value)
      throw new PlatformError('invalid', `S3_ENDPOINT is set and ${name} is not.`, {
        hint: 'Set S3_ENDPOINT, S3_BUCKET, S3_ACCESS_KEY and S3_SECRET_KEY together.',
      })
    return value
  }
  return {
    dir: flags.dataDir ?? text('TIDEPOOL_DATA_DIR'),
    port: flags.port ?? whole('PORT', 0, 65_535),
    host: flags.host ?? text('HOST'),
    domain: given.domain('--domain') ?? domain('TIDEPOOL_DOMAIN'),
    publicUrl: given.address('--url') ?? address('TIDEPOOL_PUBLIC_URL'),
    unsandboxed: flags.unsandboxed,
    trustProxy: flag('TIDEPOOL_TRUST_PROXY'),
    databaseUrl: tidebase.databaseUrl,
    ...(endpoint && {
      s3: {
        endpoint,
        bucket: need('S3_BUCKET'),
        accessKey: need('S3_ACCESS_KEY'),
        secretKey: need('S3_SECRET_KEY'),
        region: text('S3_REGION'),
      },
    }),
    smtpUrl: address('SMTP_URL', ['smtp:', 'smtps:']),
    mailFrom: text('MAIL_FROM'),
    masterKey: text('TIDEPOOL_MASTER_KEY'),
    operatorKey: text('TIDEPOOL_OPERATOR_KEY'),
    allowHosts: (text('TIDEPOOL_ALLOW_HOSTS') ?? '').split(',').filter(Boolean),
    tidebaseUrl: address('TIDEBASE_URL'),
    tidebaseKey: text('TIDEBASE_URL') && text('TIDEBASE_API_KEY'),
    tidebase: { ...tidebase, dataDir: text('TIDEBASE_DATA_DIR') },
  }
}

async function work(flags: Flags): Promise<void> {
  try {
    const log = pino(
      {
        level: variables(process.env).word('LOG_LEVEL', logLevels) ?? 'info',
        base: null,
        redact: ['*.authorization', '*.token', '*.key', '*.secret'],
      },
      pino.destination(2),
    )
    const running = await startPlatform({
      ...environment(flags),
      log,
      onFatal: (error) => {
        log.error({ err: error }, 'the platform cannot go on')
        process.exit(1)
      },
    })
    const stop = () => {
      setTimeout(() => process.exit(1), graceMs).unref()
      running.stop().then(
        () => process.exit(0),
        () => process.exit(1),
      )
    }
    process.once('SIGTERM', stop)
    process.once('SIGINT', stop)
    // The parent is gone: nobody would start this again.
    process.once('disconnect', stop)
    process.send?.('up')
    announce(running, flags)
  } catch (error) {
    report(error, flags.json)
    process.exit(1)
  }
}

function report(error: unknown, json = false): void {
  const known = error instanceof PlatformError ? error : undefined
  const code = known?.code ?? (error instanceof Error && 'code' in error ? String(error.code) : 'failed')
  const hint = known
    ? (known.details.hint ?? codes[known.code][2])
    : error instanceof Error && 'hint' in error
      ? String(error.hint)
      : 'Start it with LOG_LEVEL=debug for more.'
  const body = { error: messageOf(error), code, hint }
  if (json) process.stdout.write(`${JSON.stringify(body)}\n`)
  else process.stderr.write(`${body.error}\n${body.hint}\n`)
}

function announce({ url, tidebaseUrl, isolation }: Awaited<ReturnType<typeof startPlatform>>, flags: Flags): void {
  if (flags.json) {
    if (process.env[workerMark] !== 'quiet')
      process.stdout.write(`${JSON.stringify({ url, tidebase: tidebaseUrl, isolation, pid: process.pid })}\n`)
    return
  }
  process.stdout.write(`
  Tidepool  ${url}        apps at ${url.replace('://', '://<name>.')}
  Tidebase  ${tidebaseUrl}
  Pods      ${isolation}

  Next, in another terminal:
    npx tidepool ${url === 'http://localhost:8080' ? '' : `--url ${url} `}register --email you@example.com
    npx tidepool init my-app && cd my-app && npx tidepool deploy

`)
}
