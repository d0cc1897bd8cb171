// Live events: one loop feeds all event streams of this server. A wake-up marks a run's streams as behind; the loop
// reads what they miss in one query, however many they are. Because a run's events are numbered without gaps under
// its row lock, a reader that asks for "after seq" misses nothing, whichever server wrote it.
// What steps stream (chunks.ts) is read in the same round before the events, by offset.
import { type ChunkRow, type Offsets, readChunks } from './chunks.ts'
import type { Database } from './db.ts'
import type { Caller } from './engine.ts'
import { type EventRow, readEvents, toEvents } from './events.ts'
import type { EventFeed } from './feed.ts'
import { wireId } from './ids.ts'
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
  /** The same for token streams. */
  streaming: boolean
  offsets: Offsets
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
      for (const stream of this.#streams) {
        stream.behind = true
        stream.streaming = true
      }
      void this.#read()
    }, slowPollMs).unref()
  }

  /**
   * A body of server-sent events: the run's events after `after`, then what happens.
   *
   * @param run 32 hex digits
   * @param offsets where it goes on in the run's token streams
   */
  stream(caller: Caller, run: string, after: number, offsets: Offsets): ReadableStream<Uint8Array> {
    let stream: Stream | undefined
    return new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          const look = (what: 'behind' | 'streaming') => () => {
            mine[what] = true
            void this.#read()
          }
          const unsubscribe = [
            this.#wakeups.onRun(caller.project, run, look('behind')),
            this.#wakeups.onStreamed(caller.project, run, look('streaming')),
          ]
          const mine: Stream = {
            project: caller.project,
            run,
            after,
            behind: true,
            streaming: true,
            offsets,
            controller,
            unsubscribe: () => {
              for (const each of unsubscribe) each()
            },
          }
          stream = mine
          this.#streams.add(mine)
          // Tells the client that the stream is open, before there is any event.
          controller.enqueue(encoder.encode(': tidebase\n\n'))
        },
        pull: () => {
          if (stream?.behind || stream?.streaming) void this.#read()
        },
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
        const ready = [...this.#streams].filter(({ controller }) => (controller.desiredSize ?? 0) > 0)
        const behind = ready.filter(({ behind }) => behind)
        const streaming = ready.filter(({ streaming }) => streaming)
        if ((behind.length === 0 && streaming.length === 0) || this.#closed) return
        for (const stream of streaming) stream.streaming = false
        for (const stream of behind) stream.behind = false
        if (streaming.length > 0) this.#relay(streaming, await readChunks(this.#db.hot, places(streaming), pageSize))
        if (behind.length > 0) this.#deliver(behind, await readEvents(this.#db.hot, cursors(behind), pageSize))
        await new Promise((resolve) => setTimeout(resolve, pauseMs))
      }
    } catch {
      // The database is away: the slow poll tries again.
    } finally {
      this.#reading = false
    }
  }

  #relay(streams: Stream[], rows: ChunkRow[]): void {
    const full = new Set<string>()
    const counts = new Map<string, number>()
    for (const row of rows) {
      const key = `${row.run_id} ${row.stream}`
      const count = (counts.get(key) ?? 0) + 1
      counts.set(key, count)
      if (count === pageSize) full.add(row.run_id.replaceAll('-', ''))
    }
    for (const stream of streams) {
      if (full.has(stream.run)) stream.streaming = true
      if (!this.#streams.has(stream)) continue
      const frames = rows.flatMap((row) =>
        row.project === stream.project && row.run_id.replaceAll('-', '') === stream.run ? frame(stream, row) : [],
      )
      if (frames.length > 0) stream.controller.enqueue(encoder.encode(frames.join('')))
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
      const mine = all.flatMap(toEvents).filter(({ seq }) => seq > stream.after)
      const last = mine.at(-1)
      if (!last || !this.#streams.has(stream)) continue
      stream.after = last.seq
      const frames = mine.map((event) => `id: ${event.seq}\ndata: ${JSON.stringify(event)}\n\n`)
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

/** What a stream still lacks of a chunk, as a frame; moves its place. */
function frame({ run, offsets }: Stream, { stream, epoch, at, size, chunk, next_offset }: ChunkRow): string[] {
  const known = offsets.get(stream)
  const same = known && (known.epoch ?? epoch) === epoch && known.offset <= next_offset
  const offset = Math.max(at, same ? known.offset : 0)
  if (at + size <= offset) return []
  offsets.set(stream, { epoch, offset: at + size })
  const rest = offset === at ? chunk : [...chunk].slice(offset - at).join('')
  return [`event: chunk\ndata: ${JSON.stringify({ runId: wireId('run', run), stream, offset, chunk: rest })}\n\n`]
}

/** One cursor per run for its token streams: the earliest place of each that any reader stands at. */
function places(streams: Stream[]): Parameters<typeof readChunks>[1] {
  const readers = new Map<string, Stream[]>()
  for (const stream of streams) {
    const key = `${stream.project}:${stream.run}`
    readers.set(key, [...(readers.get(key) ?? []), stream])
  }
  return [...readers.values()].flatMap((all) => {
    const [first] = all
    if (!first) return []
    const earliest: Record<string, [epoch: number | null, offset: number]> = {}
    for (const [name, { epoch, offset }] of first.offsets) {
      const others = all.map(({ offsets }) => offsets.get(name))
      // Readers that stand in different epochs, or not in this stream at all, have it read from its start.
      if (others.some((other) => other?.epoch !== epoch)) continue
      earliest[name] = [epoch, Math.min(offset, ...others.map((other) => other?.offset ?? 0))]
    }
    return [{ project: first.project, run: first.run, places: earliest }]
  })
}
