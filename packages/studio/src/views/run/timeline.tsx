// The timeline: what a run did as bars over one span of time, groups and children opened in their place, live.
import { useCallback, useMemo, useState } from 'preact/hooks'
import { duration } from '../../format.ts'
import { now, Status } from '../../parts/basics.tsx'
import { useNarrow, Virtual } from '../../parts/virtual.tsx'
import { useAttempts } from '../../run-events.ts'
import { type Item, itemsOf, progress } from '../../spans.ts'
import type { Detail } from '../../types.ts'
import { type History, LoadChild } from './children.tsx'
import { Chosen } from './chosen.tsx'

interface Row {
  item: Item
  depth: number
  /** undefined where there is nothing to open. */
  open: boolean | undefined
}

/** Groups of more than this are closed at first. */
const openAtFirst = 200
const isOpenAtFirst = ({ kind, inside }: Item) => kind === 'group' && inside.length <= openAtFirst

/** Items as rows, with what is inside of those that are open. */
function rowsOf(
  items: readonly Item[],
  toggled: ReadonlySet<string>,
  inside: (runId: string) => readonly Item[],
): Row[] {
  const rows: Row[] = []
  const add = (item: Item, depth: number) => {
    const opens = item.kind === 'group' || item.kind === 'child'
    const open = opens ? isOpenAtFirst(item) !== toggled.has(item.id) : undefined
    rows.push({ item, depth, open })
    if (open) for (const each of item.kind === 'child' ? inside(item.id) : item.inside) add(each, depth + 1)
  }
  for (const item of items) add(item, 0)
  return rows
}

/** The bars of a run, and what is known of the one that was chosen. */
export function Timeline({ detail, reload }: { detail: Detail; reload: () => void }) {
  const [chosen, setChosen] = useState<string>()
  const [toggled, setToggled] = useState<ReadonlySet<string>>(new Set())
  const [loaded, setLoaded] = useState<ReadonlyMap<string, History>>(new Map())
  const narrow = useNarrow()
  const attempts = useAttempts(detail)
  const rows = useMemo(() => {
    const inside = (runId: string) => {
      const child = loaded.get(runId)
      return child ? itemsOf(child.detail, child.attempts) : []
    }
    return rowsOf(itemsOf(detail, attempts), toggled, inside)
  }, [detail, attempts, toggled, loaded])
  const onLoad = useCallback(
    (runId: string, history: History) => setLoaded((known) => new Map(known).set(runId, history)),
    [],
  )
  const toggle = (id: string) =>
    setToggled((known) => {
      const next = new Set(known)
      if (!next.delete(id)) next.add(id)
      return next
    })

  const { createdAt, completedAt } = detail.run
  const start = Date.parse(createdAt)
  const latest = useMemo(() => rows.reduce((until, { item }) => Math.max(until, item.end ?? item.begin), 0), [rows])
  const until = Math.max(latest, completedAt === null ? now.value : Date.parse(completedAt))
  const span = Math.max(1, until - start)
  const place = (time: number) => `${(Math.max(0, time - start) / span) * 100}%`
  const row = rows.find(({ item }) => item.id === chosen)
  const history = row && (row.item.runId === detail.run.id ? { detail, attempts } : loaded.get(row.item.runId))
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: what is closed is the panel, wherever in here the focus is
    <div
      class={row ? 'split' : ''}
      onKeyDown={({ key, target }) => {
        if (key === 'Escape' && !(target instanceof Element && target.closest('dialog'))) setChosen(undefined)
      }}
    >
      <div>
        {rows.map(({ item, open }) =>
          open && item.kind === 'child' ? <LoadChild key={item.id} runId={item.id} onLoad={onLoad} /> : null,
        )}
        {rows.length === 0 && <p class="muted">Nothing has happened in this run yet.</p>}
        {rows.length > 0 && <Axis span={span} />}
        <Virtual
          items={rows}
          rowHeight={narrow ? 52 : 32}
          keyOf={({ item }) => item.id}
          label="Timeline"
          row={({ item, depth, open }) => (
            <>
              <button
                type="button"
                class="bar-row"
                data-row
                aria-expanded={item.id === chosen}
                onClick={() => setChosen(item.id === chosen ? undefined : item.id)}
                onKeyDown={(event) => {
                  if (open === undefined || event.key !== (open ? 'ArrowLeft' : 'ArrowRight')) return
                  event.preventDefault()
                  toggle(item.id)
                }}
              >
                <span class="bar-name" style={{ paddingLeft: `${depth * 1.1}rem` }}>
                  {(item.kind === 'gate' || item.kind === 'wait' || item.kind === 'child') && (
                    <span class="kind">{item.kind}</span>
                  )}
                  {item.name}
                  {item.attempts > 1 && <span class="attempts"> ×{item.attempts}</span>}
                  {item.kind === 'group' && <span class="muted"> {progress(item)}</span>}
                </span>
                <span class="unseen">{item.status.replace('_', ' ')}, </span>
                <span class="track" aria-hidden="true">
                  {item.runId === detail.run.id &&
                    attempts.resumed.map((time) => <span key={time} class="mark" style={{ left: place(time) }} />)}
                  {item.spans.map(({ begin, end, status }) => (
                    <span
                      key={begin}
                      class={`bar ${item.kind} ${status}`}
                      style={{ left: place(begin), width: `${(Math.max(0, (end ?? until) - begin) / span) * 100}%` }}
                    />
                  ))}
                </span>
                <span class="num">{duration((item.end ?? until) - item.begin)}</span>
              </button>
              {open !== undefined && (
                <button
                  type="button"
                  class="toggle"
                  style={{ left: `${depth * 1.1}rem` }}
                  aria-expanded={open}
                  aria-label={`What ${item.name} is made of`}
                  onClick={() => toggle(item.id)}
                />
              )}
            </>
          )}
        />
        {attempts.resumed.length > 0 && (
          <p class="muted legend">
            <span class="mark" aria-hidden="true" /> taken up again by a worker
          </p>
        )}
      </div>
      {row && history && (
        <aside class="panel" aria-label={`${row.item.kind} ${row.item.name}`}>
          <header class="heading">
            <h2>{row.item.name}</h2>
            <Status of={row.item.status} />
            <button type="button" onClick={() => setChosen(undefined)}>
              Close
            </button>
          </header>
          <Chosen item={row.item} history={history} reload={reload} />
        </aside>
      )}
    </div>
  )
}

/** How long the whole took, in quarters. */
function Axis({ span }: { span: number }) {
  return (
    <div class="axis" aria-hidden="true">
      <span />
      <span class="ticks">
        {[0, 0.25, 0.5, 0.75, 1].map((part) => (
          <span key={part}>{duration(span * part)}</span>
        ))}
      </span>
      <span />
    </div>
  )
}
