// Starting and ending what a server consists of.
import { once } from 'node:events'
import type { Server } from 'node:http'
import { messageOf, PlatformError } from './errors.ts'
import type { Log } from './platform.ts'

/** Listens. @throws PlatformError `unavailable` when the port is taken or the address is not this machine's */
export function listen(http: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    http.once('error', ({ code, message }: NodeJS.ErrnoException) => {
      reject(
        code === 'EADDRINUSE'
          ? new PlatformError('unavailable', `Port ${port} on ${host} is taken.`, {
              hint: 'Stop the other program, or choose a port with --port N.',
            })
          : new PlatformError('unavailable', `Cannot listen on port ${port} of ${host}: ${message}.`, {
              hint: 'Choose an address of this machine with --host, and a port that you may use with --port.',
            }),
      )
    })
    http.listen(port, host, resolve)
  })
}

/** Stops accepting and waits until the requests under way are answered. */
export async function drain(http: Server, graceMs: number): Promise<void> {
  const closed = once(http, 'close')
  http.close()
  http.closeIdleConnections()
  const idle = setInterval(() => http.closeIdleConnections(), 50)
  const late = setTimeout(() => http.closeAllConnections(), graceMs)
  await closed
  clearInterval(idle)
  clearTimeout(late)
}

/** Runs each of `works` again and again, never two of one kind at a time. @returns what stops them */
export function every(
  log: Log,
  works: [ms: number, what: string, work: () => Promise<unknown>][],
): () => Promise<void> {
  const under = new Set<Promise<unknown>>()
  const timers = works.map(([ms, what, work]) => {
    let busy = false
    return setInterval(() => {
      if (busy) return
      busy = true
      const done = work()
        .catch((error: unknown) => log.warn({ err: messageOf(error) }, `${what} did not work; it is tried again`))
        .finally(() => {
          busy = false
          under.delete(done)
        })
      under.add(done)
    }, ms)
  })
  return async () => {
    for (const timer of timers) clearInterval(timer)
    await Promise.all(under)
  }
}
