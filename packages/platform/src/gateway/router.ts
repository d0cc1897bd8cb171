// Which pod a host name means.
import type { IncomingMessage } from 'node:http'

/** What a Host header names: the platform itself, a pod, or nothing here. */
export type Destination = { to: 'platform' } | { to: 'pod'; name: string } | { to: 'nowhere' }

/** Whether a request names one host, and it nowhere else: what is said twice, the next program may read otherwise. */
export function isPlain(req: IncomingMessage): boolean {
  return req.headersDistinct.host?.length === 1 && req.url?.startsWith('/') === true
}

/** Makes the table. @param domain pods are at `<name>.<domain>`; the platform is at the domain itself and at addresses */
export function createRouter(domain: string): (host: string | undefined) => Destination {
  const remembered = new Map<string, Destination>()
  function find(host: string): Destination {
    const name = host.replace(/:\d+$/, '').toLowerCase().replace(/\.$/, '')
    if (name === domain || name === 'localhost' || /^\d+(\.\d+){3}$/.test(name) || name.startsWith('['))
      return { to: 'platform' }
    const pod = name.endsWith(`.${domain}`) ? name.slice(0, -domain.length - 1) : ''
    return /^[a-z0-9-]{1,40}$/.test(pod) ? { to: 'pod', name: pod } : { to: 'nowhere' }
  }
  return (host = '') => {
    let found = remembered.get(host)
    if (!found) {
      found = find(host)
      // Anybody may send any name.
      if (remembered.size > 5_000) remembered.clear()
      remembered.set(host, found)
    }
    return found
  }
}
