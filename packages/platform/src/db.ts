// Connections to Postgres: the only import of a driver in this package. Operations take a `Queryable`, a pool or a
// transaction, so that they compose.
import pg from 'pg'
import { PlatformError } from './errors.ts'

/** Where the database is: a connection string, or the embedded database's socket. */
export type Connection = { connectionString: string } | { host: string; port: number; user: string; database: string }

/** What statements run on: a pool or a transaction. */
export interface Queryable {
  /** Runs one statement. @throws PlatformError `unavailable` when the database does not answer */
  query<Row extends object>(text: string, values?: unknown[]): Promise<Row[]>
}

export interface Database extends Queryable {
  /** Commits when `work` resolves, else rolls back and rethrows. */
  transaction<T>(work: (tx: Queryable) => Promise<T>): Promise<T>
  close(): Promise<void>
}

/** A unique index refused a row. */
export class Taken extends Error {
  readonly constraint: string

  constructor(constraint: string) {
    super(`taken: ${constraint}`)
    this.name = 'Taken'
    this.constraint = constraint
  }
}

const timeoutMs = 15_000
// Classes 08 (connection), 57P (shutdown, crash), 53 (out of connections, memory, disk), 58 (system), and conflicts that
// the next try does not meet.
const passing = /^(08|57P|53|58|25006|40)/

const types: pg.CustomTypesConfig = {
  getTypeParser(oid, format) {
    // int8 and numeric: versions, sizes and ms since 1970 fit a double.
    if (oid === pg.types.builtins.INT8 || oid === pg.types.builtins.NUMERIC) return Number
    return pg.types.getTypeParser(oid, format)
  },
}

function translate(error: unknown): unknown {
  if (error instanceof PlatformError || error instanceof Taken) return error
  if (error instanceof pg.DatabaseError && error.code) {
    if (error.code === '23505') return new Taken(error.constraint ?? '')
    // NUL, half of a surrogate pair, an id that is none: what Postgres cannot read came from a request.
    if (['22021', '22P05', '22P02'].includes(error.code))
      return new PlatformError(
        'invalid',
        'A text has a form that cannot be kept, such as NUL or half of a surrogate pair.',
        {
          cause: error,
        },
      )
    if (!passing.test(error.code)) return error
  }
  return new PlatformError('unavailable', 'The database does not answer.', { cause: error })
}

/** Opens a pool. Connections are made on first use, so this never fails. */
export function openDatabase(connection: Connection, max = 16): Database {
  const pool = new pg.Pool({
    ...connection,
    types,
    max,
    application_name: 'tidepool',
    connectionTimeoutMillis: timeoutMs,
    statement_timeout: timeoutMs,
    query_timeout: timeoutMs + 2_000,
    idle_in_transaction_session_timeout: timeoutMs,
    keepAlive: true,
    idleTimeoutMillis: 60_000,
  })
  // A connection that breaks reports here and to the statement under way; unheard it would end the process.
  pool.on('error', () => {})
  pool.on('connect', (client) => client.on('error', () => {}))

  async function run<Row extends object>(client: pg.PoolClient, text: string, values: unknown[] = []): Promise<Row[]> {
    return (await client.query<Row>(text, values)).rows
  }

  async function connected<T>(work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
    let client: pg.PoolClient | undefined
    try {
      client = await pool.connect()
      const result = await work(client)
      client.release()
      return result
    } catch (error) {
      const translated = translate(error)
      client?.release(translated instanceof PlatformError && translated.code === 'unavailable')
      throw translated
    }
  }

  return {
    query: (text, values) => connected((client) => run(client, text, values)),
    transaction: (work) =>
      connected(async (client) => {
        await client.query('begin')
        try {
          const result = await work({ query: (text, values) => run(client, text, values) })
          await client.query('commit')
          return result
        } catch (error) {
          await client.query('rollback')
          throw error
        }
      }),
    close: () => pool.end(),
  }
}
