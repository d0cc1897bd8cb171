// Server-sent events: the wire format, without a connection. Chunks may be cut anywhere, also inside a character.

/** One message of an event stream. */
export interface Message {
  /** Last `id:` seen, in this message or before. */
  id: string
  /** `message` unless named. */
  event: string
  data: string
}

/**
 * Parses an event stream.
 *
 * @param chunks the bytes as they arrive
 * @returns the messages as they are complete; comments and messages without data are left out
 */
export async function* parseEventStream(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Message> {
  let id = ''
  let event = ''
  let data: string[] = []
  for await (const line of lines(chunks)) {
    if (line === '') {
      if (data.length) yield { id, event: event || 'message', data: data.join('\n') }
      event = ''
      data = []
      continue
    }
    const colon = line.indexOf(':')
    const field = colon < 0 ? line : line.slice(0, colon)
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '')
    if (field === 'data') data.push(value)
    else if (field === 'event') event = value
    else if (field === 'id' && !value.includes('\0')) id = value
  }
}

/** Lines end with LF, CR or CR LF. An unfinished last line is dropped, as the format asks. */
async function* lines(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  // The decoder drops a byte order mark at the start.
  const decoder = new TextDecoder()
  let rest = ''
  for await (const chunk of chunks) {
    rest += decoder.decode(chunk, { stream: true })
    for (;;) {
      const end = rest.search(/[\r\n]/)
      // A CR at the very end may be the first half of a CR LF.
      if (end < 0 || (rest[end] === '\r' && end === rest.length - 1)) break
      yield rest.slice(0, end)
      rest = rest.slice(end + (rest.startsWith('\r\n', end) ? 2 : 1))
    }
  }
}
