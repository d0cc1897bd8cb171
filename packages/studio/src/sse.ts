// Server-sent events over fetch, because an EventSource cannot send a key in a header.

/** A frame: the name of its event (`message` unless named) and its data. */
export interface Frame {
  event: string
  data: string
}

/** The frames of a body; null for what only shows that the server is there. */
export async function* frames(body: ReadableStream<Uint8Array>): AsyncGenerator<Frame | null> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader()
  let rest = ''
  for (;;) {
    const { value, done } = await reader.read()
    if (done) return
    const parts = (rest + value).split('\n\n')
    rest = parts.pop() ?? ''
    yield null
    for (const part of parts) {
      const field = (name: string) =>
        part
          .split('\n')
          .find((line) => line.startsWith(`${name}: `))
          ?.slice(name.length + 2)
      const data = field('data')
      if (data !== undefined) yield { event: field('event') ?? 'message', data }
    }
  }
}

/** The server has answered with something else than a stream. */
export class StreamRefused extends Error {
  readonly status: number

  constructor(status: number) {
    super(`HTTP ${status}`)
    this.name = 'StreamRefused'
    this.status = status
  }
}

/** Without a word for this long a connection is dead: the server says something every 15 s. */
const silenceMs = 40_000

/**
 * Reads a stream of events until it ends or says nothing for too long.
 *
 * @param path the stream's address
 * @param connection ends it, and is ended with it
 * @param onOpen called when the server has answered
 * @throws StreamRefused, or what fetch throws when the connection breaks
 */
export async function readStream(
  path: string,
  headers: Record<string, string>,
  connection: AbortController,
  onOpen: () => void,
  onFrame: (frame: Frame) => void,
): Promise<void> {
  const end = () => connection.abort()
  let silence = setTimeout(end, silenceMs)
  try {
    const response = await fetch(path, { headers, signal: connection.signal })
    if (!response.ok || !response.body) throw new StreamRefused(response.status)
    onOpen()
    for await (const frame of frames(response.body)) {
      clearTimeout(silence)
      silence = setTimeout(end, silenceMs)
      if (frame) onFrame(frame)
    }
  } finally {
    clearTimeout(silence)
    end()
  }
}

/** Waits, ms; no longer than until `signal` aborts. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    signal.addEventListener(
      'abort',
      () => {
        clearTimeout(timer)
        resolve()
      },
      { once: true },
    )
  })
}
