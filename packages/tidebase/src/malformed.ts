// What is not HTTP never becomes a request; it is answered in the one shape of errors all the same.
import { type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'
import type { ErrorCode } from '@tidebase/wire'
import { ApiError } from './errors.ts'

const codes: Record<string, ErrorCode> = {
  HPE_HEADER_OVERFLOW: 'headers_too_large',
  ERR_HTTP_REQUEST_TIMEOUT: 'request_timeout',
}

/** Answers malformed and unfinished requests with `bad_request`, `headers_too_large` or `request_timeout`, and closes. */
export function answerMalformed(http: Server): void {
  const latest = new WeakMap<Duplex, ServerResponse>()
  http.on('request', ({ socket }, response) => latest.set(socket, response))
  http.on('clientError', ({ code = '' }: NodeJS.ErrnoException, socket) => {
    const response = latest.get(socket)
    const midway = response?.headersSent && !response.writableFinished
    if (midway || !socket.writable || code === 'ECONNRESET') return void socket.destroy()
    const error = new ApiError(codes[code] ?? 'bad_request')
    const body = JSON.stringify(error.body())
    socket.end(
      `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status]}\r\ncontent-type: application/json\r\n` +
        `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
    )
  })
}
