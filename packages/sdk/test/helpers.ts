// A client that can be watched and disturbed: its fetch counts what goes out and may lose answers on their way back.
import { createDatabase, startServer } from '../../../test/server.ts'
import { Tidebase, type TidebaseOptions } from '../src/index.ts'

/** What may happen to a request on its way. */
export type Fault = 'lost before' | 'lost after' | undefined

/** A client, the requests it made (`POST /runs/:id/begin`, ids left out), and a switch for faults. */
export interface Watched {
  tide: Tidebase
  requests: string[]
  /** Decides about each request; set it to disturb. */
  fault: (request: string, init: RequestInit) => Fault
}

/**
 * A client of a test's server.
 *
 * @param server where it is
 * @param options as for the client
 */
export function watched(server: { url: string }, options: TidebaseOptions = {}): Watched {
  const requests: string[] = []
  const watch: Watched = {
    tide: new Tidebase({
      url: server.url,
      ...options,
      fetch: async (url, init) => {
        const path = new URL(url).pathname.replace(/\/(run|step|gate)_[0-9a-f]{32}/g, '/:id')
        const request = `${init.method} ${path}`
        requests.push(request)
        const fault = watch.fault(request, init)
        if (fault === 'lost before') throw lost()
        const response = await fetch(url, init)
        if (fault === 'lost after') {
          await response.arrayBuffer()
          throw lost()
        }
        return response
      },
    }),
    requests,
    fault: () => undefined,
  }
  return watch
}

/** What `fetch` throws when a connection breaks. */
function lost(): Error {
  return new TypeError('fetch failed', { cause: Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' }) })
}

/** The body of a request. */
export function bodyOf(init: RequestInit): Record<string, unknown> {
  return typeof init.body === 'string' ? JSON.parse(init.body) : {}
}

/** A promise and the function that resolves it. */
export function signalled(): { promise: Promise<void>; done: () => void } {
  let done = () => {}
  const promise = new Promise<void>((resolve) => {
    done = resolve
  })
  return { promise, done }
}

/** A server that can be stopped and started again, at one address and on one database. */
export async function restartable(options: Parameters<typeof startServer>[0] = {}) {
  const database = await createDatabase()
  let server = await startServer({ ...options, databaseUrl: database.url })
  const port = Number(new URL(server.url).port)
  return {
    url: server.url,
    stop: () => server.stop(500),
    async start() {
      server = await startServer({ ...options, databaseUrl: database.url, port })
    },
    async end() {
      await server.stop(500)
      await database.drop()
    },
  }
}
