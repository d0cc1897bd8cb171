// Replies that are JSON text already: what a run has thousands of goes from Postgres to the client without ever being
// an object here. Making objects of rows and text of objects again costs several times what reading them does.

/** A JSON value as text. `T` is what the text says; its maker vouches for that. */
export class Encoded<T> {
  readonly text: string
  /** Keeps the type; never there. */
  declare readonly says?: T

  constructor(text: string) {
    this.text = text
  }
}

/** The text of a reply, whether it is text already or a value. */
export const textOf = (reply: unknown): string => (reply instanceof Encoded ? reply.text : JSON.stringify(reply))

/** The text of an object of which each field is text. */
export function objectText<T extends object>(fields: { readonly [Field in keyof T]-?: string }): string {
  let text = ''
  for (const field in fields) text += `${text === '' ? '{' : ','}"${field}":${fields[field]}`
  return `${text || '{'}}`
}

/**
 * An array of which each row is an item.
 *
 * @param toText JSON of a row, in one template: what is put together of more pieces costs several times as much
 */
export function encodeRows<T, Row>(rows: readonly Row[], toText: (row: Row) => string): Encoded<T[]> {
  const pages: string[] = []
  // A page at a time, so that the pieces of a long answer are not kept until its end.
  for (let at = 0; at < rows.length; at += rowsAtOnce) {
    pages.push(
      rows
        .slice(at, at + rowsAtOnce)
        .map(toText)
        .join(','),
    )
  }
  return new Encoded(`[${pages.join(',')}]`)
}

const rowsAtOnce = 64

/** JSON of a column of type json. */
export const jsonText = (column: string | null): string => column ?? 'null'

const plain = /^[ !#-[\]-~]*$/

/** JSON of a text column. */
export function stringText(column: string | null): string {
  if (column === null) return 'null'
  return plain.test(column) ? `"${column}"` : JSON.stringify(column)
}

/** SQL: a point in time, as `timeText` reads it whatever the session's time zone. */
export const utc = (column: string) => `${column} at time zone 'UTC' as ${column}`

/** JSON of a column selected by `utc`: ISO 8601 with milliseconds. Postgres leaves out zeros at the end. */
export function timeText(column: string | null): string {
  if (column === null) return 'null'
  if (column.length >= 23) return `"${column.slice(0, 10)}T${column.slice(11, 23)}Z"`
  return `"${column.slice(0, 10)}T${column.slice(11, 19)}.${column.slice(20).padEnd(3, '0')}Z"`
}
