/**
 * The way out of a sandbox: connections by CONNECT through the platform, which checks the address. `tp.http`, the
 * global `fetch` and the agents of node:http and node:https take it, so that npm packages reach the internet too.
 */
import http, { request } from 'node:http'
import https from 'node:https'
import { createRequire } from 'node:module'
import { isIP, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { connect as tlsConnect } from 'node:tls'
import type { buildConnector } from 'undici'
import { TpError } from '../errors.ts'
import type { PlatformAddress } from './socket.ts'

const require = createRequire(import.meta.url)
const connectMs = 15_000

type Connector = buildConnector.connector

/**
 * A connection to `host:port` through the platform.
 * @throws TpError `blocked_address`, `http_failed`
 */
export function tunnel({ socket, token }: PlatformAddress, host: string, port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const name = isIP(host) === 6 ? `[${host}]` : host
    const asked = request({
      socketPath: socket,
      method: 'CONNECT',
      path: `${name}:${port}`,
      headers: { host: `${name}:${port}`, 'proxy-authorization': `Bearer ${token}` },
      agent: false,
      timeout: connectMs,
    })
    asked.on('connect', (answer, connection) => {
      connection.setTimeout(0)
      if (answer.statusCode === 200) return resolve(connection)
      connection.destroy()
      const message = String(answer.headers['x-tidepool-error'] ?? `The platform answered ${answer.statusCode}`)
      const blocked = answer.headers['x-tidepool-code'] === 'blocked_address'
      reject(new TpError(blocked ? 'blocked_address' : 'http_failed', message))
    })
    asked.on('timeout', () => asked.destroy(new Error(`no connection to ${host} within ${connectMs} ms`)))
    asked.on('error', reject)
    asked.end()
  })
}

function secured(socket: Socket, options: object, servername: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const secure = tlsConnect({ ...options, socket, servername, host: servername, ALPNProtocols: ['http/1.1'] })
    secure.once('secureConnect', () => resolve(secure))
    secure.once('error', reject)
  })
}

/** A connector for undici. */
export function egressConnector(platform: PlatformAddress): Connector {
  async function open({ hostname, protocol, port, servername }: buildConnector.Options): Promise<Socket> {
    const host = hostname.replace(/^\[|\]$/g, '')
    const https = protocol === 'https:'
    const socket = await tunnel(platform, host, Number(port) || (https ? 443 : 80))
    return https ? secured(socket, {}, servername ?? (isIP(host) ? '' : host)) : socket
  }
  return (options, callback) => {
    open(options).then(
      (socket) => callback(null, socket),
      (error: unknown) => callback(error instanceof Error ? error : new Error(String(error)), null),
    )
  }
}

type Opened = (error: Error | null, socket?: Duplex) => void
interface Target {
  host?: string | null | undefined
  port?: number | string | null | undefined
  servername?: string | undefined
  path?: string | null | undefined
  socketPath?: string | undefined
}

/** Lets `fetch` and the default agents of this process connect through the platform. */
export function takeEgress(platform: PlatformAddress): void {
  const { Agent, setGlobalDispatcher }: typeof import('undici') = require('undici')
  setGlobalDispatcher(new Agent({ connect: egressConnector(platform) }))

  const plain = new http.Agent({ keepAlive: true })
  const secure = new https.Agent({ keepAlive: true })
  const direct = plain.createConnection.bind(plain)
  function through(options: Target, opened: Opened, secureWith?: object) {
    // A unix socket lies inside the sandbox.
    if (options.socketPath) return direct({ ...options, path: options.socketPath }, opened)
    const host = options.host ?? 'localhost'
    tunnel(platform, host, Number(options.port ?? (secureWith ? 443 : 80)))
      .then((socket) => (secureWith ? secured(socket, secureWith, options.servername || host) : socket))
      .then(
        (socket) => opened(null, socket),
        (error: unknown) => opened(error instanceof Error ? error : new Error(String(error))),
      )
    return undefined
  }
  Object.assign(plain, { createConnection: (options: Target, opened: Opened) => through(options, opened) })
  Object.assign(secure, { createConnection: (options: Target, opened: Opened) => through(options, opened, options) })
  Object.assign(http, { globalAgent: plain })
  Object.assign(https, { globalAgent: secure })
}
