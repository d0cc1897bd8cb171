import { expect, test } from 'vitest'
import { AnswerReader } from '../src/gateway/answer.ts'

function read(method: string, pieces: Buffer[]) {
  const told: { head: unknown[]; body: string; ended: boolean } = { head: [], body: '', ended: false }
  const reader = new AnswerReader(method, {
    head: (...head) => told.head.push(head),
    data: (chunk) => {
      told.body += chunk.toString('latin1')
    },
    end: (last) => {
      told.body += last?.toString('latin1') ?? ''
      told.ended = true
    },
  })
  for (const piece of pieces) reader.read(piece)
  if (!told.ended) reader.close()
  return { ...told, reusable: reader.reusable }
}
const plain = ['x-a', 'b']
const known: [string, string, string, string[], string, boolean][] = [
  [
    'a length',
    'GET',
    'HTTP/1.1 200 OK\r\nx-a:  b \r\ncontent-length: 5\r\n\r\nhello',
    [...plain, 'content-length', '5'],
    'hello',
    true,
  ],
  [
    'no body',
    'GET',
    'HTTP/1.1 200\r\nx-a: b\r\ncontent-length: 0\r\n\r\n',
    [...plain, 'content-length', '0'],
    '',
    true,
  ],
  [
    'chunks',
    'GET',
    'HTTP/1.1 200 OK\r\nx-a: b\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nhel\r\n02\r\nlo\r\n0\r\nt: u\r\n\r\n',
    plain,
    'hello',
    true,
  ],
  ['the end', 'GET', 'HTTP/1.1 200 OK\r\nx-a: b\r\n\r\nhello', plain, 'hello', false],
  [
    'HEAD',
    'HEAD',
    'HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 5\r\n\r\n',
    [...plain, 'content-length', '5'],
    '',
    true,
  ],
  ['204', 'GET', 'HTTP/1.1 204 No Content\r\nx-a: b\r\n\r\n', plain, '', true],
  [
    '304',
    'GET',
    'HTTP/1.1 304 Not Modified\r\nx-a: b\r\ncontent-length: 5\r\n\r\n',
    [...plain, 'content-length', '5'],
    '',
    true,
  ],
  [
    'hints first',
    'GET',
    'HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 2\r\n\r\nhi',
    [...plain, 'content-length', '2'],
    'hi',
    true,
  ],
  [
    'close',
    'GET',
    'HTTP/1.1 200 OK\r\nx-a: b\r\nConnection: x, close\r\ncontent-length: 2\r\n\r\nhi',
    [...plain, 'content-length', '2'],
    'hi',
    false,
  ],
  [
    'leftovers',
    'GET',
    'HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n',
    [...plain, 'content-length', '2'],
    'hi',
    false,
  ],
]
test.each(known)('%s, wherever it is cut', (_, method, text, headers, body, reusable) => {
  const bytes = Buffer.from(text, 'latin1')
  const whole = read(method, [bytes])
  expect(whole).toMatchObject({ body, ended: true, reusable })
  expect(whole.head).toHaveLength(1)
  expect((whole.head[0] as unknown[])[2]).toEqual(headers)
  for (let at = 1; at < bytes.length; at++)
    expect({ ...read(method, [bytes.subarray(0, at), bytes.subarray(at)]), reusable }).toEqual(whole)
  expect({
    ...read(
      method,
      [...bytes].map((byte) => Buffer.from([byte])),
    ),
    reusable,
  }).toEqual(whole)
})
