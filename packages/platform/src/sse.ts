// Server-Sent Events on a plain response: frames, a comment every 15 s that keeps proxies from closing it, an end when
// the client is gone.
import type { ServerResponse } from 'node:http'

const quietMs = 15_000

/** Opens an event stream. */
export function openEvents(res: ServerResponse, signal: AbortSignal) {
  res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store', 'x-accel-buffering': 'no' })
  res.write(':\n\n')
  const alive = setInterval(() => res.write(':\n\n'), quietMs)
  const end = () => {
    clearInterval(alive)
    res.end()
  }
  res.once('close', end)
  signal.addEventListener('abort', end, { once: true })
  return {
    /** @param data JSON */
    send: (data: string) => void res.write(`data: ${data}\n\n`),
    end,
  }
}
