import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type Message, parseEventStream } from '../src/sse.ts'

async function parse(...chunks: (string | Uint8Array)[]): Promise<Message[]> {
  async function* bytes() {
    for (const chunk of chunks) yield typeof chunk === 'string' ? new TextEncoder().encode(chunk) : chunk
  }
  const messages: Message[] = []
  for await (const message of parseEventStream(bytes())) messages.push(message)
  return messages
}

test('messages, comments, names and ids', async () => {
  const stream = ': hello\n\nid: 1\ndata: {"a":1}\n\nevent: chunk\ndata:x\ndata:  y\n\n:\nretry: 5\nid: 2\n\ndata\n\n'
  expect(await parse(stream)).toEqual([
    { id: '1', event: 'message', data: '{"a":1}' },
    { id: '1', event: 'chunk', data: 'x\n y' },
    { id: '2', event: 'message', data: '' },
  ])
})

test('a message without its empty line is not delivered', async () => {
  expect(await parse('data: 1\n\ndata: 2\n')).toEqual([{ id: '', event: 'message', data: '1' }])
})

test('a byte order mark is ignored', async () => {
  expect(await parse(new Uint8Array([0xef, 0xbb, 0xbf]), 'data: 1\n\n')).toHaveLength(1)
})

test('line ends and chunk borders do not matter', async () => {
  const text = fc.string({ unit: 'binary', maxLength: 20 }).map((each) => each.replace(/[\r\n\0]/g, ''))
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ id: text, data: fc.array(text, { minLength: 1, maxLength: 3 }) }), { maxLength: 5 }),
      fc.constantFrom('\n', '\r', '\r\n'),
      fc.infiniteStream(fc.integer({ min: 1, max: 7 })),
      async (messages, end, sizes) => {
        const wellFormed = messages.map(({ id, data }) => ({
          id: id.toWellFormed(),
          data: data.map((line) => line.toWellFormed()),
        }))
        const stream = wellFormed
          .map(({ id, data }) => [`id: ${id}`, ...data.map((line) => `data: ${line}`), '', ''].join(end))
          .join('')
        const bytes = new TextEncoder().encode(stream)
        const chunks: Uint8Array[] = []
        for (let at = 0; at < bytes.length; ) {
          const size = sizes.next().value ?? 1
          chunks.push(bytes.subarray(at, at + size))
          at += size
        }
        // A CR at the very end of the stream could still become a CR LF.
        const found = await parse(...chunks, end === '\r' ? ':' : '')
        expect(found).toEqual(wellFormed.map(({ id, data }) => ({ id, event: 'message', data: data.join('\n') })))
      },
    ),
  )
})
