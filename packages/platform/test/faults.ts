/** A proxy in front of an object storage that does harm when told to, and remembers what passed. */
import { Agent, createServer, type IncomingMessage, type ServerResponse, request as send } from 'node:http'
import type { AddressInfo } from 'node:net'

/**
 * `busy` answers 503; `cut` breaks the connection before the request arrives, `lost` after it was done; `half` breaks
 * it in the middle of the answer, `stall` stops there; `hang` never answers; `late` answers 200 with an error inside,
 * `gone` that there is no such upload.
 */
export type Fault = 'busy' | 'cut' | 'lost' | 'half' | 'stall' | 'hang' | 'late' | 'gone'

const answers: Partial<Record<Fault, [status: number, code: string]>> = {
  busy: [503, 'SlowDown'],
  late: [200, 'InternalError'],
  gone: [404, 'NoSuchUpload'],
}

/** One request that arrived at the proxy. */
export interface Seen {
  method: string
  url: string
  size: number
  fault: Fault | undefined
}

/** A running proxy. */
export interface Faults {
  endpoint: string
  seen: Seen[]
  /** Asked before each request. */
  decide: (seen: Seen) => Fault | undefined
  stop: () => Promise<void>
}

/** Starts a proxy in front of `endpoint`, which passes everything on until `decide` is replaced. */
export async function startFaults(endpoint: string): Promise<Faults> {
  const { hostname, port } = new URL(endpoint)
  const agent = new Agent({ keepAlive: false })
  const xml = { 'content-type': 'application/xml' }

  function pass(incoming: IncomingMessage, outgoing: ServerResponse, fault: Fault | undefined): void {
    // The host stays what the client signed.
    const { method, url: path, headers } = incoming
    let answered = false
    const upstream = send({ hostname, port, method, path, headers, agent, setHost: false }, (answer) => {
      answered = true
      if (fault === 'lost') return void answer.resume().once('end', () => outgoing.destroy())
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers)
      if (fault === 'half') answer.once('data', (data: Buffer) => outgoing.write(data, () => outgoing.destroy()))
      else if (fault === 'stall') answer.once('data', (data: Buffer) => outgoing.write(data))
      else answer.pipe(outgoing)
    })
    // Swift ends even answers to HEAD as if they had a body, which the parser takes for an attack.
    upstream.on('error', () => (method === 'HEAD' && answered && !fault ? outgoing.end() : outgoing.destroy()))
    outgoing.on('close', () => upstream.destroy())
    incoming.pipe(upstream)
  }

  const server = createServer((incoming, outgoing) => {
    const size = Number(incoming.headers['content-length'] ?? 0)
    const seen: Seen = { method: incoming.method ?? '', url: incoming.url ?? '', size, fault: undefined }
    seen.fault = faults.decide(seen)
    faults.seen.push(seen)
    if (seen.fault === 'cut') incoming.socket.destroy()
    else if (seen.fault === 'hang') incoming.resume()
    else if (seen.fault && answers[seen.fault]) {
      const [status, code] = answers[seen.fault] ?? [500, '']
      incoming.resume().once('end', () => outgoing.writeHead(status, xml).end(`<Error><Code>${code}</Code></Error>`))
    } else pass(incoming, outgoing, seen.fault)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const faults: Faults = {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen: [],
    decide: () => undefined,
    stop: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
  return faults
}
