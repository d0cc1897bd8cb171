/**
 * What pods reach of the platform: one HTTP server on a unix socket that is bound into every sandbox. A request bears
 * the pod's token, which opens that pod's data only; whose data it is never comes from the request itself.
 *
 *   /data/…        records, files, mail, reports of the process (backend-platform.ts in the runtime is the other end)
 *   /tidebase/…    the run server, in the pod's own project
 *   CONNECT        the internet, see egress.ts
 *
 * To add a call: a line in `calls` or `handle`, and its use in backend-platform.ts; both pass the conformance suite.
 */

import { chmod } from 'node:fs/promises'
import { Agent, createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { type FileInfo, type Mail, type Space, TpError } from 'tidepool/kit'
import { z } from 'zod'
import type { Egress } from './egress.ts'
import { errorBody, PlatformError } from './errors.ts'
import type { Mailer } from './mail.ts'
import type { Master } from './master.ts'
import type { PodFiles } from './pod-files.ts'
import { checkSpace, type ScanOptions, type Store } from './store.ts'

export interface DataApiParts {
  store: Store
  files: PodFiles
  mailer: Mailer
  master: Master
  egress: Egress
  /** Whether the pod is there, its deployment too, and its secrets. @throws PlatformError `unauthorized` */
  welcome(pod: string, deployment: string): Promise<{ secrets: Record<string, string> }>
  /** Whether the pod may still use its data. Asked often: should answer from memory. */
  admit(pod: string): Promise<boolean>
  /** A process of the pod tells how it is. */
  report(pod: string, message: Record<string, unknown>): void
  /** Where the run server is, and the pod's key to it. */
  tidebase(pod: string): Promise<{ url: string; key: string }>
  /** Told of failures that are the platform's own. */
  onError(error: unknown): void
}

const maxBody = 96 * 1024 * 1024

// In full, because the mailer would take objects in these places for files and addresses to attach.
const MailShape: z.ZodType<Mail> = z.strictObject({
  to: z.string(),
  subject: z.string(),
  text: z.string(),
  html: z.string().optional(),
  attachments: z
    .array(z.strictObject({ filename: z.string(), content: z.string(), contentType: z.string() }))
    .optional(),
})

interface Caller {
  pod: string
  deployment: string
  retry: boolean
}

type Call = (caller: Caller, body: Record<string, unknown>) => Promise<object>

const text = (value: unknown) => (typeof value === 'string' ? value : undefined)
/** How many to list. */
const count = (value: unknown) =>
  typeof value === 'number' && Number.isFinite(value) ? Math.min(Math.max(0, Math.trunc(value)), 1_000_000) : undefined
/** The id of a write that may be repeated. Checked by itself: writes of one moment share a transaction. */
const writeId = (value: unknown) => {
  if (value === undefined || (typeof value === 'string' && /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(value)))
    return value
  throw new PlatformError('invalid', 'The id of a write must be a UUID.')
}
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

function scanOptions({ prefix, after, reverse, limit }: Record<string, unknown>): ScanOptions {
  return { prefix: text(prefix), after: text(after), reverse: reverse === true, limit: count(limit) }
}

/** Records travel as text: `json` is put into the answer as it is stored. */
function entry(found: { key: string; json: string; version: number; expiresIn?: number } | null): string {
  if (!found) return 'null'
  const { key, json, version, expiresIn } = found
  const expiry = expiresIn === undefined ? '' : `,"expiresIn":${expiresIn}`
  return `{"key":${JSON.stringify(key)},"value":${json},"version":${version}${expiry}}`
}

class Raw {
  readonly json: string

  constructor(json: string) {
    this.json = json
  }
}

/** Starts the server on the socket `path`. */
export async function startDataApi(path: string, parts: DataApiParts) {
  const { store, files, mailer, master, egress } = parts

  const calls: Record<string, Call> = {
    '/data/welcome': ({ pod, deployment }) => parts.welcome(pod, deployment),
    '/data/read': async ({ pod }, { reads }) => {
      const asked = (Array.isArray(reads) ? reads : []).map((each: unknown): readonly [Space, string] => {
        if (!Array.isArray(each) || typeof each[1] !== 'string')
          throw new PlatformError('invalid', 'reads: [[space, key], …]')
        return [checkSpace(each[0]), each[1]]
      })
      return new Raw(`{"found":[${(await store.read(pod, asked)).map(entry).join(',')}]}`)
    },
    '/data/scan': async ({ pod }, body) => {
      const found = await store.scan(pod, checkSpace(body.space), scanOptions(body))
      return new Raw(`{"entries":[${found.map(entry).join(',')}]}`)
    },
    '/data/keys': async ({ pod }, body) => ({
      keys: await store.keys(pod, checkSpace(body.space), scanOptions(body)),
    }),
    '/data/count': async ({ pod }, { space, prefix }) => ({
      count: await store.count(pod, checkSpace(space), text(prefix)),
    }),
    '/data/write': ({ pod, retry }, { id, ops }) => {
      if (!Array.isArray(ops) || ops.length > 10_000)
        throw new PlatformError('invalid', 'ops must be a list of at most 10,000')
      return store.write(pod, ops, writeId(id), retry)
    },
    '/data/file': async ({ pod }, { name }) => ({ file: (await files.stat(pod, text(name) ?? '')) ?? null }),
    '/data/files': async ({ pod }, body) => ({ files: await files.list(pod, scanOptions(body)) }),
    '/data/mail': async ({ pod, retry }, { id, mail }) => {
      const { success, data } = MailShape.safeParse(mail)
      if (!success) throw new PlatformError('invalid', 'A mail is {to, subject, text, html?, attachments?}.')
      return { mail: await mailer.send(pod, data, writeId(id), retry) }
    },
    '/data/mails': async ({ pod }, { id, limit, before }) =>
      id === undefined
        ? {
            mails: (await mailer.list(pod, { limit: count(limit), before: text(before) })).map(
              ({ pod: _, ...mail }) => mail,
            ),
          }
        : { mail: (await mailer.find(pod, text(id) ?? '')) ?? null },
    '/data/report': async ({ pod }, body) => {
      parts.report(pod, body)
      return {}
    },
  }

  async function admitted(header: string | undefined): Promise<{ pod: string; deployment: string }> {
    const token = /^Bearer (.+)$/.exec(header ?? '')?.[1]
    const caller = token ? master.readPodToken(token) : undefined
    if (!caller || !(await parts.admit(caller.pod)))
      throw new PlatformError('unauthorized', 'This token opens no pod.', {
        hint: 'The pod was deleted or its token is damaged.',
      })
    return caller
  }

  async function readJson(req: IncomingMessage): Promise<Record<string, unknown>> {
    if (Number(req.headers['content-length'] ?? 0) > maxBody) throw new PlatformError('too_large')
    const chunks: Buffer[] = []
    let size = 0
    for await (const chunk of req) {
      size += chunk.length
      if (size > maxBody) throw new PlatformError('too_large')
      chunks.push(chunk)
    }
    if (size === 0) return {}
    let body: unknown
    try {
      body = JSON.parse(Buffer.concat(chunks).toString('utf8'))
    } catch (cause) {
      throw new PlatformError('bad_json', undefined, { cause })
    }
    if (!isObject(body)) throw new PlatformError('bad_json', 'The body must be an object.')
    return body
  }

  function send(res: ServerResponse, status: number, body: object): void {
    const json = body instanceof Raw ? body.json : JSON.stringify(body)
    res.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(json) })
    res.end(json)
  }

  async function file(caller: Caller, name: string, req: IncomingMessage, res: ServerResponse): Promise<void> {
    const { pod } = caller
    if (req.method === 'PUT') {
      const most = Number(req.headers['x-tidepool-max-bytes'])
      send(res, 200, { file: await files.write(pod, name, req, Number.isFinite(most) && most > 0 ? most : undefined) })
      return
    }
    if (req.method === 'DELETE') return send(res, 200, { existed: await files.delete(pod, name) })
    const range = /^bytes=(\d+)-(\d+)$/.exec(req.headers.range ?? '')
    const found = await files.read(pod, name, range ? { start: Number(range[1]), end: Number(range[2]) } : undefined)
    if (!found) throw new PlatformError('not_found', 'There is no such file.')
    const info: FileInfo = found.info
    res.writeHead(range ? 206 : 200, {
      'content-type': 'application/octet-stream',
      'x-tidepool-file': encodeURIComponent(JSON.stringify(info)),
    })
    await pipeline(found.body, res)
  }

  const agent = new Agent({ keepAlive: true })
  async function toTidebase({ pod }: Caller, req: IncomingMessage, res: ServerResponse): Promise<void> {
    const { url, key } = await parts.tidebase(pod)
    const { host: _, connection: __, authorization: ___, ...headers } = req.headers
    const target = new URL(url.replace(/\/+$/, '') + (req.url ?? '').slice('/tidebase'.length))
    await new Promise<void>((resolve, reject) => {
      const sent = httpRequest(
        target,
        { agent, method: req.method, headers: { ...headers, host: target.host, authorization: `Bearer ${key}` } },
        (answer) => {
          const { connection: _, 'keep-alive': __, ...passed } = answer.headers
          res.writeHead(answer.statusCode ?? 502, passed)
          pipeline(answer, res).then(resolve, reject)
        },
      )
      sent.on('error', (cause) =>
        reject(new PlatformError('unavailable', 'The run server does not answer.', { cause })),
      )
      res.once('close', () => sent.destroy())
      req.pipe(sent)
    })
  }

  async function handle(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const path = (req.url ?? '').split('?')[0] ?? ''
    const caller = { ...(await admitted(req.headers.authorization)), retry: req.headers['x-tidepool-retry'] === '1' }
    if (path.startsWith('/tidebase/')) return toTidebase(caller, req, res)
    const call = Object.hasOwn(calls, path) ? calls[path] : undefined
    if (call) return send(res, 200, await call(caller, await readJson(req)))
    if (path.startsWith('/data/files/')) {
      let name: string
      try {
        name = decodeURIComponent(path.slice('/data/files/'.length))
      } catch (cause) {
        throw new PlatformError('invalid', 'The name is not percent-encoded UTF-8.', { cause })
      }
      return file(caller, name, req, res)
    }
    throw new PlatformError('no_route')
  }

  const server = createServer({ requestTimeout: 0, keepAliveTimeout: 65_000 }, (req, res) => {
    handle(req, res).catch((error: unknown) => {
      // A pod that went away in the middle of its request is no failure.
      if (res.closed || (req.destroyed && !req.complete)) return void res.destroy()
      const { status, body } = errorBody(error)
      // What the runtime's rules refuse is the pod's affair.
      if (status >= 500 && !(error instanceof TpError)) parts.onError(error)
      if (res.headersSent) return void res.destroy()
      // What is still coming of the body is read to its end, or the pod would not read the answer.
      if (!req.complete) {
        res.setHeader('connection', 'close')
        req.resume()
      }
      send(res, status, body)
    })
  })
  server.on('connect', (req: IncomingMessage, socket: Duplex, head: Buffer) => {
    admitted(req.headers['proxy-authorization']).then(
      (caller) => egress.connect(caller, req, socket, head),
      () => socket.end('HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n'),
    )
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(path, resolve)
  })
  // Pods run as another user; the token is what admits them.
  await chmod(path, 0o666)

  return {
    async close(): Promise<void> {
      egress.close()
      const closed = new Promise((resolve) => server.close(resolve))
      server.closeAllConnections()
      agent.destroy()
      await closed
    },
  }
}
