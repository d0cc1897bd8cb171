// A proxy between two programs that breaks connections the way networks do.
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type NetConnectOpts, type Socket } from 'node:net'

/** What a test may do to the connections. */
export interface Proxy {
  port: number
  /**
   * Lets requests pass and breaks each connection when its next answer comes: what was asked for has happened, and the
   * one who asked does not learn of it. Returns the number of answers that were cut off.
   */
  cutAnswers(ms: number): Promise<number>
  /** Keeps connections open and lets nothing pass, as when a cable is pulled; then breaks them. */
  silence(ms: number): Promise<void>
  close(): void
}

/** @param path of a unix socket to listen on; a free TCP port unless given */
export async function startProxy(upstream: NetConnectOpts, path?: string): Promise<Proxy> {
  const pairs = new Set<{ near: Socket; far: Socket }>()
  let mode: 'pass' | 'cut' | 'silent' = 'pass'
  let cut = 0
  const server = createServer((near) => {
    const far = connect(upstream)
    const pair = { near, far }
    pairs.add(pair)
    const end = () => {
      pairs.delete(pair)
      near.destroy()
      far.destroy()
    }
    for (const socket of [near, far]) socket.on('error', end).on('close', end)
    near.on('data', (data) => {
      if (mode !== 'silent') far.write(data)
    })
    far.on('data', (data) => {
      if (mode === 'pass') near.write(data)
      else if (mode === 'cut') {
        cut++
        end()
      }
    })
  })
  if (path === undefined) server.listen(0, '127.0.0.1')
  else server.listen(path)
  await once(server, 'listening')
  const address = server.address()
  const during = async (next: typeof mode, ms: number) => {
    mode = next
    await new Promise((resolve) => setTimeout(resolve, ms))
    mode = 'pass'
  }
  const breakAll = () => {
    for (const { near, far } of pairs) {
      near.destroy()
      far.destroy()
    }
  }
  return {
    port: typeof address === 'string' ? 0 : (address as AddressInfo).port,
    async cutAnswers(ms) {
      cut = 0
      await during('cut', ms)
      return cut
    },
    async silence(ms) {
      await during('silent', ms)
      breakAll()
    },
    close() {
      breakAll()
      server.close()
    },
  }
}
