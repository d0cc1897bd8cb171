// What the list of runs is narrowed down by. Every change is an address, so that it can be sent to somebody.

import { useEffect, useState } from 'preact/hooks'
import { useLocation } from 'preact-iso'
import { call, can } from '../api.ts'
import { addressOf, spans } from '../filter.ts'
import { useQuery } from '../query.ts'

/** The fields above the list. */
export function Filters({ given, workflows }: { given: Record<string, string>; workflows: string[] }) {
  const { route } = useLocation()
  const set = (change: Record<string, string | undefined>) => route(addressOf(given, change))
  const queues = useQuery('queue names', async (signal) =>
    can('listQueues') ? (await call('listQueues', { signal })).queues.map(({ name }) => name) : [],
  )
  const metadata = Object.entries(given).filter(([field]) => field.startsWith('metadata.'))
  const custom = given.from !== undefined || given.to !== undefined
  return (
    <search class="filters">
      <Typed
        label="Search by name or id (press /)"
        type="search"
        value={given.search ?? ''}
        onValue={(search) => set({ search })}
      />
      <Typed
        label="Workflow"
        value={given.workflow ?? ''}
        onValue={(workflow) => set({ workflow })}
        options={workflows}
      />
      <Typed label="Queue" value={given.queue ?? ''} onValue={(queue) => set({ queue })} options={queues.data ?? []} />
      <label>
        Created
        <select
          value={custom ? 'custom' : (given.since ?? '')}
          onChange={({ currentTarget: { value } }) =>
            set(
              value === 'custom'
                ? { since: undefined, from: new Date(Date.now() - 3_600_000).toISOString() }
                : { since: value, from: undefined, to: undefined },
            )
          }
        >
          <option value="">at any time</option>
          {spans.map(([name, words]) => (
            <option key={name} value={name}>
              {words}
            </option>
          ))}
          <option value="custom">between…</option>
        </select>
      </label>
      {custom && (
        <>
          <Time label="From" value={given.from} onValue={(from) => set({ from })} />
          <Time label="Until" value={given.to} onValue={(to) => set({ to })} />
        </>
      )}
      <Metadata onAdd={(field, value) => set({ [`metadata.${field}`]: value })} />
      {(metadata.length > 0 || given.cancelReason) && (
        <ul class="chips" aria-label="Filters set">
          {[...metadata, ...(given.cancelReason ? [['cancelReason', given.cancelReason] as const] : [])].map(
            ([field, value]) => (
              <li key={field}>
                {field.replace('metadata.', '')} = {value}
                <button
                  type="button"
                  class="quiet"
                  aria-label={`Remove the filter ${field}`}
                  onClick={() => set({ [field]: undefined })}
                >
                  ×
                </button>
              </li>
            ),
          )}
        </ul>
      )}
    </search>
  )
}

interface TypedProps {
  label: string
  value: string
  onValue: (value: string) => void
  type?: 'text' | 'search'
  options?: string[]
}

/** A field that takes effect a moment after the last key. */
function Typed({ label, value, onValue, type = 'text', options }: TypedProps) {
  const [text, setText] = useState(value)
  useEffect(() => setText(value), [value])
  useEffect(() => {
    if (text === value) return
    const timer = setTimeout(() => onValue(text), 250)
    return () => clearTimeout(timer)
  }, [text])
  const id = `options-${label.toLowerCase()}`
  return (
    <label>
      {label}
      <input
        type={type}
        value={text}
        list={options ? id : undefined}
        maxLength={200}
        onInput={({ currentTarget }) => setText(currentTarget.value)}
      />
      {options && (
        <datalist id={id}>
          {options.map((each) => (
            <option key={each} value={each} />
          ))}
        </datalist>
      )}
    </label>
  )
}

function Time({ label, value, onValue }: { label: string; value: string | undefined; onValue: (v: string) => void }) {
  const time = value ? new Date(value) : undefined
  const valid = time && !Number.isNaN(time.getTime())
  // The field wants the time of the reader's zone.
  const text = valid ? new Date(time.getTime() - time.getTimezoneOffset() * 60_000).toISOString().slice(0, 16) : ''
  return (
    <label>
      {label}
      <input
        type="datetime-local"
        value={text}
        onChange={({ currentTarget }) =>
          onValue(currentTarget.value ? new Date(currentTarget.value).toISOString() : '')
        }
      />
    </label>
  )
}

function Metadata({ onAdd }: { onAdd: (field: string, value: string) => void }) {
  const [text, setText] = useState('')
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault()
        const [, field, value] = /^\s*([^=\s]+)\s*=\s*(.+?)\s*$/.exec(text) ?? []
        if (field === undefined || value === undefined) return
        onAdd(field, value)
        setText('')
      }}
    >
      <label>
        Metadata
        <input
          placeholder="tenant=acme"
          pattern="\s*[^=\s]+\s*=.+"
          title="name=value, then Enter"
          value={text}
          onInput={({ currentTarget }) => setText(currentTarget.value)}
        />
      </label>
    </form>
  )
}
