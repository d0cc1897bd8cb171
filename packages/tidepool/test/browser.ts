/**
 * A browser as far as HTTP tests need one: it keeps cookies and asks for pages.
 */
import { vi } from 'vitest'
import type { TestPod } from './pod.ts'

export type Visitor = ReturnType<typeof visitor>

/** Somebody with a cookie jar. */
export function visitor(pod: Pick<TestPod, 'fetch' | 'post'>) {
  const cookies = new Map<string, string>()
  const headers = () => ({
    accept: 'text/html',
    cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join('; '),
  })
  const keep = (answer: Response) => {
    for (const line of answer.headers.getSetCookie()) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(line) ?? []
      if (value === '' || /max-age=0/i.test(line)) cookies.delete(name)
      else cookies.set(name, value)
    }
    return answer
  }
  return {
    cookies,
    get: async (path: string) => keep(await pod.fetch(path, { headers: headers() })),
    post: async (path: string, fields: Record<string, string>) =>
      keep(await pod.post(path, fields, { headers: headers() })),
    /** What `/who` says of them: `{user}`. */
    who: async () => userIn(await pod.fetch('/who', { headers: headers() })),
  }
}

/** Who /who says it is. */
export async function userIn(answer: Response): Promise<unknown> {
  const { user }: { user?: unknown } = JSON.parse(await answer.text())
  return user
}

/** The newest mail to an address, and the path and token of the link in it. */
export async function mailTo(pod: Pick<TestPod, 'backend'>, to: string, subject = '') {
  return vi.waitFor(async () => {
    const mail = (await pod.backend.mail.list()).find((each) => each.to === to && each.subject.includes(subject))
    if (!mail) throw new Error(`no mail to ${to}`)
    const link = /https?:\/\/\S+/.exec(mail.text)?.[0] ?? ''
    const token = new URL(link).searchParams.get('token') ?? ''
    return { ...mail, token, path: link.replace(/^https?:\/\/[^/]+/, '') }
  })
}
