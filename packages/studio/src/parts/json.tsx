// JSON as people read it: a tree that opens where it is touched. Only text is ever put into the page.
import { useState } from 'preact/hooks'
import { Copy } from './basics.tsx'

const longest = 2_000
const most = 200

function Leaf({ value }: { value: unknown }) {
  const [whole, setWhole] = useState(false)
  const text = typeof value === 'string' ? value : JSON.stringify(value)
  if (text === undefined) return <span class="muted">nothing</span>
  const cut = text.length > longest && !whole
  return (
    <span class={`json-${value === null ? 'null' : typeof value}`}>
      {cut ? text.slice(0, longest) : text}
      {cut && (
        <button type="button" class="quiet" onClick={() => setWhole(true)}>
          … {text.length - longest} characters more
        </button>
      )}
    </span>
  )
}

function Node({ name, value, depth }: { name: string | undefined; value: unknown; depth: number }) {
  const [open, setOpen] = useState(depth < 2)
  const [limit, setLimit] = useState(most)
  const label = name === undefined ? null : <span class="json-key">{name}: </span>
  if (value === null || typeof value !== 'object' || Object.keys(value).length === 0)
    return (
      <div class="json-line">
        {label}
        <Leaf value={value} />
      </div>
    )
  const entries = Object.entries(value)
  return (
    <details open={open} onToggle={({ currentTarget }) => setOpen(currentTarget.open)}>
      <summary>
        {label}
        <span class="muted">{Array.isArray(value) ? `[${entries.length}]` : `{${entries.length}}`}</span>
      </summary>
      {open &&
        entries.slice(0, limit).map(([key, item]) => <Node key={key} name={key} value={item} depth={depth + 1} />)}
      {open && entries.length > limit && (
        <button type="button" class="quiet" onClick={() => setLimit(limit + 1_000)}>
          {entries.length - limit} more
        </button>
      )}
    </details>
  )
}

/** A JSON value with its name and a button to copy it. */
export function Json({ title, value }: { title: string; value: unknown }) {
  const empty = value === null || value === undefined
  return (
    <section class={empty ? 'json empty-json' : 'json'}>
      <h3>
        {title}{' '}
        {!empty && (
          <Copy text={() => JSON.stringify(value, null, 2)} label="Copy" name={`Copy ${title.toLowerCase()}`} />
        )}
      </h3>
      {empty ? <span class="muted">none</span> : <Node name={undefined} value={value} depth={0} />}
    </section>
  )
}
