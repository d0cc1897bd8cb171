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

/**
 * Runs the dev server; resolves when it has stopped after SIGINT or SIGTERM.
 * @throws TpError `no_main`, `locked`, `port_taken`
 */
export async function dev(dir: string, options: { port: string; host?: string }, output: Output): Promise<void> {
  let announced = false
  const say = (event: DevEvent) => {
    if (event.type === 'error') process.stderr.write(`${errorText(event.error, event.place)}\n`)
    else if (event.restart) process.stderr.write(`${pc.green('↻')} restarted in ${event.ms} ms\n`)
    if (announced || !server) return
    announced = true
    const document = { url: server.url, pid: process.pid, dev: `${server.url}/_dev`, mail: `${server.url}/_dev/mail` }
    const text = `\n  ${pc.bold('Tidepool')} runs at ${pc.cyan(server.url)}\n  Routes, mail, errors: ${server.url}/_dev\n  Stop with Ctrl+C.\n`
    output.result(document, text)
  }
  const server = await startDevServer({ dir, port: parsePort(options.port), host: options.host, say })
  await new Promise<void>((stop) => {
    process.once('SIGINT', () => stop())
    process.once('SIGTERM', () => stop())
  })
  await server.close()
}
