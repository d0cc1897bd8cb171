// Reads server-sent events in tests, as raw as they come.

/** One frame: its fields as they stand there. */
export interface Frame {
  id?: string
  event?: string
  /** Parsed. */
  data: Record<string, unknown>
}

/** Opens an event stream; the frames come one by one. Leaving the loop, or `close`, ends the connection. */
export async function openFrames(
  url: string,
  headers: Record<string, string> = {},
): Promise<{ status: number; frames: AsyncGenerator<Frame>; close(): void }> {
  const stop = new AbortController()
  const response = await fetch(url, { headers, signal: stop.signal })
  async function* read(): AsyncGenerator<Frame> {
    const decoder = new TextDecoder()
    let rest = ''
    try {
      for await (const bytes of response.body ?? []) {
        rest += decoder.decode(bytes, { stream: true })
        const parts = rest.split('\n\n')
        rest = parts.pop() ?? ''
        for (const part of parts) {
          const fields = Object.fromEntries(part.split('\n').map((line) => line.split(/: (.*)/s).slice(0, 2)))
          if (fields.data !== undefined) yield { ...fields, data: JSON.parse(fields.data) }
        }
      }
    } catch (error) {
      if (!stop.signal.aborted) throw error
    } finally {
      stop.abort()
    }
  }
  return { status: response.status, frames: read(), close: () => stop.abort() }
}

/** The next frames of a stream. */
export async function take(frames: AsyncGenerator<Frame>, count: number): Promise<Frame[]> {
  const taken: Frame[] = []
  while (taken.length < count) {
    const { value, done } = await frames.next()
    if (done) throw new Error(`the stream ended after ${taken.length} of ${count} frames`)
    taken.push(value)
  }
  return taken
}
