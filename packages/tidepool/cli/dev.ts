/**
 * `tidepool dev`: runs the pod in this folder until it is told to stop.
 */
import pc from 'picocolors'
import { type DevEvent, startDevServer } from '../src/dev/server.ts'
import { TpError } from '../src/errors.ts'
import { errorText, type Output } from './output.ts'

/** A port as given on the command line. @throws TpError `usage` */
export function parsePort(text: string): number {
  const port = Number(text)
  if (!Number.isInteger(port) || port < 0 || port > 65_535)
    throw new TpError('usage', `"${text}" is not a port`, {
      hint: 'Use a number from 1 to 65535, or 0 for any free port.',
    })
  return port
}

/** What a command that runs the dev server says besides where it is. */
export interface Announcement {
  document: (url: string) => object
  text: (url: string) => string
}

/**
 * Runs the dev server; resolves when it has stopped after SIGINT or SIGTERM.
 * @throws TpError `no_main`, `locked`, `port_taken`
 */
export async function dev(
  dir: string,
  options: { port: string; host?: string },
  output: Output,
  more?: Announcement,
): Promise<void> {
  let announced = false
  const say = (event: DevEvent) => {
    if (event.type === 'error') process.stderr.write(`${errorText(event.error, event.place)}\n`)
    else if (event.restart) process.stderr.write(`${pc.green('↻')} restarted in ${event.ms} ms\n`)
    if (announced || !server) return
    announced = true
    const { url } = server
    const document = { url, pid: process.pid, dev: `${url}/_dev`, mail: `${url}/_dev/mail`, ...more?.document(url) }
    const text = `\n  ${pc.bold('Tidepool')} runs at ${pc.cyan(url)}\n  Routes, mail, errors: ${url}/_dev\n  Stop with Ctrl+C.\n`
    output.result(document, more ? `${text}\n${more.text(url)}` : text)
  }
  const server = await startDevServer({ dir, port: parsePort(options.port), host: options.host, say })
  await new Promise<void>((stop) => {
    process.once('SIGINT', () => stop())
    process.once('SIGTERM', () => stop())
  })
  await server.close()
}
