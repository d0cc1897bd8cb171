/**
 * An HTTP/1.1 client for the unix socket of one pod process: a request on a kept-alive connection, one at a time on
 * each. Made for the gateway, which had spent most of its time in a client for everything; see docs/notes/0003.
 *
 * Invariants
 * - A connection serves another request only when the last one and its answer ended cleanly and nothing came after.
 * - What may have reached the pod is repeated here only if it may be repeated and its connection was an old one that
 *   the pod closed before a byte of the answer: on a new connection, once.
 * - `failed` or `end` is called once, unless the request was aborted.
 * - Memory is bounded: a slow pod slows the request's body, a slow reader the answer.
 */
import type { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { connectInside } from '../drivers/inside.ts'
import { type AnswerListener, AnswerReader } from './answer.ts'

export interface PodRequest {
  method: string
  /** Request line and headers, each with its line end, without those that tell where the body ends. */
  head: string
  body: Readable | undefined
  /** What the head of the client says of the body's length; without it the body goes in chunks. */
  length: string | undefined
  /** Repeating it does no harm. */
  repeatable: boolean
}

export interface PodListener extends AnswerListener {
  /** The head has come; the body has not begun. */
  waiting(): void
  failed(error: Error, stage: Stage): void
}

/** How far a request that failed had come: the pod cannot have seen it, may have, or has begun to answer. */
export type Stage = 'unsent' | 'sent' | 'answered'

/** A request under way. */
export interface PodCall {
  abort(): void
  pause(): void
  resume(): void
}

const maxIdle = 64
/** A connection is not used when its pod would close it about now, s. */
const closingSeconds = 1
/** Connecting is tried again while more wait to be accepted than the system queues. */
const crowded = { tries: 200, ms: 10 }

/** Makes the client for the socket at `path`. */
export function createPodClient(path: string) {
  const idle: Connection[] = []
  const all = new Set<Connection>()
  const later = new Set<NodeJS.Timeout>()
  let closed = false

  class Call implements PodCall {
    readonly request: PodRequest
    readonly listener: PodListener
    connection: Connection | undefined
    tries = 0
    over = false

    constructor(request: PodRequest, listener: PodListener) {
      this.request = request
      this.listener = listener
    }

    begin(fresh: boolean): void {
      const connection = (fresh ? undefined : takeIdle()) ?? new Connection()
      this.connection = connection
      connection.send(this)
    }

    abort(): void {
      if (this.over) return
      this.over = true
      this.connection?.drop()
    }

    pause(): void {
      if (!this.over) this.connection?.socket.pause()
    }

    resume(): void {
      if (!this.over) this.connection?.socket.resume()
    }

    fail(error: Error, stage: Stage): void {
      if (this.over) return
      this.over = true
      this.listener.failed(error, stage)
    }
  }

  class Connection {
    readonly socket: Socket
    #call: Call | undefined
    #reader: AnswerReader | undefined
    #connected = false
    #served = 0
    #bodySent = true
    #usableUntil = 0

    constructor() {
      all.add(this)
      this.socket = connectInside(path)
        .on('connect', () => {
          this.#connected = true
          this.#sendBody()
        })
        .on('data', (chunk: Buffer) => this.#read(chunk))
        .on('drain', () => {
          if (!this.#bodySent) this.#call?.request.body?.resume()
        })
        .on('end', () => this.#ended(new Error('the connection was closed before the answer was whole')))
        .on('error', (error) => this.#lost(error))
        .on('close', () => this.#ended(new Error('the connection was closed before the answer')))
    }

    get usable(): boolean {
      return !this.socket.destroyed && performance.now() < this.#usableUntil
    }

    send(call: Call): void {
      this.#call = call
      const { method, head, body, length } = call.request
      this.#reader = new AnswerReader(method, {
        head: (status, message, headers) => call.listener.head(status, message, headers),
        data: (chunk) => call.listener.data(chunk),
        end: (last) => this.#finished(last),
      })
      const framing = !body
        ? '\r\n'
        : length === undefined
          ? 'transfer-encoding: chunked\r\n\r\n'
          : `content-length: ${length}\r\n\r\n`
      this.socket.write(head + framing, 'latin1')
      this.#bodySent = body === undefined
      if (this.#connected) this.#sendBody()
    }

    drop(): void {
      this.#stopBody()
      this.#call = undefined
      this.socket.destroy()
      this.#forget()
    }

    #forget(): void {
      all.delete(this)
      const at = idle.indexOf(this)
      if (at >= 0) idle.splice(at, 1)
    }

    /** Begun when connected: a body that was read could not be given to another process. */
    #sendBody(): void {
      const body = this.#call?.request.body
      if (!body || this.#bodySent) return
      body.on('data', this.#bodyData)
      body.on('end', this.#bodyEnd)
    }

    #stopBody(): void {
      const body = this.#call?.request.body
      if (!body || this.#bodySent) return
      body.off('data', this.#bodyData)
      body.off('end', this.#bodyEnd)
      // The client's connection goes on only when what it still sends is read.
      if (this.#connected) body.resume()
    }

    #bodyData = (chunk: Buffer): void => {
      const request = this.#call?.request
      if (!request || chunk.length === 0) return
      const { socket } = this
      let room: boolean
      if (request.length !== undefined) room = socket.write(chunk)
      else {
        socket.cork()
        socket.write(`${chunk.length.toString(16)}\r\n`, 'latin1')
        socket.write(chunk)
        room = socket.write('\r\n', 'latin1')
        socket.uncork()
      }
      if (!room) request.body?.pause()
    }

    #bodyEnd = (): void => {
      if (this.#call?.request.length === undefined) this.socket.write('0\r\n\r\n', 'latin1')
      this.#bodySent = true
    }

    #read(chunk: Buffer): void {
      const call = this.#call
      // Nobody asked.
      if (!call || !this.#reader) return void this.drop()
      try {
        const wasHead = this.#reader.inHead
        this.#reader.read(chunk)
        if (wasHead && this.#call === call && this.#reader.waiting) call.listener.waiting()
      } catch (error) {
        this.drop()
        call.fail(error instanceof Error ? error : new Error(String(error)), 'answered')
      }
    }

    #finished(last: Buffer | undefined): void {
      const call = this.#call
      const reader = this.#reader
      if (!call || !reader) return
      if (reader.reusable && this.#bodySent && !this.socket.destroyed && idle.length < maxIdle) {
        this.#call = undefined
        this.#reader = undefined
        this.#served += 1
        this.#usableUntil = performance.now() + ((reader.keepAliveSeconds ?? 5) - closingSeconds) * 1000
        if (this.socket.isPaused()) this.socket.resume()
        idle.push(this)
      } else this.drop()
      call.over = true
      call.listener.end(last)
    }

    #ended(error: Error): void {
      if (!this.#call) return void this.drop()
      if (this.#reader?.close()) return
      this.#lost(error)
    }

    #lost(error: NodeJS.ErrnoException): void {
      const call = this.#call
      const stage = this.#reader?.begun ? 'answered' : this.#connected ? 'sent' : 'unsent'
      const old = this.#served > 0
      this.drop()
      if (!call || call.over) return
      const { request } = call
      if (closed) return void call.fail(error, stage)
      if (old && stage === 'sent' && request.repeatable && !request.body) return void call.begin(true)
      if (stage === 'unsent' && error.code === 'EAGAIN' && ++call.tries < crowded.tries) {
        const timer = setTimeout(() => {
          later.delete(timer)
          if (!call.over) call.begin(false)
        }, crowded.ms)
        later.add(timer)
        return
      }
      call.fail(error, stage)
    }
  }

  /** The one used last: the others grow old and are closed. */
  function takeIdle(): Connection | undefined {
    for (;;) {
      const connection = idle.pop()
      if (!connection || connection.usable) return connection
      connection.drop()
    }
  }

  return {
    /** Sends a request. The listener hears of it later, never during this call. */
    send(request: PodRequest, listener: PodListener): PodCall {
      const call = new Call(request, listener)
      call.begin(false)
      return call
    },
    /** Whether requests are under way. */
    get busy(): boolean {
      return all.size > idle.length || later.size > 0
    },
    /** Ends all connections; requests under way fail. */
    close(): void {
      closed = true
      for (const timer of later) clearTimeout(timer)
      for (const connection of all) connection.socket.destroy()
    },
  }
}

export type PodClient = ReturnType<typeof createPodClient>
