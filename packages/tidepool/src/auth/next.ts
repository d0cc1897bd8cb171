/**
 * Where to go after a login: a path of this app, never another site.
 */

/** `next` if it is a path of this origin, else `/`. */
export function safeNext(next: unknown): string {
  if (typeof next !== 'string' || next.length > 2000) return '/'
  // Browsers take `\` for `/` and drop control characters: `/\evil`, `/<tab>/evil` would leave the site.
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there
  if (!/^\/(?![/\\])[^\\\u0000-\u001f\u007f]*$/.test(next)) return '/'
  const url = new URL(next, 'http://here.invalid')
  // `/.//evil` only becomes `//evil` now.
  const ours = url.origin === 'http://here.invalid' && !url.pathname.startsWith('//')
  return ours ? url.pathname + url.search + url.hash : '/'
}

/** `path?next=…`, without the parameter when it would only say `/`. */
export function withNext(path: string, next: string): string {
  return next === '/' ? path : `${path}${path.includes('?') ? '&' : '?'}next=${encodeURIComponent(next)}`
}
