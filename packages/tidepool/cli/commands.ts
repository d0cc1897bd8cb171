/**
 * The commands that talk to a platform, as the command line sees them: names, flags, examples.
 */
import type { Command } from 'commander'
import { login, register, verify, whoami } from './account.ts'
import { type DeployOptions, deploy } from './deploy.ts'
import type { Output } from './output.ts'
import { platform } from './platform.ts'
import { act, logs, open, type PodOptions, remove, rollback, scale, secrets, status, undo } from './pods.ts'
import { type PushOptions, pull, push } from './sync.ts'

const collect = (value: string, before: string[] = []) => [...before, value]

/** Adds them to the program. */
export function addPlatformCommands(program: Command, output: () => Output): void {
  /** The options of a command and the global ones. */
  const all = <T extends object>(options: T) => ({ ...program.opts<{ url?: string; yes?: boolean }>(), ...options })
  const example = (...lines: string[]) => `\nExample:\n${lines.map((line) => `  ${line}`).join('\n')}\n`
  const ofPod = (name: string, description: string) =>
    program
      .command(name)
      .description(description)
      .option('--pod <name>', 'name or id (default: the pod of this folder)')

  program
    .command('register')
    .description('register an address with a platform')
    .option('--email <address>', 'your address')
    .addHelpText('after', example('tidepool --url https://pods.example.com register --email you@example.com'))
    .action((options: { email?: string }) => register(all(options), output()))
  program
    .command('verify')
    .description('confirm the address')
    .argument('<link>', 'the mailed link, or its token')
    .action((link: string) => verify(link, all({}), output()))
  program
    .command('login')
    .description('use a key that you have')
    .option('--key <key>', 'the key (default: TIDEPOOL_KEY)')
    .action((options: { key?: string }) => login(all(options), output()))
  program
    .command('whoami')
    .description('who this machine is to the platform')
    .action(() => whoami(all({}), output()))
  program
    .command('deploy')
    .description('put this folder live')
    .argument('[dir]', 'the folder', '.')
    .option('--name <name>', 'name of the pod (default: of the package or the folder)')
    .option('--secret <name=value>', 'a secret; may be given several times', collect)
    .option('--message <text>', 'what is new')
    .addHelpText(
      'after',
      example('tidepool deploy', 'tidepool deploy --name my-blog --secret stripe_secret_key=sk_live_…'),
    )
    .action((dir: string, options: DeployOptions) => deploy(dir, all(options), output()))
  program
    .command('pull')
    .description('bring a pod into a folder: source, database, secrets, files')
    .argument('[pod]', 'name or id')
    .option('--dir <dir>', 'the folder', '.')
    .addHelpText('after', example('tidepool pull my-blog --dir my-blog'))
    .action((pod: string | undefined, options: { dir: string }) => pull(pod, all(options), output()))
  program
    .command('push')
    .description('send this folder back: source, database, files, secrets')
    .option('--dir <dir>', 'the folder', '.')
    .option('--replace-db', 'also remove keys that are not here')
    .option('--sync', 'also remove files that are not here')
    .option('--file <json>', 'database to send in place of tp_data/db.json')
    .option('--secret <name=value>', 'a secret; may be given several times', collect)
    .option('--message <text>', 'what is new')
    .addHelpText('after', example('tidepool push', 'tidepool push -y --replace-db'))
    .action((options: PushOptions) => push(all(options), output()))
  ofPod('status', 'the pod of this folder, or all pods').action((options: PodOptions) => status(all(options), output()))
  ofPod('logs', 'what the pod printed')
    .option('-f, --follow', 'go on')
    .option('-n, --limit <n>', 'lines', '200')
    .action((options: PodOptions & { follow?: boolean; limit: string }) => logs(all(options), output()))
  ofPod('open', 'open the pod in a browser').action((options: PodOptions) => open(all(options), output()))
  const simple = {
    restart: 'replace the processes one by one',
    kill: 'stop the pod; its data stays',
    activate: 'start a stopped pod',
    restore: 'bring a deleted pod back',
  } as const
  for (const verb of ['restart', 'kill', 'activate', 'restore'] as const)
    ofPod(verb, simple[verb]).action((options: PodOptions) => act(verb, all(options), output()))
  ofPod('scale', 'change the number of processes')
    .argument('<n>', '1 to 10')
    .action((count: string, options: PodOptions) => scale(count, all(options), output()))
  ofPod('rollback', 'bring the code of an earlier deployment back; data stays')
    .argument('[deployment]', 'id or number (default: the one before)')
    .action((deployment: string | undefined, options: PodOptions) => rollback(deployment, all(options), output()))
  ofPod('undo', 'take the last deployment or replacement back: code, secrets and data').action((options: PodOptions) =>
    undo(all(options), output()),
  )
  ofPod('delete', 'delete the pod; restorable for 7 days').action((options: PodOptions) =>
    remove(all(options), output()),
  )
  ofPod('secrets', 'set, list or unset credentials of the pod')
    .argument('<verb>', 'set, list or unset')
    .argument('[names...]', 'NAME=value for set, NAME for unset')
    .addHelpText('after', example('tidepool secrets set stripe_secret_key=sk_live_…', 'tidepool secrets list'))
    .action((verb: string, names: string[], options: PodOptions) => secrets(verb, names, all(options), output()))
  program
    .command('platform')
    .description('run the platform itself: `platform start`')
    .allowUnknownOption()
    .helpOption(false)
    .argument('[args...]')
    .action((args: string[]) => platform(args))
}
