/**
 * Connections that ask to change their protocol: passed through both ways when the pod agrees (101), and a plain request
 * when it does not. Without the pod's agreement nothing that the client sends later reaches it: it would be requests of
 * the client's own making, with whatever headers it likes.
 */
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { AnswerReader } from './answer.ts'

const maxHead = 64 * 1024

/**
 * Joins a client with a pod.
 * @param head request line and headers, each with its line end, without those that tell of body and connection
 * @param first bytes that came with the request
 */
export function tunnel(req: IncomingMessage, client: Duplex, far: Socket, head: string, first: Buffer): void {
  const { 'content-length': length, 'transfer-encoding': coding, upgrade = '' } = req.headers
  const isWebSocket = upgrade.toLowerCase() === 'websocket' && length === undefined && coding === undefined
  far.on('error', () => client.destroy())
  far.once('close', () => client.destroy())
  client.once('close', () => far.destroy())

  if (!isWebSocket) {
    // An offer that a server may ignore, and ours does (`h2c`): the request as it is, and nothing after it.
    const framing = `${length === undefined ? '' : `content-length: ${length}\r\n`}${coding === undefined ? '' : `transfer-encoding: ${coding}\r\n`}`
    far.write(`${head}${framing}connection: close\r\n\r\n`, 'latin1')
    if (first.length > 0) far.write(first)
    client.pipe(far).pipe(client)
    return
  }

  far.write(`${head}connection: Upgrade\r\nupgrade: ${upgrade}\r\n\r\n`, 'latin1')
  let seen = Buffer.alloc(0)
  far.on('data', function look(chunk: Buffer) {
    seen = Buffer.concat([seen, chunk])
    if (seen.indexOf('\r\n\r\n') < 0) {
      if (seen.length > maxHead) far.destroy()
      return
    }
    far.off('data', look)
    far.pause()
    if (/^HTTP\/1\.1 101[ \r]/.test(seen.toString('latin1', 0, 14))) {
      client.write(seen)
      if (first.length > 0) far.write(first)
      far.pipe(client).pipe(far)
      // Either side's end is the end: such protocols say farewell by themselves before it.
      client.once('end', () => far.end(() => far.destroy()))
    } else relayAnswer(seen, far, client, req.method ?? 'GET')
  })
}

/** Gives an ordinary answer to the client and closes. */
function relayAnswer(seen: Buffer, far: Socket, client: Duplex, method: string): void {
  const end = () => client.end(() => far.destroy())
  const reader = new AnswerReader(method, { head() {}, data() {}, end })
  const pass = (chunk: Buffer) => {
    client.write(chunk)
    try {
      reader.read(chunk)
    } catch {
      far.destroy()
    }
  }
  pass(seen)
  far.on('data', pass)
  far.once('end', end)
  far.resume()
}
