// A real receiver of webhooks, on a port of its own.
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/** A webhook as it came in. */
export interface Received {
  path: string
  headers: IncomingMessage['headers']
  raw: string
  body: Record<string, unknown>
}

/**
 * Starts a receiver.
 *
 * @param answer what it does with the `nth` call of a path; a number is answered as that status, anything else is left
 *   to the function itself
 */
export async function receiver(
  answer: (call: Received, nth: number, response: ServerResponse) => number | undefined | Promise<number | undefined>,
) {
  const received: Received[] = []
  const http = createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk)
    const raw = Buffer.concat(chunks).toString()
    const call = { path: request.url ?? '', headers: request.headers, raw, body: JSON.parse(raw) }
    received.push(call)
    const nth = received.filter(({ path }) => path === call.path).length
    const status = await answer(call, nth, response)
    if (status === undefined) return
    response.writeHead(status, status === 302 ? { location: '/redirected' } : {}).end(`status ${status}`)
  }).listen(0, '127.0.0.1')
  await once(http, 'listening')
  const { port } = http.address() as AddressInfo
  return {
    received,
    at: (path: string) => received.filter((each) => each.path === path),
    port,
    url: (path: string) => `http://127.0.0.1:${port}${path}`,
    close: () => {
      http.closeAllConnections()
      http.close()
    },
  }
}
