/**
 * Reads one HTTP/1.1 answer from the bytes of a connection: head, then a body by its length, in chunks, or to the end
 * of the connection.
 *
 *   head ──▶ (1xx: head again) ──▶ length │ size ⇄ chunk, trailers │ to the end ──▶ done
 *
 * Invariants: what is not HTTP/1.1 to the letter is refused, so that both ends agree where an answer ends; hop-by-hop
 * headers are not handed on, trailers neither; bytes after the answer belong to no answer and make the connection
 * unfit for another.
 */

/** What an answer consists of, in this order. */
export interface AnswerListener {
  /** @param headers name, value, name, value …, without hop-by-hop ones */
  head(status: number, message: string, headers: string[]): void
  data(chunk: Buffer): void
  /** @param last bytes of the body that were not given to `data` */
  end(last: Buffer | undefined): void
}

/** Headers that stay on their hop. */
export const hopByHop = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'expect',
])

const maxHead = 64 * 1024
const maxLine = 4096

type State = 'head' | 'length' | 'size' | 'chunk' | 'chunk end' | 'trailers' | 'to the end' | 'done'

export class AnswerReader {
  readonly #listener: AnswerListener
  readonly #bodiless: boolean
  #state: State = 'head'
  /** The beginning of a head or line that has not come whole. */
  #rest: Buffer | undefined
  /** Bytes to come, of the body or of the chunk. */
  #left = 0
  #trailers = 0
  #last: Buffer | undefined
  #told = false
  /** Whether anything has come. */
  begun = false
  /** Whether the connection may serve another request after this answer. */
  reusable = false
  /** How long the pod keeps an idle connection, as it says, s. */
  keepAliveSeconds: number | undefined

  constructor(method: string, listener: AnswerListener) {
    this.#bodiless = method === 'HEAD'
    this.#listener = listener
  }

  /** Whether the final head has not come yet. */
  get inHead(): boolean {
    return this.#state === 'head'
  }

  get #done(): boolean {
    return this.#state === 'done'
  }

  /** Whether the head has come, a body will, and none of it has been told. */
  get waiting(): boolean {
    return !this.#told && this.#state !== 'head' && this.#state !== 'done'
  }

  /** @throws Error when this is no answer */
  read(input: Buffer): void {
    this.begun = true
    if (this.#done) {
      this.reusable = false
      return
    }
    const bytes = this.#rest ? Buffer.concat([this.#rest, input]) : input
    this.#rest = undefined
    let at = 0
    while (at < bytes.length) {
      const state = this.#state
      if (state === 'done') break
      if (state === 'length' || state === 'chunk' || state === 'to the end') {
        at = this.#readBody(bytes, at, state)
        continue
      }
      const isHead = state === 'head'
      const end = bytes.indexOf(isHead ? '\r\n\r\n' : '\r\n', at, 'latin1')
      const max = isHead ? maxHead : maxLine
      if ((end < 0 ? bytes.length : end) - at > max) throw new Error('a head or line of the answer is too long')
      if (end < 0) {
        this.#rest = bytes.subarray(at)
        return
      }
      const text = bytes.toString('latin1', at, end)
      at = end + (isHead ? 4 : 2)
      if (isHead) this.#readHead(text)
      else this.#readLine(text, state)
    }
    if (!this.#done) return
    if (at < bytes.length) this.reusable = false
    this.#listener.end(this.#last)
  }

  /** The connection has ended. @returns whether the answer is whole by that */
  close(): boolean {
    if (this.#state !== 'to the end') return false
    this.#state = 'done'
    this.#listener.end(undefined)
    return true
  }

  #readBody(bytes: Buffer, at: number, state: 'length' | 'chunk' | 'to the end'): number {
    this.#told = true
    if (state === 'to the end') {
      this.#listener.data(at === 0 ? bytes : bytes.subarray(at))
      return bytes.length
    }
    const end = Math.min(bytes.length, at + this.#left)
    const piece = at === 0 && end === bytes.length ? bytes : bytes.subarray(at, end)
    this.#left -= end - at
    if (this.#left > 0) this.#listener.data(piece)
    else if (state === 'length') {
      this.#state = 'done'
      this.#last = piece
    } else {
      this.#state = 'chunk end'
      this.#listener.data(piece)
    }
    return end
  }

  /** A line of a body in chunks. */
  #readLine(line: string, state: 'size' | 'chunk end' | 'trailers'): void {
    if (state === 'chunk end') {
      if (line !== '') throw new Error('a chunk of the answer is longer than it says')
      this.#state = 'size'
    } else if (state === 'size') {
      const size = /^([\da-f]{1,12})[ \t]*(?:;[^\r\n]*)?$/i.exec(line)?.[1]
      if (size === undefined) throw new Error('a chunk of the answer has no size')
      this.#left = Number.parseInt(size, 16)
      this.#state = this.#left > 0 ? 'chunk' : 'trailers'
    } else if (line === '') this.#state = 'done'
    else {
      this.#trailers += line.length
      if (this.#trailers > maxHead) throw new Error('the trailers of the answer are too long')
    }
  }

  #readHead(text: string): void {
    const firstEnd = text.indexOf('\r\n')
    const first = firstEnd < 0 ? text : text.slice(0, firstEnd)
    const status = Number(/^HTTP\/1\.[01] ([1-9]\d\d)(?: |$)/.exec(first)?.[1] ?? Number.NaN)
    if (Number.isNaN(status)) throw new Error('this is no answer of HTTP/1.1')
    if (status === 101) throw new Error('the answer changes the protocol, which was not asked for')
    if (status < 200) return
    const headers: string[] = []
    let length: string | undefined
    let coding: string | undefined
    let closes = first.startsWith('HTTP/1.0')
    for (let at = firstEnd < 0 ? text.length : firstEnd + 2; at < text.length; ) {
      const found = text.indexOf('\r\n', at)
      const end = found < 0 ? text.length : found
      const colon = text.indexOf(':', at)
      if (colon <= at || colon >= end) throw new Error('a header of the answer has no name')
      const name = text.slice(at, colon)
      const value = trimmed(text, colon + 1, end)
      const lower = name.toLowerCase()
      at = end + 2
      if (lower === 'content-length') {
        if (length !== undefined && length !== value) throw new Error('the answer has two lengths')
        if (length !== undefined) continue
        length = value
      } else if (lower === 'transfer-encoding') coding = coding === undefined ? value : `${coding}, ${value}`
      else if (lower === 'connection') closes ||= /(?:^|,)[ \t]*close[ \t]*(?:,|$)/i.test(value)
      else if (lower === 'keep-alive') this.keepAliveSeconds = Number(/timeout=(\d+)/.exec(value)?.[1] ?? 60)
      if (!hopByHop.has(lower)) headers.push(name, value)
    }
    if (coding !== undefined && (coding.toLowerCase() !== 'chunked' || length !== undefined))
      throw new Error('nobody can tell where the answer ends')
    if (length !== undefined && !/^\d{1,15}$/.test(length)) throw new Error('the length of the answer is no number')
    const bodiless = this.#bodiless || status === 204 || status === 304
    this.#left = Number(length ?? 0)
    if (bodiless || (length !== undefined && this.#left === 0)) this.#state = 'done'
    else this.#state = coding !== undefined ? 'size' : length !== undefined ? 'length' : 'to the end'
    this.reusable = !closes && this.#state !== 'to the end'
    this.#listener.head(status, first.slice(13), headers)
  }
}

/** Without spaces around. Not `trim`: of bytes as characters, it takes some that are parts of letters. */
function trimmed(text: string, from: number, to: number): string {
  let start = from
  let end = to
  const isSpace = (at: number) => text.charCodeAt(at) === 32 || text.charCodeAt(at) === 9
  while (start < end && isSpace(start)) start++
  while (end > start && isSpace(end - 1)) end--
  return text.slice(start, end)
}
