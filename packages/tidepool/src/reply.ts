/**
 * Explicit answers: `tp.reply` and `tp.redirect`.
 */
import { serialize } from 'hono/utils/cookie'
import { TpError } from './errors.ts'

/** How a cookie is set. The defaults are the safe ones: HttpOnly, SameSite=Lax, Path=/, Secure on https. */
export interface CookieOptions {
  value: string
  /** Seconds; without it the cookie ends with the browser. 0 deletes it. */
  maxAge?: number
  path?: string
  httpOnly?: boolean
  secure?: boolean
  sameSite?: 'Strict' | 'Lax' | 'None'
}

export interface ReplyOptions {
  /** Default 200. */
  status?: number
  /** A list sets the header several times. */
  headers?: Record<string, string | number | readonly string[]>
  /** name → value or options; null deletes the cookie. */
  cookies?: Record<string, string | CookieOptions | null>
}

/** An answer with status, headers and cookies; its body follows the rules of return values. */
export class Reply {
  readonly body: unknown
  readonly options: ReplyOptions

  constructor(body: unknown, options: ReplyOptions = {}) {
    this.body = body
    this.options = options
  }
}

/**
 * An answer with status, headers and cookies.
 * @param body string or `tp.html` → HTML, Uint8Array or stream → bytes, null → empty, anything else → JSON
 * @example tp.reply({ id }, { status: 201, headers: { location: `/post/${id}` }, cookies: { seen: 'yes' } })
 */
export function reply(body: unknown, options: ReplyOptions = {}): Reply {
  return new Reply(body, options)
}

/**
 * Sends the browser somewhere else.
 * @param status 303 (default), 301, 302, 307 or 308
 * @throws TpError `bad_request` when the address contains control characters
 * @example tp.redirect('/thanks')
 */
export function redirect(url: string, status: 301 | 302 | 303 | 307 | 308 = 303): Reply {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a line break would start another header
  if (/[\u0000-\u001f\u007f]/.test(url)) throw new TpError('bad_request', 'The address to redirect to is not valid')
  // Non-ASCII is not allowed in a header; what is escaped already stays.
  const location = url.replace(/[^\u0021-\u007e]/gu, encodeURIComponent)
  return new Reply(null, { status, headers: { location } })
}

/** The value of a Set-Cookie header. */
export function cookieHeader(name: string, cookie: string | CookieOptions | null, https: boolean): string {
  const options: CookieOptions =
    cookie === null ? { value: '', maxAge: 0 } : typeof cookie === 'string' ? { value: cookie } : cookie
  const { value, path = '/', httpOnly = true, secure = https, sameSite = 'Lax', maxAge } = options
  return serialize(name, value, { path, httpOnly, secure, sameSite, ...(maxAge !== undefined && { maxAge }) })
}
