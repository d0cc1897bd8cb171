// The way out for pods: CONNECT with the check of addresses that `tp.http` makes on a laptop (`connectPublic`).
import type { IncomingMessage } from 'node:http'
import { connect, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { connectPublic, TpError } from 'tidepool/kit'
import { messageOf } from './errors.ts'

const connectMs = 10_000
/** Connections that one pod may have open to the outside. */
const maxTunnels = 256

function dial(address: string, port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: address, port, timeout: connectMs })
    socket.once('connect', () => {
      socket.setTimeout(0)
      resolve(socket)
    })
    socket.once('timeout', () => socket.destroy(new Error('no answer in 10 s')))
    socket.once('error', reject)
  })
}

async function reach(host: string, port: number, allow: readonly string[]): Promise<Socket> {
  if (allow.includes(`${host}:${port}`)) return dial(host, port)
  return connectPublic(host, (address) => dial(address, port))
}

/**
 * Makes the handler of CONNECT.
 * @param allow `host:port` exceptions, of the operator
 * @param installing further ones while packages are installed: the registry, which may be within the network
 */
export function createEgress(allow: readonly string[], installing: () => Promise<readonly string[]>) {
  const open = new Map<string, Set<Duplex>>()

  function refuse(client: Duplex, status: string, code: string, message: string): void {
    const text = message.replace(/[^\x20-\x7e]/g, '?')
    client.end(
      `HTTP/1.1 ${status}\r\nx-tidepool-code: ${code}\r\nx-tidepool-error: ${text}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n`,
    )
  }

  return {
    /** Answers a CONNECT of a pod. */
    async connect(
      { pod, deployment }: { pod: string; deployment: string },
      request: IncomingMessage,
      client: Duplex,
      head: Buffer,
    ): Promise<void> {
      client.on('error', () => client.destroy())
      const found = /^(\[[0-9a-f:.%]+\]|[^:/?#@\s]+):(\d{1,5})$/i.exec(request.url ?? '')
      const port = Number(found?.[2])
      if (!found?.[1] || port < 1 || port > 65_535)
        return refuse(client, '400 Bad Request', 'http_failed', 'CONNECT takes host:port')
      const mine = open.get(pod) ?? new Set()
      open.set(pod, mine)
      if (mine.size >= maxTunnels)
        return refuse(client, '429 Too Many Requests', 'http_limit', `More than ${maxTunnels} open connections`)
      mine.add(client)
      client.once('close', () => {
        mine.delete(client)
        if (mine.size === 0) open.delete(pod)
      })
      try {
        const more = deployment.startsWith('install-') ? await installing() : []
        const far = await reach(found[1].replace(/^\[|\]$/g, ''), port, [...allow, ...more])
        if (client.destroyed) return void far.destroy()
        far.on('error', () => client.destroy())
        far.once('close', () => client.destroy())
        client.once('close', () => far.destroy())
        client.write('HTTP/1.1 200 Connection established\r\n\r\n')
        if (head.length > 0) far.write(head)
        client.pipe(far).pipe(client)
      } catch (error) {
        if (error instanceof TpError) refuse(client, '403 Forbidden', 'blocked_address', error.message)
        else refuse(client, '502 Bad Gateway', 'http_failed', `${found[1]} did not answer: ${messageOf(error)}`)
      }
    },
    close(): void {
      for (const mine of open.values()) for (const client of mine) client.destroy()
    },
  }
}

export type Egress = ReturnType<typeof createEgress>
