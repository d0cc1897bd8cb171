/**
 * `tidepool quickstart`: a membership blog, made and running, in one command.
 */
import { existsSync } from 'node:fs'
import { createServer } from 'node:net'
import { join, resolve } from 'node:path'
import { dev, parsePort } from './dev.ts'
import { makePod } from './init.ts'
import type { Output } from './output.ts'

/** How many ports after the first are tried. */
const ports = 20

/**
 * Makes the pod unless the folder has it already, then runs it until it is told to stop. When no port is given and
 * 8000 is taken, the next free one is used.
 * @throws TpError `folder_exists` (the folder holds something else), `locked`, `port_taken`
 */
export async function quickstart(name: string, options: { port?: string }, output: Output): Promise<void> {
  const dir = resolve(name)
  const made = !existsSync(join(dir, 'main.ts'))
  if (made) await makePod(dir, 'paywall')
  output.line(`${made ? 'Made' : 'Found'} ${dir}`)
  const port = options.port === undefined ? await freePort(8000) : parsePort(options.port)
  await dev(dir, { port: String(port) }, output, {
    document: (url) => ({ dir, made, join: `${url}/join`, admin: `${url}/_admin/` }),
    text: (url) =>
      [
        '  A membership blog. Try next:',
        `    read and buy       ${url}/join   (nobody is charged while developing)`,
        `    write              ${url}/_admin/   log in as admin@example.com; the link lies in ${url}/_dev/mail`,
        `    change it          ${join(dir, 'main.ts')}   saved changes show at once`,
        '',
      ].join('\n'),
  })
}

async function freePort(first: number): Promise<number> {
  for (let port = first; port < first + ports; port++) {
    const free = await new Promise<boolean>((done) => {
      const probe = createServer()
      probe.once('error', () => done(false))
      probe.listen(port, '127.0.0.1', () => probe.close(() => done(true)))
    })
    if (free) return port
  }
  return first
}
