/**
 * The HTTP edge of the control plane: find the page or the endpoint, authenticate, call, map errors. Whose things a call
 * may touch is decided in call.ts.
 */
import { randomBytes } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { identify } from './agents.ts'
import { invoke } from './call.ts'
import { apiDocument, llmsText, openApi } from './docs.ts'
import type { Endpoint } from './endpoint.ts'
import { endpoints } from './endpoints.ts'
import { errorBody, PlatformError } from './errors.ts'
import type { Platform } from './platform.ts'
import { errorPage } from './web/errors.ts'
import { createSite } from './web/site.ts'

const maxBody = 128 * 1024 * 1024

interface Found {
  endpoint: Endpoint
  params: Record<string, string>
}

/** Endpoints by the number of their segments; a literal beats a parameter. */
function createFinder() {
  const all = Object.values(endpoints).map((endpoint) => ({ endpoint, segments: endpoint.path.slice(1).split('/') }))
  all.sort((a, b) => (rank(a.segments) < rank(b.segments) ? -1 : 1))
  function rank(segments: string[]): string {
    return segments.map((each) => (each === '*' ? '2' : each.startsWith(':') ? '1' : '0')).join('')
  }
  return (method: string, path: string): Found | { allow: string[] } | undefined => {
    const given = path.slice(1).split('/')
    const allow = new Set<string>()
    for (const { endpoint, segments } of all) {
      const open = segments.at(-1) === '*'
      if (open ? given.length < segments.length : given.length !== segments.length) continue
      const fits = segments.every(
        (each, at) => each === '*' || (each.startsWith(':') ? given[at] !== '' : each === given[at]),
      )
      if (!fits) continue
      if (endpoint.method !== method) {
        allow.add(endpoint.method)
        continue
      }
      const params: Record<string, string> = {}
      for (const [at, each] of segments.entries()) {
        const text = each === '*' ? given.slice(at).join('/') : given[at]
        if (each === '*' || each.startsWith(':')) params[each.replace(':', '')] = decode(text ?? '')
      }
      return { endpoint, params }
    }
    return allow.size > 0 ? { allow: [...allow] } : undefined
  }
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch (cause) {
    throw new PlatformError('invalid', 'The path is not percent-encoded UTF-8.', { cause })
  }
}

async function readJson(req: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of req) {
    size += chunk.length
    if (size > maxBody) throw new PlatformError('too_large', `A body has at most ${maxBody} bytes.`)
    chunks.push(chunk)
  }
  if (size === 0) return {}
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(chunks)))
  } catch (cause) {
    throw new PlatformError('bad_json', undefined, { cause })
  }
}

/** Makes the listener of the control plane. */
export function createApi(platform: Platform) {
  const find = createFinder()
  const { publicUrl } = platform.settings
  const site = createSite(platform)
  const documents: Record<string, () => { type: string; text: string }> = {
    '/api': () => ({ type: 'application/json', text: JSON.stringify(apiDocument(publicUrl)) }),
    '/openapi.json': () => ({ type: 'application/json', text: JSON.stringify(openApi()) }),
    '/llms.txt': () => ({ type: 'text/plain; charset=utf-8', text: llmsText(publicUrl) }),
    '/health': () => ({ type: 'application/json', text: '{"ok":true}' }),
  }

  function json(res: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void {
    const text = JSON.stringify(body)
    res.writeHead(status, {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(text),
      'cache-control': 'no-store',
      'x-content-type-options': 'nosniff',
      ...headers,
    })
    res.end(text)
  }

  async function answer(req: IncomingMessage, res: ServerResponse, signal: AbortSignal): Promise<void> {
    const url = req.url ?? '/'
    const mark = url.indexOf('?')
    const path = mark < 0 ? url : url.slice(0, mark)
    const document = req.method === 'GET' && Object.hasOwn(documents, path) ? documents[path]?.() : undefined
    if (document) {
      res.writeHead(200, { 'content-type': document.type, 'content-length': Buffer.byteLength(document.text) })
      res.end(document.text)
      return
    }
    if (await site(req, res, path, signal)) return
    const found = find(req.method ?? 'GET', path)
    if (!found) throw new PlatformError('no_route', `There is no endpoint ${req.method} ${path.slice(0, 200)}.`)
    if ('allow' in found) {
      res.setHeader('allow', found.allow.join(', '))
      throw new PlatformError('method_not_allowed', `This path takes ${found.allow.join(', ')}.`)
    }
    const { endpoint, params } = found
    const bearer = /^bearer +(\S+) *$/i.exec(req.headers.authorization ?? '')?.[1]
    const caller = await identify(platform.db, bearer, platform.settings.operatorHash)
    const query = Object.fromEntries(new URLSearchParams(mark < 0 ? '' : url.slice(mark + 1)))
    const reply = await invoke(platform, caller, endpoint, {
      params,
      query,
      body: () => readJson(req),
      req,
      res,
      signal,
    })
    if (reply !== undefined && !res.headersSent) json(res, 200, reply)
  }

  return (req: IncomingMessage, res: ServerResponse, stopping: AbortSignal): void => {
    const gone = new AbortController()
    res.once('close', () => gone.abort())
    const signal = AbortSignal.any([gone.signal, stopping])
    answer(req, res, signal).catch((error: unknown) => {
      if (res.closed || (req.destroyed && !req.complete)) return void res.destroy()
      const { status, body } = errorBody(error)
      if (status >= 500) {
        const id = randomBytes(4).toString('hex')
        platform.log.error({ err: error, id }, `${req.method} ${req.url?.split('?')[0]} failed`)
        body.id = id
      }
      if (res.headersSent) return void res.destroy()
      if (!req.complete) {
        res.setHeader('connection', 'close')
        req.resume()
      }
      if (typeof body.retryAfter === 'number') res.setHeader('retry-after', String(body.retryAfter))
      // A person at a wrong address, or a page that came to nothing.
      const forPeople = req.headers.accept?.includes('text/html') && !req.url?.startsWith('/api/')
      if (forPeople) return errorPage(res, status, body)
      json(res, status, body)
    })
  }
}
