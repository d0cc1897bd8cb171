// The command line, the only reader of the environment (environment.ts). Exit codes: 0 done, 1 failed, 2 not understood.
import { resolve } from 'node:path'
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { pino } from 'pino'
import packageJson from '../package.json' with { type: 'json' }
import { usageError } from './command-line.ts'
import { openDatabase } from './db.ts'
import { EmbeddedError, startEmbedded } from './embedded.ts'
import { logLevels, serverOptions, variables } from './environment.ts'
import { ApiError, StartError } from './errors.ts'
import { createKey, listKeys, revokeKey } from './keys.ts'
import { migrate } from './migrate.ts'
import { setRetention } from './retention.ts'
import { type ServerOptions, startServer } from './server.ts'

/** A SIGTERM is answered within this time, ms; then the process ends whatever is still under way. */
const graceMs = 9_500

/** Runs the command line. @param argv without the program's name */
export async function main(argv: string[]): Promise<void> {
  const program = new Command('tidebase')
    .description('Durable run server for AI agents, on your own Postgres.')
    .version(packageJson.version)
    .exitOverride()
    .configureOutput({ writeErr: () => undefined })
  const data = new Option('--data <dir>', 'folder of the embedded database (default: ./.tidebase)')
  const json = new Option('--json', 'one JSON document on standard output')

  program
    .command('start', { isDefault: true })
    .description('Start the server. Without DATABASE_URL it runs its own Postgres in ./.tidebase.')
    .addOption(data)
    .option('--port <n>', 'port to listen on (default: PORT or 7373)', port)
    .option('--host <address>', 'address to listen on (default: HOST or 127.0.0.1)')
    .option('--insecure', 'listen beyond this machine without an API key')
    .addOption(json)
    .action(start)
  program
    .command('migrate')
    .description('Bring the database up to date and stop.')
    .addOption(data)
    .addOption(json)
    .action(({ data, json }: Shared) =>
      withDatabase(data, async (db) => {
        const applied = await migrate(db)
        print(json, { applied }, applied.length ? `applied ${applied.join(', ')}` : 'the database is up to date')
      }),
    )
  const keys = program.command('keys').description('API keys: each belongs to a project and has a scope.')
  keys
    .command('create <name>')
    .description('Make a key. It is shown once.')
    .addOption(
      new Option('--scope <scope>', 'what it may do')
        .choices(['admin', 'worker', 'enqueue', 'read'] as const)
        .default('worker'),
    )
    .option('--project <name>', 'the namespace it opens; made when there is none', 'default')
    .addOption(data)
    .addOption(json)
    .action((name: string, options: Shared & { scope: 'admin' | 'worker' | 'enqueue' | 'read'; project: string }) =>
      withDatabase(options.data, async (db) => {
        await migrate(db)
        const { key, secret } = await createKey(db.cold, { name, scope: options.scope, project: options.project })
        print(options.json, { key, secret }, `${secret}\nKeep it: it is not stored and cannot be shown again.`)
      }),
    )
  keys
    .command('list')
    .description('List the keys of all projects.')
    .addOption(data)
    .addOption(json)
    .action(({ data, json }: Shared) =>
      withDatabase(data, async (db) => {
        await migrate(db)
        const all = await listKeys(db.cold)
        const lines = all.map(
          ({ id, project, scope, name, hint, revokedAt }) =>
            `${id}  ${project}  ${scope}  ${name}  …${hint}${revokedAt ? `  revoked ${revokedAt}` : ''}`,
        )
        print(json, { keys: all }, lines.join('\n') || 'no keys; make one with `tidebase keys create <name>`')
      }),
    )
  keys
    .command('revoke <id>')
    .description('Revoke a key. Servers notice within five seconds.')
    .addOption(data)
    .addOption(json)
    .action((id: string, { data, json }: Shared) =>
      withDatabase(data, async (db) => {
        await migrate(db)
        if (!(await revokeKey(db.cold, id))) {
          throw new StartError('key_not_found', `There is no key ${id}.`, '`tidebase keys list` shows the ids.')
        }
        print(json, { revoked: id }, `revoked ${id}`)
      }),
    )
  program
    .command('mcp')
    .description(
      'Serve MCP on standard input and output, for the server at TIDEBASE_URL with the key TIDEBASE_API_KEY.',
    )
    .action(async () => {
      const { serveMcpStdio } = await import('./mcp.ts')
      const { TIDEBASE_URL, TIDEBASE_API_KEY } = process.env
      await serveMcpStdio(TIDEBASE_URL || 'http://127.0.0.1:7373', TIDEBASE_API_KEY || undefined)
    })
  program
    .command('retention <days>')
    .description(
      'Keep the ended runs of a project for so many days; 0 is for ever, "default" is TIDEBASE_RETENTION_DAYS.',
    )
    .option('--project <name>', 'whose runs', 'default')
    .addOption(data)
    .addOption(json)
    .action((days: string, { project, data, json }: Shared & { project: string }) =>
      withDatabase(data, async (db) => {
        await migrate(db)
        const retentionDays = days === 'default' ? null : wholeDays(days)
        if (!(await setRetention(db.cold, project, retentionDays))) {
          throw new StartError(
            'project_not_found',
            `There is no project ${project}.`,
            'A project is made with its first key.',
          )
        }
        print(json, { project, retentionDays }, `ended runs of ${project} are kept ${kept(retentionDays)}`)
      }),
    )

  try {
    await program.parseAsync(argv, { from: 'user' })
  } catch (error) {
    if (!(error instanceof CommanderError)) fail(error, argv.includes('--json'))
    else if (error.exitCode !== 0) fail(usageError(error, argv, program), argv.includes('--json'))
  }
}

interface Shared {
  data?: string
  json?: boolean
}

async function start(options: Shared & { port?: number; host?: string; insecure?: boolean }): Promise<void> {
  const log = pino({
    level: variables(process.env).word('LOG_LEVEL', logLevels) ?? 'info',
    // Bearer keys and tokens never reach the log, whatever object carries them.
    redact: ['*.authorization', '*.token', '*.apiKey', '*.secret'],
  })
  const began = performance.now()
  const onFatal = (error: Error) => {
    log.fatal({ err: error }, 'the embedded Postgres does not stay up')
    process.exit(1)
  }
  const server = await startServer({ ...serverOptions(process.env), ...given(options), log, onFatal })
  let stopping = false
  const stop = (signal: string) => {
    if (stopping) return
    stopping = true
    log.info(`${signal}: stopping`)
    setTimeout(() => process.exit(1), graceMs).unref()
    server.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ err: error }, 'could not stop cleanly')
        process.exit(1)
      },
    )
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
  const database = server.embedded ? `embedded Postgres in ${resolve(options.data ?? '.tidebase')}` : 'DATABASE_URL'
  print(
    options.json,
    { url: server.url, database, startMs: Math.round(performance.now() - began) },
    [
      `Tidebase listens on ${server.url} (${database}).`,
      'Try next:',
      `  curl -X POST ${server.url}/runs/hello -H 'content-type: application/json' -d '{"input":{"name":"you"}}'`,
      '  npm run demo          a real agent, killed in the middle and resumed',
      `  curl ${server.url}/openapi.json`,
    ].join('\n'),
  )
}

function given(options: Shared & { port?: number; host?: string; insecure?: boolean }): ServerOptions {
  return {
    ...(options.data === undefined ? {} : { dataDir: options.data }),
    ...(options.port === undefined ? {} : { port: options.port }),
    ...(options.host === undefined ? {} : { host: options.host }),
    ...(options.insecure ? { insecure: true } : {}),
  }
}

/** Runs `work` on the database that `start` would use, starting the embedded one if need be. */
async function withDatabase(
  dataDir: string | undefined,
  work: (db: ReturnType<typeof openDatabase>) => Promise<void>,
): Promise<void> {
  const { databaseUrl } = serverOptions(process.env)
  const embedded = databaseUrl ? undefined : await startEmbedded({ dataDir: dataDir ?? '.tidebase' })
  const db = openDatabase(embedded ? embedded.connection : { connectionString: databaseUrl ?? '' }, { hot: 1, cold: 1 })
  try {
    await work(db)
  } finally {
    await db.close()
    await embedded?.stop()
  }
}

function print(json: boolean | undefined, document: object, text: string): void {
  process.stdout.write(`${json ? JSON.stringify(document) : text}\n`)
}

function fail(error: unknown, json: boolean): void {
  const known =
    error instanceof StartError || error instanceof EmbeddedError || error instanceof ApiError ? error : undefined
  const body = {
    error: error instanceof Error ? error.message : String(error),
    code: known?.code ?? 'failed',
    hint: known?.hint ?? 'If it stays, report it with the output of `LOG_LEVEL=debug tidebase start`.',
  }
  if (json) process.stdout.write(`${JSON.stringify(body)}\n`)
  else process.stderr.write(`${body.error}\n${body.hint}\n`)
  process.exitCode = known?.code === 'usage' ? 2 : 1
}

function wholeDays(text: string): number {
  const days = Number(text)
  if (text.trim() !== '' && Number.isInteger(days) && days >= 0 && days <= 36_500) return days
  throw new StartError(
    'invalid_setting',
    'Days are a whole number from 0 to 36500, or "default".',
    'Correct the number.',
  )
}

const kept = (days: number | null) =>
  days === null ? 'as long as TIDEBASE_RETENTION_DAYS says' : days === 0 ? 'for ever' : `for ${days} days`

function port(text: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 0 || value > 65_535) throw new InvalidArgumentError('a port is 0 to 65535')
  return value
}
