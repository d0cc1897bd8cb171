/**
 * Server-Sent Events: a handler that returns a generator keeps the connection open, one JSON event a yield.
 *
 * Invariants: at most `maxStreams` at a time; a client that is gone ends its generator (its `finally` runs); a
 * generator that throws, or yields what is not JSON, ends its own stream with an `error` event and nothing else.
 */
import { TpError } from './errors.ts'
import type { PodRequest } from './request.ts'

export type Events = AsyncIterator<unknown, unknown, undefined> | Iterator<unknown, unknown, undefined>

const maxStreams = 100
/** Comments keep proxies from closing a quiet stream. */
const heartbeatMs = 15_000

/** Whether a handler's value is a generator (not merely something iterable, like an array). */
export function isEvents(value: object): value is Events {
  return (
    'next' in value && typeof value.next === 'function' && (Symbol.asyncIterator in value || Symbol.iterator in value)
  )
}

/** Keeps the open streams of a server. `report` logs an error and returns its public form. */
export function createStreams(report: (req: PodRequest, error: unknown) => unknown) {
  const open = new Set<PodRequest>()
  let heartbeat: NodeJS.Timeout | undefined

  function drained(req: PodRequest): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        req.res.off('drain', done)
        req.res.off('close', done)
        resolve()
      }
      req.res.on('drain', done)
      req.res.on('close', done)
    })
  }

  async function pump(req: PodRequest, events: Events): Promise<void> {
    const { res } = req
    try {
      while (!res.closed) {
        const next = await events.next()
        if (next.done || res.closed) break
        const json = JSON.stringify(next.value)
        if (json === undefined) throw new TpError('unserialisable', `The stream yielded a ${typeof next.value}`)
        if (!res.write(`data: ${json}\n\n`)) await drained(req)
      }
    } catch (error) {
      if (!res.closed) res.write(`event: error\ndata: ${JSON.stringify(report(req, error))}\n\n`)
    }
    res.end()
  }

  function finish(events: Events): void {
    // A generator that waits for something gets to its `finally` only when that arrives, so nobody waits for it here.
    Promise.resolve(events.return?.()).catch(() => undefined)
  }

  return {
    /** How many are open. */
    count: (): number => open.size,
    /** @throws TpError `too_many_streams`, before anything is sent */
    start(req: PodRequest, events: Events, headers: readonly string[]): void {
      if (open.size >= maxStreams) {
        finish(events)
        throw new TpError('too_many_streams', `This app has ${maxStreams} open streams already`, { retryAfter: 5 })
      }
      open.add(req)
      heartbeat ??= setInterval(() => {
        for (const each of open) each.res.write(':\n\n')
      }, heartbeatMs).unref()
      const { res } = req
      res.once('close', () => {
        open.delete(req)
        finish(events)
      })
      res.writeHead(200, [
        ...headers,
        ...['content-type', 'text/event-stream; charset=utf-8', 'cache-control', 'no-cache, no-transform'],
        ...['x-accel-buffering', 'no'],
      ])
      if (req.method === 'HEAD') {
        res.end()
        return
      }
      res.write(':\n\n')
      void pump(req, events)
    },
    /** Ends all streams. */
    close(): void {
      clearInterval(heartbeat)
      for (const req of open) req.res.end()
    },
  }
}
