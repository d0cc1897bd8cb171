// The only place that knows the database driver: pools, transactions, notifications, and what its errors mean.
//
// Two pools. `hot` runs the set-based statements: prepared once, planned once for any parameters (a fresh plan costs
// more than running it), and never by scanning a table (a plan made while a table is small must still be right when
// it has grown). `cold` plans every query for its parameters: lists, details, the reconciler.
// Driver chosen by measurement: docs/notes/0001-database-driver.md.
import pg from 'pg'
import { ApiError } from './errors.ts'
import { asTexts, execute, type Named, type Texts, toObject } from './prepared.ts'

/** Where the database is: a connection string, or the embedded database's socket. */
export type Connection = { connectionString: string } | { host: string; port: number; user: string; database: string }

/** What statements run on: a pool or a transaction. */
export interface Queryable {
  /**
   * Runs one statement.
   *
   * @param text SQL; a value with a `name` is prepared once per connection
   * @throws ApiError `database_unavailable` when the connection is gone or nothing answers in time
   * @throws DatabaseError for what Postgres refuses
   */
  query<Row extends object>(text: string | Named, values?: unknown[]): Promise<Row[]>
  /**
   * Runs one prepared statement and leaves its rows as Postgres wrote them: a text or null for each column. Costs a
   * fraction of `query` where rows are many.
   *
   * @throws as `query`
   */
  texts<Row extends Texts>(statement: Named, values?: unknown[]): Promise<Row[]>
}

/** An error that Postgres answered with. */
export class DatabaseError extends Error {
  /** SQLSTATE, see https://www.postgresql.org/docs/current/errcodes-appendix.html */
  readonly sqlState: string
  readonly constraint: string | undefined

  constructor(cause: pg.DatabaseError) {
    super(cause.message, { cause })
    this.name = 'DatabaseError'
    this.sqlState = cause.code ?? ''
    this.constraint = cause.constraint
  }

  /** Whether the same statement may simply be run again: deadlock or serialisation failure. */
  get retryable(): boolean {
    return this.sqlState === '40P01' || this.sqlState === '40001'
  }
}

/** The SQLSTATEs we tell apart, by their names in the Postgres manual. */
export const sqlStates = { uniqueViolation: '23505', undefinedTable: '42P01', invalidSchemaName: '3F000' } as const

/** Connections to one database. */
export interface Database {
  hot: Queryable
  cold: Queryable
  /** Runs `work` in one transaction on the cold pool: commits when it resolves, else rolls back and rethrows. */
  transaction<T>(work: (tx: Queryable) => Promise<T>): Promise<T>
  /**
   * Calls `heard` for every notification on `channel`, reconnecting by itself; `connected` after each (re)connect,
   * because what was sent meanwhile is lost.
   */
  listen(channel: string, heard: (payload: string) => void, connected: () => void): void
  /** Closes every connection. Statements under way finish first. */
  close(): Promise<void>
}

// Classes 08 (connection), 57P (shutdown, crash, not yet ready), 57014 (took too long), 53 (out of connections, memory,
// disk), 25006 (standby).
const unavailable = /^(08|57P|57014|53|25006|58)/

const types: pg.CustomTypesConfig = {
  getTypeParser(oid, format) {
    // int8 and numeric: counters and money of one run fit a double.
    if (oid === pg.types.builtins.INT8 || oid === pg.types.builtins.NUMERIC) return Number
    return pg.types.getTypeParser(oid, format)
  },
}

/**
 * Opens the pools. Connections are made on first use, so this never fails.
 *
 * @param options.hot connections of the hot pool; `options.cold` of the cold one
 * @param options.timeoutMs how long a statement, or the wait for a connection, may take before it counts as lost
 */
export function openDatabase(
  connection: Connection,
  { hot = 8, cold = 5, timeoutMs = 10_000 }: { hot?: number; cold?: number; timeoutMs?: number } = {},
): Database {
  const base = {
    ...connection,
    types,
    application_name: 'tidebase',
    connectionTimeoutMillis: timeoutMs,
    // The server stops a statement first; the client gives up on a server that does not answer at all.
    statement_timeout: timeoutMs,
    query_timeout: timeoutMs + 2_000,
    idle_in_transaction_session_timeout: timeoutMs,
    keepAlive: true,
    allowExitOnIdle: true,
  }
  // Short statements with long plans: compiling them would take longer than they do.
  const hotPool = new pg.Pool({
    ...base,
    max: hot,
    idleTimeoutMillis: 0,
    options: '-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c jit=off',
  })
  const coldPool = new pg.Pool({ ...base, max: cold, idleTimeoutMillis: 30_000 })
  for (const pool of [hotPool, coldPool]) {
    // An idle connection that breaks reports here and nowhere else; the pool replaces it.
    pool.on('error', () => {})
    // One that breaks in use reports to itself, beside the statement's own failure; unheard it would end the process.
    pool.on('connect', (client) => client.on('error', () => {}))
  }

  let listener: pg.Client | undefined
  let retry: NodeJS.Timeout | undefined
  let closed = false

  return {
    hot: onPool(hotPool),
    cold: onPool(coldPool),

    async transaction(work) {
      const client = await connect(coldPool)
      try {
        await client.query('begin')
        const result = await work({
          query: (text, values) => query(client, text, values),
          texts: (statement, values) => texts(client, statement, values),
        })
        await client.query('commit')
        client.release()
        return result
      } catch (error) {
        // A failed rollback leaves the connection in doubt: it is thrown away.
        await client.query('rollback').then(
          () => client.release(),
          () => client.release(true),
        )
        throw translate(error)
      }
    },

    listen(channel, heard, connected) {
      const start = async () => {
        if (closed) return
        const client = new pg.Client({ ...base, statement_timeout: 0, query_timeout: 0 })
        listener = client
        const again = () => {
          client.removeAllListeners()
          client.on('error', () => {})
          client.end().catch(() => {})
          if (closed || listener !== client) return
          listener = undefined
          retry = setTimeout(start, 500)
        }
        client.once('error', again)
        client.once('end', again)
        client.on('notification', (message) => heard(message.payload ?? ''))
        try {
          await client.connect()
          await client.query(`listen ${client.escapeIdentifier(channel)}`)
          connected()
        } catch {
          again()
        }
      }
      void start()
    },

    async close() {
      closed = true
      clearTimeout(retry)
      const client = listener
      listener = undefined
      await Promise.all([hotPool.end(), coldPool.end(), client?.end().catch(() => {})])
    },
  }
}

function onPool(pool: pg.Pool): Queryable {
  const onClient = async <Row>(work: (client: pg.PoolClient) => Promise<Row[]>) => {
    const client = await connect(pool)
    try {
      const rows = await work(client)
      client.release()
      return rows
    } catch (error) {
      client.release(!(error instanceof DatabaseError))
      throw error
    }
  }
  return {
    query: (text, values) => onClient((client) => query(client, text, values)),
    texts: (statement, values) => onClient((client) => texts(client, statement, values)),
  }
}

async function connect(pool: pg.Pool): Promise<pg.PoolClient> {
  try {
    return await pool.connect()
  } catch (error) {
    throw translate(error)
  }
}

async function query<Row extends object>(
  client: pg.PoolClient,
  text: string | Named,
  values: unknown[] | undefined,
): Promise<Row[]> {
  try {
    if (typeof text === 'object') return await execute<Row>(client, text, values, { types, read: toObject })
    return (await client.query<Row>({ text, values })).rows
  } catch (error) {
    throw translate(error)
  }
}

async function texts<Row extends Texts>(
  client: pg.PoolClient,
  statement: Named,
  values: unknown[] | undefined,
): Promise<Row[]> {
  try {
    return await execute<Row>(client, statement, values, { types, read: asTexts })
  } catch (error) {
    throw translate(error)
  }
}

function translate(error: unknown): unknown {
  if (error instanceof ApiError || error instanceof DatabaseError) return error
  if (error instanceof pg.DatabaseError && error.code) {
    return unavailable.test(error.code)
      ? new ApiError('database_unavailable', undefined, { cause: error })
      : new DatabaseError(error)
  }
  // Whatever else the driver throws is about the connection: refused, reset, timed out, ended, no such socket.
  return new ApiError('database_unavailable', undefined, { cause: error })
}
