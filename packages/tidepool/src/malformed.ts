/** What is not HTTP never becomes a request; it is answered in the one shape of errors all the same. */
import { type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'
import { errorBody, TpError } from './errors.ts'

const statuses: Record<string, [status: number, what: string]> = {
  HPE_HEADER_OVERFLOW: [431, 'The headers of the request are too large'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'The request did not come to its end in time'],
}

/** Answers malformed and unfinished requests with `bad_request` and the status that says more, and closes. */
export function answerMalformed(server: Server): void {
  const latest = new WeakMap<Duplex, ServerResponse>()
  server.on('request', ({ socket }, response) => latest.set(socket, response))
  server.on('clientError', ({ code = '' }: NodeJS.ErrnoException, socket) => {
    const response = latest.get(socket)
    const midway = response?.headersSent && !response.writableFinished
    if (midway || !socket.writable || code === 'ECONNRESET') return void socket.destroy()
    const [status, what] = statuses[code] ?? [400, 'This is not a valid HTTP request']
    const body = JSON.stringify(errorBody(new TpError('bad_request', what, { status })))
    socket.end(
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\ncontent-type: application/json\r\n` +
        `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
    )
  })
}
