/**
 * The pages of the control plane: finds the page, who is signed in, whether a form came from a page of ours, and shows
 * errors. To add a page: a value in its noun's file, its line in `all`, a test through HTTP.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { nobody } from '../agents.ts'
import { errorBody, PlatformError } from '../errors.ts'
import type { Platform } from '../platform.ts'
import { identifySession } from '../sessions.ts'
import { sendAsset } from '../static.ts'
import { adminPages } from './admin.ts'
import { apiDocsPages } from './api-docs.ts'
import { errorPage } from './errors.ts'
import { landingPages } from './landing.ts'
import { fromHere, readCookie } from './origin.ts'
import { guarded, page, sendPage } from './page.ts'
import { podPages } from './pod.ts'
import { podListPages } from './pods.ts'
import { quickstartPages } from './quickstart.ts'
import { signInPages } from './sign-in.ts'
import type { Page } from './visit.ts'

const all: readonly Page[] = [
  ...landingPages,
  ...quickstartPages,
  ...apiDocsPages,
  ...signInPages,
  ...podListPages,
  ...podPages,
  ...adminPages,
]
const maxForm = 10_000

function find(method: string, path: string): { found: Page; params: Record<string, string> } | undefined {
  const given = path.slice(1).split('/')
  for (const each of all) {
    const segments = each.path.slice(1).split('/')
    if (each.method !== method || segments.length !== given.length) continue
    if (!segments.every((segment, at) => (segment.startsWith(':') ? given[at] !== '' : segment === given[at]))) continue
    const params: Record<string, string> = {}
    for (const [at, segment] of segments.entries())
      if (segment.startsWith(':')) params[segment.slice(1)] = given[at] ?? ''
    return { found: each, params }
  }
  return undefined
}

async function readForm(req: IncomingMessage): Promise<URLSearchParams> {
  let text = ''
  for await (const chunk of req) {
    text += chunk
    if (text.length > maxForm) throw new PlatformError('too_large', 'This form is too long.')
  }
  return new URLSearchParams(text)
}

/** Makes what answers requests for pages. It tells whether there was one of that path. */
export function createSite(platform: Platform) {
  const { publicUrl } = platform.settings
  const secure = publicUrl.startsWith('https:')

  return async (req: IncomingMessage, res: ServerResponse, path: string, signal: AbortSignal): Promise<boolean> => {
    const method = req.method === 'HEAD' ? 'GET' : (req.method ?? 'GET')
    if (method === 'GET' && path.startsWith('/static/')) return sendAsset(res, path.slice('/static/'.length))
    const known = find(method, path)
    if (!known) return false
    const { found, params } = known
    let caller = nobody
    const go = (to: string, headers: Record<string, string> = {}) => {
      res.writeHead(303, { location: to, 'content-length': 0, ...guarded, ...headers })
      res.end()
    }
    try {
      if (method === 'POST' && !fromHere(req, publicUrl))
        throw new PlatformError('forbidden', 'This form was not sent by a page of the platform.', {
          hint: 'Open the page anew and send it from there.',
        })
      const cookie = readCookie(req, secure)
      caller = await identifySession(platform, cookie)
      if (found.signedIn && caller.kind === 'nobody') {
        if (method === 'POST' || !req.headers.accept?.includes('text/html')) throw new PlatformError('unauthorized')
        go(`/sign-in?next=${encodeURIComponent(path)}`)
        return true
      }
      const form = method === 'POST' ? await readForm(req) : new URLSearchParams()
      const query = new URLSearchParams(req.url?.split('?')[1] ?? '')
      await found.handler({
        platform,
        caller,
        cookie,
        params,
        query,
        form,
        req,
        res,
        signal,
        go,
        show: (title, content, { here, status = 200 } = {}) =>
          sendPage(res, status, page({ title, caller, here }, content)),
      })
    } catch (error) {
      const { status, body } = errorBody(error)
      if (status >= 500 || res.headersSent || !req.headers.accept?.includes('text/html')) throw error
      if (!req.complete) res.setHeader('connection', 'close')
      errorPage(res, status, { ...body, id: undefined }, caller)
    }
    return true
  }
}
