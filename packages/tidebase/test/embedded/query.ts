// Asks Postgres one question over its socket, in its own protocol: these tests come before the choice of a driver,
// and a connection that fails half-way must be seen as it is.

import { connect } from 'node:net'

/**
 * Runs SQL on a connection of its own.
 * @returns the rows, every value as text ('' for null)
 * @throws Error with the server's message, or when the connection fails or ends early
 */
export function query(at: { host: string; port: number; user: string; database: string }, sql: string) {
  return new Promise<string[][]>((resolve, reject) => {
    const rows: string[][] = []
    let failure: Error | undefined
    let asked = false
    let unread = Buffer.alloc(0)
    const socket = connect(`${at.host}/.s.PGSQL.${at.port}`)
    socket.on('error', reject)
    socket.on('close', () => reject(failure ?? new Error('connection closed')))
    socket.on('connect', () => {
      const parameters = Buffer.from(`user\0${at.user}\0database\0${at.database}\0\0`)
      const head = Buffer.alloc(8)
      head.writeInt32BE(8 + parameters.length, 0)
      head.writeInt32BE(196_608, 4)
      socket.write(Buffer.concat([head, parameters]))
    })
    const receive = (type: string, body: Buffer) => {
      if (type === 'D') rows.push(readRow(body))
      if (type === 'E') failure = new Error(/\0M([^\0]*)/.exec(body.toString())?.[1] ?? body.toString())
      if (type === 'Z' && asked) {
        if (failure) reject(failure)
        else resolve(rows)
        socket.end(message('X', ''))
      } else if (type === 'Z') {
        asked = true
        socket.write(message('Q', `${sql}\0`))
      }
    }
    socket.on('data', (chunk) => {
      unread = Buffer.concat([unread, chunk])
      while (unread.length >= 5 && unread.length > unread.readInt32BE(1)) {
        const end = 1 + unread.readInt32BE(1)
        receive(String.fromCharCode(unread[0] ?? 0), unread.subarray(5, end))
        unread = unread.subarray(end)
      }
    })
  })
}

function message(type: string, text: string): Buffer {
  const body = Buffer.from(text)
  const head = Buffer.alloc(5)
  head.write(type)
  head.writeInt32BE(4 + body.length, 1)
  return Buffer.concat([head, body])
}

function readRow(body: Buffer): string[] {
  const row: string[] = []
  let at = 2
  for (let column = 0; column < body.readInt16BE(0); column++) {
    const length = Math.max(0, body.readInt32BE(at))
    row.push(body.subarray(at + 4, at + 4 + length).toString())
    at += 4 + length
  }
  return row
}
