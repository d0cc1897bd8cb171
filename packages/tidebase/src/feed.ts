// The event stream of a project: all its events in the order of their ids, backlog first, then live.
//
// Why nothing is skipped. Ids come from one sequence, but transactions commit in another order: 7 may become visible
// after 8. So ids count as read only up to `settled`, below which nothing can appear any more:
// - ids without a gap are settled as they are read;
// - at a gap the feed waits until it is filled, or until every transaction that could fill it has ended. Whoever takes
//   an id from the sequence holds a lock on the events table before and until its commit, and the sequence only rises:
//   once the holders of that lock seen after the gap are gone, a new look shows the gap as it will stay (a rollback,
//   deleted runs). Other transactions on the database, however long, hold nothing up.
// A stream's cursor is the id it saw last; all servers agree on it, because they agree on the order.
//
// Costs: an index entry per event. One loop reads the end of the table for all streams, while there is one.
import type { Database } from './db.ts'
import type { Caller } from './engine.ts'
import { type EventRow, toEvents } from './events.ts'
import { keepAliveMs } from './live.ts'
import { slowPollMs } from './wait.ts'
import type { Wakeups } from './wakeups.ts'

/** Events read at a time. */
const pageSize = 500
/** Ids looked through at a time for the backlog of one project, so that no query is long. */
const windowSize = 500_000
/** Time between two queries under load, ms. */
const pauseMs = 10

interface Stream {
  project: number
  /** Id of the last event sent; events up to it are not sent. Null: starts with what happens next. */
  after: number | null
  /** Has everything up to `settled`: is fed by the loop, needs no query of its own. */
  live: boolean
  controller: ReadableStreamDefaultController<Uint8Array>
}

/** Ids that are missing among those that were read. */
interface Gap {
  /** The last id that was visible when it was found: it says nothing about gaps after this. */
  upTo: number
  /** Transactions that may fill it; unknown at first, because most gaps are filled at once. */
  writers: Set<string> | undefined
  /** What is missing now stays missing. */
  final: boolean
}

type FeedRow = EventRow & { project: number }

const encoder = new TextEncoder()

/** The project streams of one server. */
export class EventFeed {
  readonly #db: Database
  readonly #wakeups: Wakeups
  readonly #streams = new Set<Stream>()
  readonly #keepAlive: NodeJS.Timeout
  readonly #slowPoll: NodeJS.Timeout
  #unsubscribe: (() => void) | undefined
  #settled: number | undefined
  #gap: Gap | undefined
  #woken = false
  #reading = false
  #closed = false

  constructor(db: Database, wakeups: Wakeups) {
    this.#db = db
    this.#wakeups = wakeups
    this.#keepAlive = setInterval(() => this.#comment(), keepAliveMs).unref()
    this.#slowPoll = setInterval(() => this.#wake(), slowPollMs).unref()
  }

  /**
   * A body of server-sent events: the project's events after `after`, then what happens.
   *
   * @param after id of the last event that the client has; `latest` for none of the backlog
   */
  stream(caller: Caller, after: number | 'latest'): ReadableStream<Uint8Array> {
    let stream: Stream | undefined
    return new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          stream = {
            project: caller.project,
            after: after === 'latest' ? null : after,
            live: false,
            controller,
          }
          this.#streams.add(stream)
          this.#unsubscribe ??= this.#wakeups.onAnything(() => this.#wake())
          controller.enqueue(encoder.encode(': tidebase\n\n'))
          this.#wake()
        },
        pull: () => this.#wake(),
        cancel: () => {
          if (stream) this.#drop(stream)
        },
      },
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
    this.#streams.delete(stream)
    if (this.#streams.size > 0) return
    this.#unsubscribe?.()
    this.#unsubscribe = undefined
  }

  #comment(): void {
    const comment = encoder.encode(': keep-alive\n\n')
    for (const stream of this.#streams) if (hasRoom(stream)) stream.controller.enqueue(comment)
  }

  #wake(): void {
    if (this.#streams.size === 0) return
    this.#woken = true
    void this.#read()
  }

  async #read(): Promise<void> {
    if (this.#reading || this.#closed) return
    this.#reading = true
    try {
      while (this.#woken && this.#streams.size > 0 && !this.#closed) {
        this.#woken = false
        const settled = this.#settled ?? (await this.#start())
        const more = await this.#advance(settled)
        const behind = await this.#catchUp()
        if (more || behind) this.#woken = true
        await new Promise((resolve) => setTimeout(resolve, pauseMs))
      }
    } catch {
      // The database is away: the slow poll tries again.
    } finally {
      this.#reading = false
      if (this.#streams.size === 0) {
        this.#settled = undefined
        this.#gap = undefined
      }
    }
  }

  /** Finds where the table ends, and waits for those who may still write before that. */
  async #start(): Promise<number> {
    const [row] = await this.#db.cold.query<{ last: number }>(
      'select coalesce(max(id), 0) as last from tidebase.events',
    )
    const last = row?.last ?? 0
    for (let writers = await this.#writers(); writers.size > 0 && !this.#closed; ) {
      await new Promise((resolve) => setTimeout(resolve, pauseMs))
      writers = common(writers, await this.#writers())
    }
    this.#settled = last
    return last
  }

  /** The transactions under way that hold the lock of a writer on the events table. */
  async #writers(): Promise<Set<string>> {
    const rows = await this.#db.cold.query<{ writer: string }>(
      `select virtualtransaction as writer from pg_locks
        where locktype = 'relation' and relation = 'tidebase.events'::regclass and mode = 'RowExclusiveLock' and granted
          and database = (select oid from pg_database where datname = current_database())`,
    )
    return new Set(rows.map(({ writer }) => writer))
  }

  /** Reads what was added to the table and feeds it to the live streams. Returns whether to look again at once. */
  async #advance(settled: number): Promise<boolean> {
    const gap = this.#gap
    if (gap && !gap.final) {
      const writers = await this.#writers()
      gap.writers = gap.writers ? common(gap.writers, writers) : writers
      gap.final = gap.writers.size === 0
    }
    const rows = await this.#db.hot.query<FeedRow>(
      {
        name: 'events.feed',
        text: `select id, project, run_id, seq, type, case when project = any ($3::integer[]) then payload end as payload, created_at
          from tidebase.events where id > $1 order by id limit $2`,
      },
      [settled, pageSize, `{${[...new Set([...this.#streams].map(({ project }) => project))]}}`],
    )
    const certain = this.#settle(settled, rows)
    this.#feed(settled, certain)
    return certain.length < rows.length || rows.length === pageSize
  }

  /** Moves `settled` over the rows that nothing can come before any more, and returns them. */
  #settle(from: number, rows: FeedRow[]): FeedRow[] {
    let settled = from
    let certain = 0
    for (const { id } of rows) {
      if (id !== following(settled) && !(this.#gap?.final && id <= this.#gap.upTo)) break
      settled = id
      certain++
    }
    this.#settled = settled
    const last = rows.at(-1)?.id ?? settled
    if (last === settled) this.#gap = undefined
    else if (!this.#gap || settled >= this.#gap.upTo) this.#gap = { upTo: last, writers: undefined, final: false }
    return rows.slice(0, certain)
  }

  #feed(before: number, rows: FeedRow[]): void {
    for (const stream of this.#streams) {
      if (!stream.live || rows.length === 0) continue
      if (hasRoom(stream)) send(stream, rows)
      else {
        // It reads slowly: it goes on from here when it has caught up.
        stream.after = Math.max(stream.after ?? 0, before)
        stream.live = false
      }
    }
  }

  /** A page of backlog for each stream that is behind and has room. Returns whether one stays behind. */
  async #catchUp(): Promise<boolean> {
    const settled = this.#settled ?? 0
    const behind = [...this.#streams].filter((stream) => !stream.live && hasRoom(stream))
    for (const stream of behind) {
      stream.after ??= settled
      const upTo = Math.min(settled, stream.after + windowSize)
      const rows =
        stream.after >= settled
          ? []
          : await this.#db.hot.query<FeedRow>(
              {
                name: 'events.backlog',
                text: `select id, project, run_id, seq, type, payload, created_at from tidebase.events
                  where id > $1 and id <= $2 and project = $3 order by id limit $4`,
              },
              [stream.after, upTo, stream.project, pageSize],
            )
      send(stream, rows)
      if (rows.length < pageSize) {
        stream.after = Math.max(stream.after, upTo)
        stream.live = upTo === settled
      }
    }
    return behind.some(({ live }) => !live)
  }
}

/** The id that the sequence gives after this one: even ones, since rows may hold two events. */
const following = (id: number) => (id % 2 === 0 ? id + 2 : id + 1)

const common = (a: Set<string>, b: Set<string>) => new Set([...a].filter((each) => b.has(each)))
const hasRoom = ({ controller }: Stream) => (controller.desiredSize ?? 0) > 0

function send(stream: Stream, rows: FeedRow[]): void {
  const mine = rows
    .filter(({ project }) => project === stream.project)
    .flatMap(toEvents)
    .filter(({ id }) => id > (stream.after ?? 0))
  const last = mine.at(-1)
  if (!last) return
  stream.after = last.id
  const frames = mine.map((event) => `id: ${event.id}\ndata: ${JSON.stringify(event)}\n\n`)
  stream.controller.enqueue(encoder.encode(frames.join('')))
}
