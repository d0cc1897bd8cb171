/**
 * The `tidepool` command: each command is a file of its name here; this one only says what there is.
 *
 * Exit codes: 0 done, 1 failed, 2 not understood. With `--json` stdout is one JSON document.
 * To add a command: its file, its lines here with an example in its help, a test through the bin.
 */
import { Command, CommanderError } from 'commander'
import { TpError } from '../src/errors.ts'
import { addPlatformCommands } from './commands.ts'
import { dev } from './dev.ts'
import { docs } from './docs.ts'
import { eject } from './eject.ts'
import { init } from './init.ts'
import { createOutput, printError } from './output.ts'
import { quickstart } from './quickstart.ts'

function createProgram(): Command {
  const program = new Command('tidepool')
  const output = () => createOutput(program.opts<{ json?: boolean }>().json === true)
  program
    .description('Build and run full web apps from one import.')
    .version('0.1.0')
    .option('--json', 'print one JSON document on stdout, for programs and agents')
    .option('-y, --yes', 'answer yes to questions')
    .option('--url <url>', 'the platform (default: TIDEPOOL_URL, the last one used, or http://localhost:8080)')
    .exitOverride()
    .configureOutput({ writeErr: () => undefined })
    .addHelpText(
      'after',
      `
Start here:
  tidepool quickstart                                   a membership blog, made and running
  tidepool init my-app && cd my-app && tidepool dev     a new app at http://localhost:8000
  tidepool register --email you@example.com             then: tidepool deploy
`,
    )
  program
    .command('init')
    .description('make a new app in a folder')
    .argument('[name]', 'the folder', 'my-app')
    .option('--template <name>', 'hello, blog, saas, paywall or chat', 'hello')
    .addHelpText('after', '\nExample:\n  tidepool init my-blog --template blog\n')
    .action((name: string, options: { template?: string }) => init(name, options, output()))
  program
    .command('dev')
    .description('run the app in this folder, restarting when a file changes')
    .argument('[dir]', 'the folder', '.')
    .option('--port <n>', 'the port', '8000')
    .option('--host <address>', 'the address to listen on', '127.0.0.1')
    .addHelpText(
      'after',
      '\nExample:\n  tidepool dev --port 3000\n\nRoutes, users, mail and errors are shown at /_dev.\n',
    )
    .action((dir: string, options: { port: string; host: string }) => dev(dir, options, output()))
  program
    .command('quickstart')
    .description('make a membership blog and run it')
    .argument('[name]', 'the folder', 'my-blog')
    .option('--port <n>', 'the port (default: 8000, or the next free one)')
    .addHelpText('after', '\nExample:\n  tidepool quickstart\n\nStarted again, it runs what is there.\n')
    .action((name: string, options: { port?: string }) => quickstart(name, options, output()))
  program
    .command('eject')
    .description('copy the runtime into the project, to change it')
    .argument('[dir]', 'the folder', '.')
    .addHelpText('after', '\nExample:\n  tidepool eject\n\nDeleting the folder tidepool/ undoes it.\n')
    .action((dir: string) => eject(dir, output()))
  program
    .command('docs')
    .description('every tool of `tp`: what it takes, returns and throws, with an example')
    .argument('[topic]', 'a tool (db, auth, db.update) or an error (errors/bad_route)')
    .addHelpText('after', '\nExamples:\n  tidepool docs\n  tidepool docs db.update\n  tidepool docs errors --json\n')
    .action((topic: string | undefined) => docs(topic, output()))
  addPlatformCommands(program, output)
  return program
}

/** Runs the command line. Sets the exit code; returns when the command is done. */
export async function main(args: readonly string[]): Promise<void> {
  const program = createProgram()
  const json = args.includes('--json')
  if (args.length === 0) {
    program.outputHelp()
    return
  }
  try {
    await program.parseAsync([...args], { from: 'user' })
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return
      const [message = '', suggestion] = error.message.replace(/^error: /, '').split('\n')
      const hint = suggestion?.replace(/[()]/g, '')
      process.exitCode = printError(new TpError('usage', message, { hint, next: ['tidepool --help'] }), json)
    } else process.exitCode = printError(error, json)
  }
}
