// Wake-ups: tells whoever waits (long-polls, event streams, the outbox) that something may have changed.
//
// Within a server a wake-up is a function call after the commit. To other servers goes one NOTIFY for all that
// happened since the last one, on its own and after the commit: a NOTIFY inside the hot transactions would make their
// commits queue up behind each other. It is sent only while other servers are seen. Notifications may be lost, so
// every waiter also looks by itself now and then.
import type { Database } from './db.ts'
import { newId } from './ids.ts'

const channel = 'tidebase'
/** Postgres takes payloads up to 8,000 bytes; a key is at most 45. */
const maxKeys = 150

/** Something to wake up for. */
type Wake = () => void

/** One server's wake-ups. */
export class Wakeups {
  readonly #db: Database
  readonly #serverId = newId()
  readonly #waiting = new Map<string, Set<Wake>>()
  readonly #outbox = new Set<Wake>()
  readonly #anything = new Set<Wake>()
  #peers = false
  #unsent = new Set<string>()
  #sending = false
  #closed = false

  constructor(db: Database) {
    this.#db = db
  }

  /** Starts to hear other servers. */
  listen(): void {
    this.#db.listen(
      channel,
      (payload) => this.#hear(payload),
      () => {
        this.#wakeAll()
        // Whoever hears it knows from now on that there is somebody to tell.
        void this.#notify([])
      },
    )
  }

  /** The run has changed. @param run 32 hex digits */
  run(project: number, run: string): void {
    this.#tell(`r:${project}:${run}`)
  }

  /** A run was created that stands in no queue. */
  created(project: number): void {
    this.#tell(`p:${project}`)
  }

  /** Text was added to a stream of the run. */
  streamed(project: number, run: string): void {
    this.#tell(`c:${project}:${run}`)
  }

  /** A run of the queue is ready, or will be. */
  queued(project: number, queue: string): void {
    this.#tell(`q:${project}:${queue}`)
  }

  /** A run of the queue ended: a capped queue may have room. */
  freed(project: number, queue: string): void {
    this.#tell(`f:${project}:${queue}`)
  }

  /** The outbox of this server has something to send. */
  outbox(): void {
    for (const wake of this.#outbox) wake()
  }

  /** Calls `wake` when the run has changed, until the returned function is called. */
  onRun(project: number, run: string, wake: Wake): () => void {
    return this.#on(`r:${project}:${run}`, wake)
  }

  /** Calls `wake` when text was added to a stream of the run. */
  onStreamed(project: number, run: string, wake: Wake): () => void {
    return this.#on(`c:${project}:${run}`, wake)
  }

  /** Calls `wake` when the queue has something. */
  onQueue(project: number, queue: string, wake: Wake): () => void {
    return this.#on(`q:${project}:${queue}`, wake)
  }

  /** Calls `wake` when a run of the queue ended. */
  onFreed(project: number, queue: string, wake: Wake): () => void {
    return this.#on(`f:${project}:${queue}`, wake)
  }

  /** Calls `wake` when the outbox has something. */
  onOutbox(wake: Wake): () => void {
    this.#outbox.add(wake)
    return () => this.#outbox.delete(wake)
  }

  /** Calls `wake` whenever anything happened to any run. */
  onAnything(wake: Wake): () => void {
    this.#anything.add(wake)
    return () => this.#anything.delete(wake)
  }

  /** Says that this server is alive and learns whether others are. Called by the reconciler. */
  async seePeers(): Promise<void> {
    const rows = await this.#db.cold.query<{ peers: number }>(
      `with mine as (
        insert into tidebase.servers (id) values ($1) on conflict (id) do update set seen_at = now()
      ), gone as (delete from tidebase.servers where seen_at < now() - interval '1 minute')
      select count(*) as peers from tidebase.servers where id <> $1 and seen_at > now() - interval '15 seconds'`,
      [this.#serverId],
    )
    this.#peers = (rows[0]?.peers ?? 0) > 0
  }

  /** Leaves the list of servers. */
  async close(): Promise<void> {
    this.#closed = true
    await this.#db.cold.query('delete from tidebase.servers where id = $1', [this.#serverId]).catch(() => {})
  }

  #on(key: string, wake: Wake): () => void {
    let waiting = this.#waiting.get(key)
    if (!waiting) {
      waiting = new Set()
      this.#waiting.set(key, waiting)
    }
    const mine = waiting
    mine.add(wake)
    return () => {
      mine.delete(wake)
      if (mine.size === 0 && this.#waiting.get(key) === mine) this.#waiting.delete(key)
    }
  }

  #tell(key: string): void {
    this.#wake(key)
    if (!this.#peers) return
    this.#unsent.add(key)
    void this.#send()
  }

  #wake(key: string): void {
    for (const wake of this.#waiting.get(key) ?? []) wake()
    if (!key.startsWith('c:')) for (const wake of this.#anything) wake()
  }

  #wakeAll(): void {
    for (const waiting of this.#waiting.values()) for (const wake of waiting) wake()
    for (const wake of this.#anything) wake()
    this.outbox()
  }

  async #send(): Promise<void> {
    if (this.#sending) return
    this.#sending = true
    while (this.#unsent.size > 0 && !this.#closed) {
      // Too many keys to name: everybody looks.
      const keys = this.#unsent.size > maxKeys ? [] : [...this.#unsent]
      this.#unsent = new Set()
      await this.#notify(keys)
    }
    this.#sending = false
  }

  /** Tells other servers. @param keys what to wake up for; none wakes all */
  async #notify(keys: string[]): Promise<void> {
    const payload = JSON.stringify([this.#serverId, ...keys])
    await this.#db.hot
      .query(
        {
          name: 'wakeups.notify',
          // No need to wait for the disk: the notification is sent at commit either way.
          text: `select set_config('synchronous_commit', 'off', true), pg_notify('${channel}', $1)`,
        },
        [payload.length < 7_900 ? payload : JSON.stringify([this.#serverId])],
      )
      .catch(() => {})
  }

  #hear(payload: string): void {
    let keys: unknown
    try {
      keys = JSON.parse(payload)
    } catch {
      return
    }
    if (!Array.isArray(keys) || keys[0] === this.#serverId) return
    this.#peers = true
    if (keys.length === 1) this.#wakeAll()
    else for (const key of keys.slice(1)) this.#wake(String(key))
  }
}
