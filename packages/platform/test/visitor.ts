// A browser without a screen: requests for the platform's pages, with the cookie that signing in gives.
import type { PodRequest, Reply, TestPlatform } from './harness.ts'

export interface Visit extends PodRequest {
  cookie?: string | undefined
  form?: Record<string, string>
}

/** The header that sets a cookie, or ''. */
export const setCookie = (reply: Reply) => String(reply.headers['set-cookie'] ?? '')

/** The cookie that an answer sets, as it is sent back. */
export const cookieOf = (reply: Reply) => setCookie(reply).split(';')[0] ?? ''

/** Makes a browser for a platform. */
export function createVisitor(platform: TestPlatform) {
  /** A request as a browser sends it from a page of the platform itself, unless the headers say otherwise. */
  function visit(path: string, { cookie, form, headers, ...init }: Visit = {}): Promise<Reply> {
    return platform.fetchPod('', path, {
      method: form ? 'POST' : 'GET',
      ...init,
      headers: {
        host: `localhost:${platform.port}`,
        accept: 'text/html',
        ...(cookie !== undefined && { cookie }),
        ...(form && {
          'content-type': 'application/x-www-form-urlencoded',
          origin: platform.url,
          'sec-fetch-site': 'same-origin',
        }),
        ...headers,
      },
      ...(form && { body: new URLSearchParams(form).toString() }),
    })
  }
  /** @returns the cookie */
  const signIn = async (key: string, more: Visit = {}) => cookieOf(await visit('/sign-in', { form: { key }, ...more }))
  return { visit, signIn }
}
