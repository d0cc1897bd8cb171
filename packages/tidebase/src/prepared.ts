// Prepared statements, as short as the protocol allows.
//
// The driver's own query asks Postgres to describe the result each time and reads that description anew: for one small row
// that costs more than the row. Here a statement is parsed and described when a connection first meets it; after that
// it is bind, execute, sync (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY). The
// rest (connection, queue, timeouts, what comes in) stays the driver's, which takes such objects from its cursors too. What
// is used of it is named here, so that db.ts stays the one place that opens connections.

/** A statement that is prepared once per connection. */
export interface Named {
  /** Unique among all. */
  name: string
  text: string
}

/** A column of a result: its name, and what makes a value of its text. */
interface Column {
  name: string
  parse: (text: string) => unknown
}

/** A connection as the driver hands it to what it executes: each call is a message. */
interface Connection {
  readonly stream: { cork(): void; uncork(): void }
  close(statement: { type: 'S'; name: string }, more: boolean): void
  parse(statement: { name: string; text: string; types: string[] }, more: boolean): void
  describe(statement: { type: 'S'; name: string }, more: boolean): void
  bind(to: { statement: string; values: Values }, more: boolean): void
  execute(portal: null, more: boolean): void
  sync(): void
}

/** Which parser a column of a type gets. */
interface Types {
  getTypeParser(oid: number, format: 'text'): (text: string) => unknown
}

/** What a connection knows of the statements it has prepared. */
const known = new WeakMap<Connection, Map<string, Column[]>>()

type Values = (string | Buffer | null)[]
/** The columns of a row as Postgres writes them. */
export type Texts = (string | null)[]
/** How a row is wanted. */
type Read<Row> = (columns: readonly Column[], texts: Texts) => Row

/** One execution, on its way through a connection. The driver calls its methods. */
class Execution<Row extends object> {
  readonly name: string
  readonly text: string
  readonly values: Values
  /** The driver puts its own timeout around it. */
  callback: (error: unknown, rows: Row[]) => void
  readonly #types: Types
  readonly #read: Read<Row>
  readonly #rows: Row[] = []
  #columns: Column[] = []
  #prepared = new Map<string, Column[]>()
  #failed: unknown

  constructor(
    { name, text }: Named,
    values: Values,
    types: Types,
    read: Read<Row>,
    callback: (error: unknown, rows: Row[]) => void,
  ) {
    this.name = name
    this.text = text
    this.values = values
    this.#types = types
    this.#read = read
    this.callback = callback
  }

  submit(connection: Connection): void {
    const { name, text, values } = this
    this.#prepared = known.get(connection) ?? new Map()
    known.set(connection, this.#prepared)
    const columns = this.#prepared.get(name)
    connection.stream.cork()
    if (columns) this.#columns = columns
    else {
      // Closed first: a statement whose first execution failed may be there already.
      connection.close({ type: 'S', name }, true)
      connection.parse({ name, text, types: [] }, true)
      connection.describe({ type: 'S', name }, true)
    }
    connection.bind({ statement: name, values }, true)
    connection.execute(null, true)
    connection.sync()
    connection.stream.uncork()
  }

  handleRowDescription({ fields }: { fields: { name: string; dataTypeID: number }[] }): void {
    this.#columns = fields.map(({ name, dataTypeID }) => ({
      name,
      parse: this.#types.getTypeParser(dataTypeID, 'text'),
    }))
  }

  handleDataRow({ fields }: { fields: Texts }): void {
    try {
      this.#rows.push(this.#read(this.#columns, fields))
    } catch (error) {
      this.#failed ??= error
    }
  }

  handleCommandComplete(): void {
    this.#prepared.set(this.name, this.#columns)
  }

  handleError(error: unknown): void {
    if (isStale(error)) this.#prepared.delete(this.name)
    this.callback(error, [])
  }

  handleReadyForQuery(): void {
    this.callback(this.#failed, this.#rows)
  }
}

/** A row as an object by column. */
export function toObject<Row extends object>(columns: readonly Column[], texts: Texts): Row
export function toObject(columns: readonly Column[], texts: Texts): object {
  const row: Record<string, unknown> = {}
  let n = 0
  for (const { name, parse } of columns) {
    const text = texts[n++] ?? null
    row[name] = text === null ? null : parse(text)
  }
  return row
}

/** A row as Postgres wrote it. */
export function asTexts<Row extends Texts>(columns: readonly Column[], texts: Texts): Row
export function asTexts(_: readonly Column[], texts: Texts): Texts {
  return texts
}

/**
 * Whether a table has other columns since the statement was prepared: another server has migrated. Nothing was done. Told by
 * where in Postgres it comes from: its code has other meanings, its message other languages.
 */
function isStale(error: unknown): boolean {
  return error instanceof Error && 'routine' in error && error.routine === 'RevalidateCachedQuery'
}

/**
 * Runs a statement on a connection, prepared there by its name.
 *
 * @param options types: which parser a column of a type gets; read: `toObject` or `asTexts`
 * @returns its rows
 * @throws what the driver throws
 */
export function execute<Row extends object>(
  client: { query(execution: Execution<Row>): unknown },
  statement: Named,
  values: unknown[] | undefined,
  { types, read }: { types: Types; read: Read<Row> },
): Promise<Row[]> {
  const texts = values?.map(parameter) ?? []
  return new Promise((resolve, reject) => {
    const submit = (failed: (error: unknown) => void) => {
      const settle = (error: unknown, rows: Row[]) => (error ? failed(error) : resolve(rows))
      client.query(new Execution<Row>(statement, texts, types, read, settle))
    }
    submit((error) => (isStale(error) ? submit(reject) : reject(error)))
  })
}

/** A value as Postgres reads it. */
function parameter(value: unknown): string | Buffer | null {
  if (typeof value === 'string') return value
  if (value === null || value === undefined) return null
  if (Buffer.isBuffer(value)) return value
  if (value instanceof Date) return value.toISOString()
  if (Array.isArray(value)) return `{${value.map(element).join(',')}}`
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}

/** An element of an array: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO */
function element(value: unknown): string {
  const text = parameter(value)
  if (text === null) return 'null'
  return `"${String(text).replace(/["\\]/g, '\\$&')}"`
}
