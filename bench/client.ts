// A load generator that costs little beside what it measures, because both share the machine: one socket per call under
// way, a request in one write, a reply read by its Content-Length. It speaks just enough HTTP/1.1 for our own server.
import { connect as open, type Socket } from 'node:net'

/** Calls a server: POSTs JSON and gives the reply's JSON. Anything but 200 is an error. */
export interface Client {
  post<Reply>(path: string, body: unknown, headers?: Record<string, string>): Promise<Reply>
  get<Reply>(path: string): Promise<Reply>
  /** Like `get`, but leaves the reply as it came. */
  getText(path: string): Promise<string>
  /** Ends the connections, none of which may be in use. */
  close(): void
}

/** @param url of the server, `http://host:port`. As many connections are made as calls are under way at once. */
export function connect(url: string): Client {
  const { hostname, port, host } = new URL(url)
  const idle: Connection[] = []
  const all = new Set<Connection>()
  const call = async (method: 'GET' | 'POST', path: string, body?: unknown, headers: Record<string, string> = {}) => {
    let connection = idle.pop()
    if (!connection) {
      connection = new Connection(open(Number(port), hostname))
      all.add(connection)
    }
    const content = body === undefined ? '' : JSON.stringify(body)
    let head = `${method} ${path} HTTP/1.1\r\nhost: ${host}\r\ncontent-length: ${Buffer.byteLength(content)}\r\n`
    if (content) head += 'content-type: application/json\r\n'
    for (const name in headers) head += `${name}: ${headers[name]}\r\n`
    const { status, text } = await connection.send(`${head}\r\n${content}`)
    idle.push(connection)
    if (status !== 200) throw new Error(`${method} ${path}: ${status} ${text}`)
    return text
  }
  return {
    post: async (path, body, headers) => JSON.parse(await call('POST', path, body, headers)),
    get: async (path) => JSON.parse(await call('GET', path)),
    getText: (path) => call('GET', path),
    close: () => {
      for (const connection of all) connection.end()
    },
  }
}

interface Answer {
  status: number
  text: string
}

/** One socket that carries one call at a time. */
class Connection {
  readonly #socket: Socket
  #received = ''
  #length: { head: number; end: number } | undefined
  #waiting: { resolve(answer: Answer): void; reject(error: Error): void } | undefined

  constructor(socket: Socket) {
    this.#socket = socket.setNoDelay()
    // One character a byte, so that Content-Length can be compared with the string's length.
    socket.setEncoding('latin1')
    socket.on('data', (chunk: string) => this.#read(chunk))
    socket.on('error', (error) => this.#waiting?.reject(error))
    socket.on('close', () => this.#waiting?.reject(new Error('the server closed the connection')))
  }

  send(request: string): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject }
      this.#socket.write(request)
    })
  }

  end(): void {
    this.#waiting = undefined
    this.#socket.destroy()
  }

  #read(chunk: string): void {
    this.#received += chunk
    // Looked for once: a long answer comes in many chunks.
    this.#length ??= this.#lengthOfAnswer()
    const { head, end } = this.#length ?? { head: 0, end: Number.POSITIVE_INFINITY }
    if (this.#received.length < end) return
    const waiting = this.#waiting
    const answer = {
      status: Number(this.#received.slice(9, 12)),
      text: Buffer.from(this.#received.slice(head, end), 'latin1').toString(),
    }
    this.#received = this.#received.slice(end)
    this.#length = undefined
    this.#waiting = undefined
    waiting?.resolve(answer)
  }

  /** Where the body begins and ends; undefined while the head has not come. */
  #lengthOfAnswer(): { head: number; end: number } | undefined {
    const head = this.#received.indexOf('\r\n\r\n')
    if (head < 0) return undefined
    const length = /\r\ncontent-length: (\d+)/i.exec(this.#received.slice(0, head))?.[1]
    if (length === undefined) throw new Error(`no Content-Length in ${this.#received.slice(0, head)}`)
    return { head: head + 4, end: head + 4 + Number(length) }
  }
}

/** Runs `task` `total` times, `concurrent` at once. @returns seconds it took */
export async function repeat(
  total: number,
  concurrent: number,
  task: (n: number) => Promise<unknown>,
): Promise<number> {
  let next = 0
  const began = performance.now()
  await Promise.all(
    Array.from({ length: Math.min(concurrent, total) }, async () => {
      while (next < total) await task(next++)
    }),
  )
  return (performance.now() - began) / 1000
}

/** The value below which a share of the values lies. Sorts in place. */
export function percentile(values: number[], share: number): number {
  values.sort((a, b) => a - b)
  return values[Math.min(values.length - 1, Math.floor(values.length * share))] ?? Number.NaN
}

/** Two digits after the point. */
export const round = (value: number) => Math.round(value * 100) / 100
