/**
 * Pages that are open to whoever sits at this machine must not be open to a web page whose name was made to point here
 * (DNS rebinding): they look at the name that the browser believes to talk to.
 */

/** Whether the address that the browser believes to talk to is this machine: a name that points here is not enough. */
export function isLocalHost(host: string | undefined, origin: string): boolean {
  const name = (host ?? '').replace(/:\d+$/, '').toLowerCase()
  return name === new URL(origin).hostname || /^(localhost|127\.0\.0\.1|\[::1\]|[a-z0-9-]+\.localhost)$/.test(name)
}
