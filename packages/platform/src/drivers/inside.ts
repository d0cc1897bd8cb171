// Connects to the unix socket of a pod, which lies in the pod's own /tmp. The pod may put there whatever it likes: a
// link, followed from out here, would lead to sockets of this machine. So nothing is followed: what lies there is
// opened as it is, looked at, and connected to by that handle.
import { closeSync, constants, fstatSync, openSync } from 'node:fs'
import { request } from 'node:http'
import { connect, Socket } from 'node:net'
import { basename, dirname } from 'node:path'

/** O_PATH of Linux: a handle of the file itself, whatever it is. */
const handleOnly = 0o10000000

function refused(path: string, cause?: unknown): Error {
  return Object.assign(new Error(`${path} is no socket`, { cause }), { code: 'ECONNREFUSED' })
}

/** A connection to the socket at `path`, as the driver names it; one that fails says so by 'error'. */
export function connectInside(path: string): Socket {
  // Without a sandbox the pod is trusted with everything anyway.
  if (!path.startsWith('/proc/')) return connect(path)
  const handles: number[] = []
  const open = (at: string, flags: number) => {
    const handle = openSync(at, handleOnly | constants.O_NOFOLLOW | flags)
    handles.push(handle)
    return handle
  }
  try {
    const folder = open(dirname(path), constants.O_DIRECTORY)
    const file = open(`/proc/self/fd/${folder}/${basename(path)}`, 0)
    if (!fstatSync(file).isSocket()) throw refused(path)
    // The system call is made before this returns.
    return connect(`/proc/self/fd/${file}`)
  } catch (cause) {
    const none = new Socket()
    // As late as a connection that is refused: whoever asked listens by then.
    setImmediate(() => none.destroy(refused(path, cause)))
    return none
  } finally {
    for (const handle of handles) closeSync(handle)
  }
}

/** Asks a process on its socket. @returns the status @throws Error when it does not answer in time */
export function ask(
  socketPath: string,
  path: string,
  headers: Record<string, string> = {},
  timeoutMs = 3_000,
): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const sent = request(
      {
        createConnection: () => connectInside(socketPath).setTimeout(timeoutMs),
        path,
        headers: { host: 'localhost', ...headers },
        timeout: timeoutMs,
      },
      (answer) => {
        let body = ''
        answer.setEncoding('utf8')
        answer.on('data', (chunk: string) => {
          if (body.length < 65_536) body += chunk
        })
        answer.on('end', () => resolve({ status: answer.statusCode ?? 0, body }))
        answer.on('error', reject)
      },
    )
    sent.on('timeout', () => sent.destroy(new Error(`no answer in ${timeoutMs} ms`)))
    sent.on('error', reject)
    sent.end()
  })
}
