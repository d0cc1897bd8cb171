// The events of a run, with a filter by kind and text.
import { useState } from 'preact/hooks'
import { number, ofDay } from '../../format.ts'
import { Problem } from '../../parts/basics.tsx'
import { Json } from '../../parts/json.tsx'
import { Virtual } from '../../parts/virtual.tsx'
import { useEvents } from '../../run-events.ts'

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
