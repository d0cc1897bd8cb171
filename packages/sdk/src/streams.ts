// Token streams: text for those who watch a run. Written now and then in small batches, one call at a time, and never
// waited for: watching must not slow the work. What is streamed is a courtesy; a stream that cannot be written says
// nothing, because the output of the step says it all.
import type { Lease } from './lease.ts'
import { property } from './thrown.ts'

/** How long text is collected before it is sent, ms. */
const collectMs = 50
/** Characters of one call at most. */
const pieceSize = 200_000

/** Writes one stream of a run. */
export class StreamWriter {
  readonly name: string
  readonly #lease: Lease
  /** All that was written, in case the server has lost it. */
  #all = ''
  #unsent = ''
  /** Code points that the server has. */
  #offset = 0
  #started = false
  #stopped = false
  #timer: ReturnType<typeof setTimeout> | undefined
  #sending: Promise<void> | undefined

  constructor(lease: Lease, name: string) {
    this.#lease = lease
    this.name = name
  }

  /** Adds text. Returns at once; it is sent within 50 ms. */
  write(chunk: string): void {
    if (this.#stopped) return
    const text = String(chunk)
    this.#all += text
    this.#unsent += text
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      void this.#send()
    }, collectMs)
  }

  /** Sends what is left and waits for it. Nothing can be written afterwards. */
  async close(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    await this.#send(true)
    this.stop()
  }

  /** Drops what was not sent. */
  stop(): void {
    this.#stopped = true
    clearTimeout(this.#timer)
    this.#unsent = ''
    this.#all = ''
  }

  async #send(last = false): Promise<void> {
    while (this.#sending) await this.#sending
    this.#sending = this.#sendAll(last)
    await this.#sending
    this.#sending = undefined
  }

  async #sendAll(last: boolean): Promise<void> {
    // What is written meanwhile is collected for the next time.
    let left = this.#unsent.length
    while (left > 0 && !this.#stopped) {
      const piece = whole(this.#unsent.slice(0, Math.min(left, pieceSize)), last)
      if (!piece) return
      left -= piece.length
      this.#unsent = this.#unsent.slice(piece.length)
      try {
        const reply = await this.#lease.call('appendStream', {
          params: { runId: this.#lease.runId },
          body: {
            stream: this.name,
            offset: this.#offset,
            chunk: piece.toWellFormed(),
            // The first call starts over: an attempt before this one may have left something.
            ...(this.#started ? {} : { reset: true }),
            leaseOwner: this.#lease.owner,
          },
          retryForMs: 10_000,
        })
        this.#started = true
        this.#offset += [...piece].length
        if (reply.closed) this.stop()
      } catch (error) {
        if (property(error, 'code') !== 'stream_gap') return this.stop()
        this.#started = false
        this.#offset = 0
        this.#unsent = this.#all
        left = this.#unsent.length
      }
    }
  }
}

/** Text that does not end within a character: a piece of a model's answer may. The last piece is taken as it is. */
function whole(text: string, last: boolean): string {
  const code = text.charCodeAt(text.length - 1)
  const half = code >= 0xd800 && code <= 0xdbff
  return half && !(last && text.length === 1) ? text.slice(0, -1) : text
}
