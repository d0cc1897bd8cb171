// The events of a run: read in pages until all are here, then as they happen.
import { useEffect, useState } from 'preact/hooks'
import { type CallError, call } from '../../api.ts'
import { onEvent } from '../../feed.ts'
import { number, ofDay } from '../../format.ts'
import { Problem } from '../../parts/basics.tsx'
import { Json } from '../../parts/json.tsx'
import { Virtual } from '../../parts/virtual.tsx'
import { shown } from '../../query.ts'
import type { RunEvent } from '../../types.ts'

const pageSize = 5_000

function useEvents(runId: string): { events: RunEvent[]; error: CallError | undefined } {
  const [events, setEvents] = useState<RunEvent[]>([])
  const [error, setError] = useState<CallError>()
  useEffect(() => {
    const stop = new AbortController()
    const all: RunEvent[] = []
    let reading = false
    let wanted = false
    const read = async () => {
      wanted = true
      if (reading) return
      reading = true
      try {
        while (wanted && !stop.signal.aborted) {
          wanted = false
          const query = { include: 'events', eventsAfter: all.at(-1)?.seq ?? 0, eventsLimit: pageSize }
          const page = await call('getRun', { params: { runId }, query, signal: stop.signal })
          all.push(...page.events)
          setEvents([...all])
          setError(undefined)
          if (page.nextEventsAfter !== null) wanted = true
        }
      } catch (problem) {
        if (!stop.signal.aborted) setError(shown(problem))
      }
      reading = false
    }
    void read()
    const end = onEvent((event) => {
      if (event === null || event.runId === runId) void read()
    })
    return () => {
      stop.abort()
      end()
    }
  }, [runId])
  return { events, error }
}

/** The events with a filter by kind and text. */
export function Events({ runId }: { runId: string }) {
  const { events, error } = useEvents(runId)
  const [kind, setKind] = useState('')
  const [text, setText] = useState('')
  const [chosen, setChosen] = useState<number>()
  const wanted = text.toLowerCase()
  const found = events.filter(
    ({ type, payload }) =>
      (kind === '' || type.startsWith(`${kind}.`)) &&
      (wanted === '' || `${type} ${JSON.stringify(payload)}`.toLowerCase().includes(wanted)),
  )
  const kinds = [...new Set(events.map(({ type }) => type.split('.')[0] ?? ''))]
  const event = events.find(({ seq }) => seq === chosen)
  return (
    <>
      <div class="filters">
        <label>
          Kind
          <select value={kind} onChange={({ currentTarget }) => setKind(currentTarget.value)}>
            <option value="">all</option>
            {kinds.map((each) => (
              <option key={each}>{each}</option>
            ))}
          </select>
        </label>
        <label>
          Search in events
          <input type="search" value={text} onInput={({ currentTarget }) => setText(currentTarget.value)} />
        </label>
        <p class="muted" role="status">
          {number(found.length)} of {number(events.length)} events
        </p>
      </div>
      <Problem error={error} />
      <div class={event ? 'split' : ''}>
        <Virtual
          items={found}
          rowHeight={30}
          keyOf={({ seq }) => String(seq)}
          label="Events"
          row={({ seq, type, payload, createdAt }) => (
            <button
              type="button"
              class="event-row"
              data-row
              aria-expanded={seq === chosen}
              onClick={() => setChosen(seq === chosen ? undefined : seq)}
            >
              <span class="num muted">{seq}</span>
              <span>{type}</span>
              <span class="muted event-payload">{JSON.stringify(payload).slice(0, 200)}</span>
              <span class="num muted">{ofDay(createdAt)}</span>
            </button>
          )}
        />
        {event && (
          <aside class="panel" aria-label={`Event ${event.seq}`}>
            <header class="heading">
              <h2>
                {event.seq} {event.type}
              </h2>
              <button type="button" onClick={() => setChosen(undefined)}>
                Close
              </button>
            </header>
            <Json title="Payload" value={event.payload} />
          </aside>
        )}
      </div>
    </>
  )
}
