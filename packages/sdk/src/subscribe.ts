// Following a run's events: backlog, then live, across lost connections and restarts of the server.
// Invariants: each event comes once, in order of `seq`; leaving the loop closes the connection.
import { backoff, delay, onAbort } from './abort.ts'
import { TidebaseError } from './errors.ts'
import { parseEventStream } from './sse.ts'
import type { Chunks, Transport } from './transport.ts'
import type { RunEvent, StreamChunk } from './types.ts'

export interface SubscribeOptions {
  /** Only events with a higher `seq`; 0 (all) unless given. */
  after?: number
  /** Ends the subscription by throwing the signal's reason. */
  signal?: AbortSignal
  /** Called with what the run's steps stream while they run. An `offset` of 0 starts a text over. */
  onChunk?: (chunk: StreamChunk) => void
  /** Go on after the run has ended: a failed run may be resumed. */
  follow?: boolean
}

// The server sends a comment every 15 s; silence of three times that is a dead connection.
const silenceMs = 45_000

/** Follows a run; see `Runs.subscribe`. */
export async function* subscribe(
  transport: Transport,
  runId: string,
  options: SubscribeOptions,
): AsyncGenerator<RunEvent, void, undefined> {
  let after = options.after ?? 0
  if (after > 0 && !options.follow && (await isOver(transport, runId, after, options.signal))) return
  let connected = false
  const offsets = new Map<string, number>()
  const onChunk =
    options.onChunk &&
    ((chunk: StreamChunk) => {
      offsets.set(chunk.stream, chunk.offset + [...chunk.chunk].length)
      options.onChunk?.(chunk)
    })
  for (let failures = 0; ; ) {
    const stream = await transport.stream('streamEvents', {
      params: { runId },
      query: { after, offsets: offsetsText(offsets) },
      headers: { accept: 'text/event-stream', ...(after ? { 'last-event-id': String(after) } : {}) },
      signal: options.signal,
      // Once connected, an outage of any length is waited out; before, a wrong address is worth an error.
      retryForMs: connected ? Number.POSITIVE_INFINITY : undefined,
    })
    connected = true
    for await (const event of events(stream, options.signal, onChunk)) {
      failures = 0
      if (event.seq <= after) continue
      after = event.seq
      yield event
      if (options.follow) continue
      if (event.type === 'run.completed' || event.type === 'run.cancelled') return
      if (event.type === 'run.failed' && (await isOver(transport, runId, after, options.signal))) return
    }
    await delay(backoff(failures++), options.signal)
  }
}

export interface FeedOptions {
  /** Only events with a higher `id`; 0 (all) unless given. `latest`: only what happens from now on. */
  after?: number | 'latest'
  /** Ends the stream by throwing the signal's reason. */
  signal?: AbortSignal
}

/** Follows a project; see `Tidebase.events`. */
export async function* feed(transport: Transport, options: FeedOptions): AsyncGenerator<RunEvent, void, undefined> {
  let after = options.after ?? 0
  let connected = false
  for (let failures = 0; ; ) {
    const stream = await transport.stream('streamProjectEvents', {
      query: { after },
      headers: { accept: 'text/event-stream' },
      signal: options.signal,
      retryForMs: connected ? Number.POSITIVE_INFINITY : undefined,
    })
    connected = true
    for await (const event of events(stream, options.signal)) {
      failures = 0
      after = event.id
      yield event
    }
    await delay(backoff(failures++), options.signal)
  }
}

/** The events of one connection; ends with it, however it ends. */
async function* events(
  { chunks, cancel }: Chunks,
  signal: AbortSignal | undefined,
  onChunk?: (chunk: StreamChunk) => void,
): AsyncGenerator<RunEvent> {
  const unwatch = onAbort(signal, cancel)
  let silence = setTimeout(cancel, silenceMs)
  async function* alive(): AsyncGenerator<Uint8Array> {
    try {
      for await (const chunk of chunks) {
        clearTimeout(silence)
        silence = setTimeout(cancel, silenceMs)
        yield chunk
      }
    } catch {
      // A connection that breaks is one that ends: the caller connects again.
    }
  }
  try {
    for await (const message of parseEventStream(alive())) {
      if (message.event === 'chunk') onChunk?.(JSON.parse(message.data))
      if (message.event !== 'message') continue
      const event: RunEvent = JSON.parse(message.data)
      yield event
    }
    signal?.throwIfAborted()
  } finally {
    clearTimeout(silence)
    unwatch()
    cancel()
  }
}

/** Where a new connection goes on; the last few streams, because an address has its limits. */
function offsetsText(offsets: ReadonlyMap<string, number>): string | undefined {
  const parts = [...offsets].slice(-5).map(([name, offset]) => `${encodeURIComponent(name)}:${offset}`)
  return parts.length ? parts.join(',') : undefined
}

/** Whether the run has ended and nothing happened to it after an event. */
async function isOver(
  transport: Transport,
  runId: string,
  after: number,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const { run, events } = await transport.call('getRun', {
    params: { runId },
    query: { include: 'events', eventsAfter: after, eventsLimit: 1 },
    signal,
  })
  return ended.has(run.status) && events.length === 0
}

/** Statuses in which nothing executes a run and nothing will by itself. */
export const ended: ReadonlySet<string> = new Set(['completed', 'failed', 'cancelled'])

/** Makes sure that a program that waits for a run which nobody will end can tell why. */
export function stillRunning(runId: string, timeoutMs: number): TidebaseError {
  return new TidebaseError(`Run ${runId} did not end within ${timeoutMs} ms.`, {
    code: 'wait_timeout',
    hint: 'Look at it with tide.runs.get; a pending run waits for a program to begin it, a queued one for a worker.',
    retryable: true,
  })
}
