// Live events: one loop feeds all event streams of this server. A wake-up marks a run's streams as behind; the loop
// reads what they miss in one query, however many they are. Because a run's events are numbered without gaps under
// its row lock, a reader that asks for "after seq" misses nothing, whichever server wrote it.
import type { Database } from './db.ts'
import type { Caller } from './engine.ts'
import { type EventRow, readEvents, toEvent } from './events.ts'
import type { EventFeed } from './feed.ts'
import { slowPollMs } from './wait.ts'
import type { Wakeups } from './wakeups.ts'

/** Events of one run read at a time. */
const pageSize = 500
/** Time between two queries under load, ms: what a client may be behind for the sake of fewer queries. */
const pauseMs = 5
export const keepAliveMs = 15_000

interface Stream {
  project: number
  run: string
  after: number
  behind: boolean
  controller: ReadableStreamDefaultController<Uint8Array>
  unsubscribe(): void
}

const encoder = new TextEncoder()

/** The event streams of one server. */
export interface Streams {
  run: LiveEvents
  project: EventFeed
}

/** The event streams of runs. */
export class LiveEvents {
  readonly #db: Database
  readonly #wakeups: Wakeups
  readonly #streams = new Set<Stream>()
  readonly #keepAlive: NodeJS.Timeout
  readonly #slowPoll: NodeJS.Timeout
  #reading = false
  #closed = false

  constructor(db: Database, wakeups: Wakeups) {
    this.#db = db
    this.#wakeups = wakeups
    this.#keepAlive = setInterval(() => this.#comment(), keepAliveMs).unref()
    this.#slowPoll = setInterval(() => {
      for (const stream of this.#streams) stream.behind = true
      void this.#read()
    }, slowPollMs).unref()
  }

  /**
   * A body of server-sent events: the run's events after `after`, then what happens.
   *
   * @param run 32 hex digits
   */
  stream(caller: Caller, run: string, after: number): ReadableStream<Uint8Array> {
    let stream: Stream | undefined
    return new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          const mine: Stream = {
            project: caller.project,
            run,
            after,
            behind: true,
            controller,
            unsubscribe: this.#wakeups.onRun(caller.project, run, () => {
              mine.behind = true
              void this.#read()
            }),
          }
          stream = mine
          this.#streams.add(mine)
          // Tells the client that the stream is open, before there is any event.
          controller.enqueue(encoder.encode(': tidebase\n\n'))
        },
        pull: () => void this.#read(),
        cancel: () => {
          if (stream) this.#drop(stream)
        },
      },
      // Bytes; a client that does not read holds this much and no more.
      new ByteLengthQueuingStrategy({ highWaterMark: 256 * 1024 }),
    )
  }

  /** Ends every stream. */
  close(): void {
    this.#closed = true
    clearInterval(this.#keepAlive)
    clearInterval(this.#slowPoll)
    for (const stream of [...this.#streams]) {
      this.#drop(stream)
      stream.controller.close()
    }
  }

  #drop(stream: Stream): void {
    stream.unsubscribe()
    this.#streams.delete(stream)
  }

  #comment(): void {
    const comment = encoder.encode(': keep-alive\n\n')
    for (const { controller } of this.#streams) if ((controller.desiredSize ?? 0) > 0) controller.enqueue(comment)
  }

  async #read(): Promise<void> {
    if (this.#reading || this.#closed) return
    this.#reading = true
    try {
      for (;;) {
        const behind = [...this.#streams].filter(
          ({ behind, controller }) => behind && (controller.desiredSize ?? 0) > 0,
        )
        if (behind.length === 0 || this.#closed) return
        for (const stream of behind) stream.behind = false
        this.#deliver(behind, await readEvents(this.#db.hot, cursors(behind), pageSize))
        await new Promise((resolve) => setTimeout(resolve, pauseMs))
      }
    } catch {
      // The database is away: the slow poll tries again.
    } finally {
      this.#reading = false
    }
  }

  #deliver(streams: Stream[], rows: EventRow[]): void {
    const byRun = new Map<string, EventRow[]>()
    for (const row of rows) {
      const run = row.run_id.replaceAll('-', '')
      const known = byRun.get(run)
      if (known) known.push(row)
      else byRun.set(run, [row])
    }
    for (const stream of streams) {
      const all = byRun.get(stream.run) ?? []
      if (all.length === pageSize) stream.behind = true
      const mine = all.filter(({ seq }) => seq > stream.after)
      const last = mine.at(-1)
      if (!last || !this.#streams.has(stream)) continue
      stream.after = last.seq
      const frames = mine.map((row) => `id: ${row.seq}\ndata: ${JSON.stringify(toEvent(row))}\n\n`)
      stream.controller.enqueue(encoder.encode(frames.join('')))
    }
  }
}

/** One cursor per run: where its slowest stream stands. */
function cursors(streams: Stream[]): { project: number; run: string; after: number }[] {
  const slowest = new Map<string, { project: number; run: string; after: number }>()
  for (const { project, run, after } of streams) {
    const key = `${project}:${run}`
    const known = slowest.get(key)
    if (!known || after < known.after) slowest.set(key, { project, run, after })
  }
  return [...slowest.values()]
}
