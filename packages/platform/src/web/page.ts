// Pages of the platform: no script at all, everything escaped. A node is a text, or [tag, attributes?, ...children].
import type { ServerResponse } from 'node:http'

export type Node = string | Element
interface Element extends Array<string | Element | Attributes> {}
type Attributes = { [name: string]: string }

const voids = new Set(['input', 'br', 'img', 'meta', 'link'])
const escapeHtml = (text: string) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)

/** Markup of a node. */
export function markup(node: Node): string {
  if (typeof node === 'string') return escapeHtml(node)
  const [tag, ...rest] = node
  const name = String(tag)
  const isAttributes = (each: string | Element | Attributes): each is Attributes =>
    typeof each === 'object' && !Array.isArray(each)
  const open = rest
    .filter(isAttributes)
    .flatMap((each) => Object.entries(each))
    .map(([attribute, value]) => ` ${attribute}="${escapeHtml(value)}"`)
    .join('')
  const children = rest.filter((each): each is string | Element => !isAttributes(each))
  return voids.has(name) ? `<${name}${open}>` : `<${name}${open}>${children.map(markup).join('')}</${name}>`
}

const style = `:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:10vh auto;padding:0 1.25rem}
h1{font-size:1.5rem}pre,code{font-family:ui-monospace,monospace;background:#8882;border-radius:.3rem;padding:.1rem .3rem}pre{padding:.75rem;overflow:auto}
button{font:inherit;padding:.5rem 1.25rem;border-radius:.4rem;border:1px solid #8888;cursor:pointer}.dim{opacity:.7}`

/** A whole page. */
export function page(title: string, ...content: Node[]): string {
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>${escapeHtml(title)}</title><style>${style}</style></head><body><main><h1>${escapeHtml(title)}</h1>${content.map(markup).join('')}</main></body></html>`
}

/** Sends a page under a policy that lets nothing run. */
export function sendPage(
  res: ServerResponse,
  status: number,
  html: string,
  headers: Record<string, string> = {},
): void {
  res.writeHead(status, {
    'content-type': 'text/html; charset=utf-8',
    'content-length': Buffer.byteLength(html),
    'content-security-policy':
      "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    'cache-control': 'no-store',
    ...headers,
  })
  res.end(html)
}
