// Long lists: only the rows near the window are in the page. Rows have one height, the page scrolls as ever.
import type { ComponentChildren } from 'preact'
import { useLayoutEffect, useRef, useState } from 'preact/hooks'

/** What a list is made of. */
export interface VirtualProps<T> {
  items: readonly T[]
  /** px; a list gives another on narrow windows. */
  rowHeight: number
  keyOf: (item: T) => string
  row: (item: T, index: number) => ComponentChildren
  /** Called when the end comes near. */
  onEnd?: () => void
  label: string
}

const spare = 12

/** The rows of `items` that are in view, between what keeps the page as long as if all were there. */
export function Virtual<T>({ items, rowHeight, keyOf, row, onEnd, label }: VirtualProps<T>) {
  const box = useRef<HTMLOListElement>(null)
  const [[first, last], setRange] = useState<[number, number]>([0, 40])
  const count = items.length
  const end = useRef(onEnd)
  end.current = onEnd
  useLayoutEffect(() => {
    const measure = () => {
      const top = box.current?.getBoundingClientRect().top ?? 0
      const from = Math.max(0, Math.floor(-top / rowHeight) - spare)
      const to = Math.ceil((window.innerHeight - top) / rowHeight) + spare
      setRange(([a, b]) => (a === from && b === to ? [a, b] : [from, to]))
      if (to >= count) end.current?.()
    }
    measure()
    window.addEventListener('scroll', measure, { passive: true })
    window.addEventListener('resize', measure)
    return () => {
      window.removeEventListener('scroll', measure)
      window.removeEventListener('resize', measure)
    }
  }, [count, rowHeight])
  const shown = items.slice(first, last)
  return (
    <ol
      ref={box}
      aria-label={label}
      class="virtual"
      style={{
        paddingTop: `${Math.min(first, count) * rowHeight}px`,
        paddingBottom: `${Math.max(0, count - last) * rowHeight}px`,
      }}
    >
      {shown.map((item, n) => (
        <li key={keyOf(item)} style={{ height: `${rowHeight}px` }} aria-setsize={count} aria-posinset={first + n + 1}>
          {row(item, first + n)}
        </li>
      ))}
    </ol>
  )
}

/** Arrow keys go from row to row of every list: to what is marked `data-row` in each. */
export function moveBetweenRows(event: KeyboardEvent): void {
  const step = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0
  const from = event.target
  if (step === 0 || !(from instanceof HTMLElement) || from.dataset.row === undefined) return
  const rows = [...(from.closest('ol')?.querySelectorAll<HTMLElement>('[data-row]') ?? [])]
  const next = rows[rows.indexOf(from) + step]
  if (!next) return
  event.preventDefault()
  next.focus()
}

/** Whether the window is narrow, as style.css sees it. */
export function useNarrow(): boolean {
  const query = '(max-width: 719px)'
  const [narrow, setNarrow] = useState(() => matchMedia(query).matches)
  useLayoutEffect(() => {
    const list = matchMedia(query)
    const changed = () => setNarrow(list.matches)
    list.addEventListener('change', changed)
    return () => list.removeEventListener('change', changed)
  }, [])
  return narrow
}
