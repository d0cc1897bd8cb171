// A load generator for pages: one request again and again on some connections, over TCP or a unix socket, each answer
// read by its Content-Length. It costs little beside what it measures, because both share the machine.
import { connect, type NetConnectOpts } from 'node:net'
import { percentile, round } from './client.ts'

export interface LoadResult {
  perSecond: number
  p50ms: number
  p99ms: number
}

export interface LoadOptions {
  seconds: number
  connections?: number
}

/** Sends `request` for some seconds. Any answer but a whole 200 is an error. */
export function load(
  target: NetConnectOpts,
  request: string,
  { seconds, connections = 32 }: LoadOptions,
): Promise<LoadResult> {
  return new Promise((resolve, reject) => {
    const times: number[] = []
    const fail = (error: Error) => {
      clearTimeout(timer)
      for (const socket of sockets) socket.destroy()
      reject(error)
    }
    const sockets = Array.from({ length: connections }, () => {
      // One character a byte, so that Content-Length can be compared with the string's length.
      const socket = connect(target).setNoDelay().setEncoding('latin1')
      let received = ''
      let sentAt = 0
      const send = () => {
        received = ''
        sentAt = performance.now()
        socket.write(request)
      }
      socket.on('data', (chunk: string) => {
        received += chunk
        const head = received.indexOf('\r\n\r\n')
        if (head < 0) return
        const length = Number(/content-length: (\d+)/i.exec(received.slice(0, head))?.[1] ?? Number.NaN)
        if (!received.startsWith('HTTP/1.1 200') || Number.isNaN(length))
          return fail(new Error(`unexpected answer: ${received.slice(0, 300)}`))
        if (received.length < head + 4 + length) return
        times.push(performance.now() - sentAt)
        send()
      })
      socket.on('error', fail)
      socket.on('end', () => fail(new Error('the server closed a connection')))
      send()
      return socket
    })
    const began = performance.now()
    const timer = setTimeout(() => {
      const perSecond = Math.round(times.length / ((performance.now() - began) / 1000))
      for (const socket of sockets) socket.destroy()
      resolve({ perSecond, p50ms: round(percentile(times, 0.5)), p99ms: round(percentile(times, 0.99)) })
    }, seconds * 1000)
  })
}
