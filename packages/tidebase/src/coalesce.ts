// Calls that arrive together leave together.
//
// A statement is set-based: it takes a JSON array of calls and answers one row per call. Its coalescer collects the
// calls of one turn of the event loop, or those that arrive while earlier ones are under way, and sends them as one
// statement: no timer, so an idle server adds no delay, and group commit under load. One call is a batch of one.
//
// Invariants:
// - At most `lanes` statements of a kind are under way; those of a group follow one another.
// - A run is in one batch at a time within this process. Batches of other servers may still hold its row; a statement
//   notices that the row changed between its snapshot and its lock and answers `again`. Such a call did nothing and
//   joins the next batch.
// - A caller's fault is never another's: when Postgres refuses a batch, its calls are tried one by one.
// - Deadlock victims are tried again. A lost connection is not: nobody knows what became of the statement, so the
//   callers are told (503), and every operation may be repeated safely.
import { setImmediate } from 'node:timers'
import { type Database, DatabaseError } from './db.ts'
import { ApiError } from './errors.ts'

/** A set-based statement. `Call` is one call as JSON, `Row` one answer. */
export interface Statement<Call extends object, Row extends object> {
  name: string
  /** SQL with one parameter `$1`: the calls as JSON text; `i` is a call's place among them, from 1. A row or more per `i`. */
  text: string
  /** For a call that leaves alone: the same SQL with a parameter for each column, which Postgres begins sooner. */
  alone: { name: string; text: string; values(call: object): unknown[] } | undefined
  /** Takes only what is simple: one call of a run at a time; the rest, and what it gives no row for, is `other`. */
  simple: boolean
  /** Calls that leave together at most. */
  most: number
  /** Phantom types, so that a statement knows its calls and rows. Never read. */
  call?: Call
  row?: Row
}

/** What every answer carries: which call it is for and what happened to it; `again` means nothing did. */
export interface Answer {
  i: number
  action: string
}

/**
 * Makes a statement out of its SQL.
 *
 * @param name unique; also the name of the prepared statement
 * @param columns of the `calls` table the SQL reads, as `name type`; `i` is added
 * @param body what follows `with calls as (…),`. As a function of how a column of the call is written where the call is
 *   `c`, it also gives the SQL for a call alone, whose columns are parameters.
 * @param simple see Statement; its calls come sorted by run, so that it may lock as it reads
 * @param most see Statement
 */
export function statement<Call extends object, Row extends object>(
  name: string,
  columns: string[],
  body: string | ((of: (column: string) => string) => string),
  { simple = false, most = 256 }: { simple?: boolean; most?: number } = {},
): Statement<Call, Row & Answer> {
  const names = columns.map((column) => column.slice(0, column.indexOf(' ')))
  const types = columns.map((column) => column.slice(column.indexOf(' ') + 1))
  const parameter = (column: string) => `$${names.indexOf(column) + 1}::${types[names.indexOf(column)]}`
  return {
    name,
    simple,
    most,
    // A text parameter: the driver would serialise a json one a second time.
    text: `with calls as materialized (
  select * from rows from (json_to_recordset($1::text::json) as (${columns.join(', ')})) with ordinality
    as c(${[...names, 'i'].join(', ')})
),\n${typeof body === 'string' ? body : body((column) => `c.${column}`)}`,
    alone:
      typeof body === 'string'
        ? undefined
        : {
            name: `${name}_alone`,
            text: `with calls as (select 1 as i),\n${body(parameter)}`,
            values: (call) => names.map((column, n) => parameterOf(Reflect.get(call, column), types[n])),
          },
  }
}

/** What the driver would make of an object, or of an array, is not always JSON. */
function parameterOf(value: unknown, type: string | undefined): unknown {
  return type?.startsWith('json') && value !== undefined && value !== null ? JSON.stringify(value) : value
}

interface Pending {
  call: object
  /** The run it touches, so that no two batches hold it at once; none for calls that touch no existing run. */
  run: string | undefined
  tries: number
  /** Alone after a refusal: must not take others down. */
  alone: boolean
  resolve(rows: Answer[]): void
  reject(error: unknown): void
}

const other: Answer[] = [{ i: 1, action: 'other' }]
const maxTries = 200

/** The coalescers of one server: one per statement. */
export class Coalescers {
  readonly #db: Database
  readonly #lanes: number
  readonly #lanesByKey = new Map<string, Lane>()
  readonly #busyRuns = new Set<string>()

  /** @param lanes how many statements of a kind may be under way at once */
  constructor(db: Database, lanes = 2) {
    this.#db = db
    this.#lanes = lanes
  }

  /**
   * Runs one call of a statement, together with others.
   *
   * @param group calls of different groups never share a batch; batches of one group follow one another, because they
   *   want the same rows
   * @returns the call's rows, at least one
   * @throws ApiError `database_unavailable`; `contention` when its run never held still
   * @throws DatabaseError what Postgres refused this very call for
   */
  submit<Call extends object, Row extends Answer>(of: Statement<Call, Row>, call: Call, group = ''): Promise<Row[]> {
    const key = group ? `${of.name} ${group}` : of.name
    let lane = this.#lanesByKey.get(key)
    if (!lane) {
      lane = { key, statement: of, atOnce: group ? 1 : this.#lanes, pending: [], underWay: 0, scheduled: false }
      this.#lanesByKey.set(key, lane)
    }
    const mine = lane
    return new Promise<Row[]>((resolve, reject) => {
      // The statement's own SQL decides the row's shape; this is where its type is taken at its word.
      mine.pending.push({
        call,
        run: runOf(call),
        tries: 0,
        alone: false,
        resolve: resolve as (rows: Answer[]) => void,
        reject,
      })
      this.#schedule(mine)
    })
  }

  #schedule(lane: Lane): void {
    if (lane.scheduled || lane.underWay >= lane.atOnce || lane.pending.length === 0) return
    lane.scheduled = true
    // After this turn's sockets were read: requests that came in together share a batch.
    setImmediate(() => {
      lane.scheduled = false
      while (lane.underWay < lane.atOnce && this.#send(lane)) {}
    })
  }

  /** Sends the calls whose runs are free. Returns whether there were any. */
  #send(lane: Lane): boolean {
    const batch: Pending[] = []
    const later: Pending[] = []
    const others: Pending[] = []
    const runs = new Set<string>()
    for (const item of lane.pending) {
      const { run } = item
      const free = run === undefined || runs.has(run) || !this.#busyRuns.has(run)
      if (!free || batch.length >= lane.statement.most || batch[0]?.alone || (item.alone && batch.length > 0)) {
        later.push(item)
        continue
      }
      if (lane.statement.simple && run !== undefined && runs.has(run)) {
        others.push(item)
        continue
      }
      batch.push(item)
      if (run !== undefined) {
        runs.add(run)
        this.#busyRuns.add(run)
      }
    }
    if (batch.length === 0) return false
    if (lane.statement.simple && runs.size > 0) batch.sort((a, b) => ((a.run ?? '') < (b.run ?? '') ? -1 : 1))
    for (const { resolve } of others) resolve(other)
    lane.pending = later
    lane.underWay++
    void this.#run(lane, batch).finally(() => {
      lane.underWay--
      for (const run of runs) this.#busyRuns.delete(run)
      if (lane.underWay === 0 && lane.pending.length === 0) this.#lanesByKey.delete(lane.key)
      // A run that is free now may be what another statement's call waits for.
      for (const each of this.#lanesByKey.values()) this.#schedule(each)
    })
    return true
  }

  async #run(lane: Lane, batch: Pending[]): Promise<void> {
    let rows: Answer[]
    try {
      const { statement } = lane
      const [first] = batch
      rows = await (statement.alone && first && batch.length === 1
        ? this.#db.hot.query<Answer>(statement.alone, statement.alone.values(first.call))
        : this.#db.hot.query<Answer>(statement, [JSON.stringify(batch.map(({ call }) => call))]))
    } catch (error) {
      this.#refused(lane, batch, error)
      return
    }
    const answers = batch.map((): Answer[] => [])
    for (const row of rows) answers[row.i - 1]?.push(row)
    batch.forEach((item, n) => {
      const mine = answers[n] ?? []
      if (mine.length === 0 && lane.statement.simple) item.resolve(other)
      else if (mine.length === 0) item.reject(new Error(`${lane.statement.name} did not answer call ${n + 1}`))
      else if (mine[0]?.action === 'again') this.#again(lane, item)
      else item.resolve(mine)
    })
  }

  #refused(lane: Lane, batch: Pending[], error: unknown): void {
    const refused = error instanceof DatabaseError
    for (const item of batch) {
      if (refused && error.retryable) this.#again(lane, item)
      else if (refused && batch.length > 1) {
        item.alone = true
        lane.pending.push(item)
      } else item.reject(error)
    }
  }

  #again(lane: Lane, item: Pending): void {
    if (++item.tries >= maxTries) item.reject(new ApiError('contention'))
    else lane.pending.push(item)
  }
}

function runOf(call: object): string | undefined {
  return 'run' in call && typeof call.run === 'string' ? call.run : undefined
}

interface Lane {
  key: string
  statement: Pick<Statement<object, Answer>, 'name' | 'text' | 'alone' | 'simple' | 'most'>
  /** Statements that may be under way. */
  atOnce: number
  pending: Pending[]
  underWay: number
  scheduled: boolean
}
