// Small tables. They scroll by themselves where a window is narrower than they are.
import type { ComponentChildren } from 'preact'

/** A table with a name for those who cannot see it. */
export function Table({
  label,
  columns,
  rows,
}: {
  label: string
  columns: string[]
  rows: { key: string; cells: ComponentChildren[] }[]
}) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
    <section class="scrolls" tabIndex={0} aria-label={label}>
      <table>
        <thead>
          <tr>
            {columns.map((column) => (
              <th key={column} scope="col">
                {column}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map(({ key, cells }) => (
            <tr key={key}>
              {cells.map((cell, n) => (
                <td key={columns[n]}>{cell}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  )
}
