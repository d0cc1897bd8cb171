// Studio, the dashboard: files that `npm run build` made of packages/studio. They are public, as a login page is; what
// they show they fetch with the visitor's key. No path of the API begins with /ui.
import { readFile } from 'node:fs/promises'

const folder = new URL('../dist/studio/', import.meta.url)

const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const types: Record<string, string> = {
  css: 'text/css; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
  svg: 'image/svg+xml',
}

const shared = {
  'content-security-policy': policy,
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
}

const missing =
  '<!doctype html><html lang="en"><title>Tidebase</title><p>Studio has not been built. In a checkout, run <code>npm run build</code>.'

/**
 * Answers requests for Studio: its files under /ui/assets/, its page for / and for whatever else is under /ui.
 *
 * @param path still encoded
 * @returns null for requests that are the API's
 */
export async function studio(request: Request, path: string): Promise<Response | null> {
  if (request.method !== 'GET') return null
  const [, name, type = ''] = /^\/ui\/assets\/([\w-]+\.([a-z]+))$/.exec(path) ?? []
  if (name !== undefined) {
    const contentType = types[type]
    const bytes = contentType && (await readFile(new URL(`assets/${name}`, folder)).catch(() => null))
    if (!bytes || !contentType) return null
    // A file's name carries the hash of its contents.
    const headers = { ...shared, 'content-type': contentType, 'cache-control': 'public, max-age=31536000, immutable' }
    return new Response(new Uint8Array(bytes), { headers })
  }
  const asksForPage = request.headers.get('accept')?.includes('text/html') ?? false
  if (!asksForPage || !(path === '/' || path === '/ui' || path.startsWith('/ui/'))) return null
  const page = await readFile(new URL('index.html', folder), 'utf8').catch(() => missing)
  return new Response(page, {
    headers: { ...shared, 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-cache' },
  })
}
