// Queues: how deep they are, how fast they go, how long runs wait, and their caps.
import type { ReplyOf, Routes } from '@tidebase/wire'
import { useState } from 'preact/hooks'
import { call, can } from '../api.ts'
import { duration, number } from '../format.ts'
import { Command, Empty, Heading, Problem, Status } from '../parts/basics.tsx'
import { Chart } from '../parts/chart.tsx'
import { Ask } from '../parts/dialog.tsx'
import { useQuery } from '../query.ts'

type Queue = ReplyOf<Routes['listQueues']>['queues'][number]
const concerns = ({ type }: { type: string }) => type.startsWith('run.')

/** Every queue of the project. */
export function Queues() {
  const { data, error, reload } = useQuery('queues', (signal) => call('listQueues', { signal }), concerns)
  return (
    <>
      <Heading title="Queues" />
      <Problem error={error} />
      {data?.queues.map((queue) => (
        <QueueCard key={queue.name} queue={queue} reload={reload} />
      ))}
      {data?.queues.length === 0 && (
        <Empty title="No queues yet">
          <p>A queue is there as soon as a run is put into it:</p>
          <Command
            text={`curl -X POST ${location.origin}/queues/default/enqueue -H 'content-type: application/json' -d '{"workflowName":"hello"}'`}
          />
        </Empty>
      )}
    </>
  )
}

function QueueCard({ queue, reload }: { queue: Queue; reload: () => void }) {
  const [open, setOpen] = useState(false)
  const { name, config } = queue
  const list = (status: string) => `/ui/runs?${new URLSearchParams({ queue: name, status })}`
  return (
    <article class="card">
      <header>
        <h2>{name}</h2>
        {config?.paused && <Status of="paused" />}
      </header>
      <p class="amounts">
        {(['queued', 'running', 'completed', 'failed', 'cancelled'] as const).map((status) => (
          <a key={status} href={list(status)}>
            {number(queue[status])} {status}
          </a>
        ))}
      </p>
      <p class="muted">
        {capsInWords(config)}
        {config?.invokeUrl && ` · pushed to ${config.invokeUrl}`}
      </p>
      <div class="buttons">
        <button type="button" aria-expanded={open} onClick={() => setOpen(!open)}>
          Charts
        </button>
        {can('pauseQueue') &&
          (config?.paused ? (
            <Ask
              label="Resume"
              title={`Resume ${name}?`}
              action="Resume the queue"
              onConfirm={() => call('resumeQueue', { params: { queue: name } }).then(reload)}
            />
          ) : (
            <Ask
              label="Pause"
              title={`Pause ${name}?`}
              action="Pause the queue"
              onConfirm={() => call('pauseQueue', { params: { queue: name } }).then(reload)}
            >
              <p>What runs goes on, and runs can still be put in; nothing new begins.</p>
            </Ask>
          ))}
        {can('configureQueue') && <Caps queue={queue} reload={reload} />}
      </div>
      {open && <Charts queue={name} />}
    </article>
  )
}

function capsInWords(config: Queue['config']): string {
  const set = [
    config?.concurrency != null && `at most ${number(config.concurrency)} at a time`,
    config?.ratePerMinute != null && `${number(config.ratePerMinute)} a minute`,
    config?.perKeyConcurrency != null && `${number(config.perKeyConcurrency)} of one key at a time`,
  ].filter((each) => each !== false)
  return set.length === 0 ? 'No caps' : `Caps: ${set.join(', ')}`
}

const caps = [
  ['concurrency', 'Runs at a time'],
  ['ratePerMinute', 'Runs a minute'],
  ['perKeyConcurrency', 'Runs of one key at a time'],
] as const

function Caps({ queue: { name, config }, reload }: { queue: Queue; reload: () => void }) {
  const [values, setValues] = useState<Partial<Record<(typeof caps)[number][0], string>>>({})
  const save = async () => {
    const body = Object.fromEntries(
      Object.entries(values).map(([field, value]) => [field, value === '' ? null : Number(value)]),
    )
    await call('configureQueue', { params: { queue: name }, body })
    reload()
  }
  return (
    <Ask label="Caps" title={`Caps of ${name}`} action="Save the caps" onConfirm={save}>
      <p>An empty field is no cap.</p>
      {caps.map(([field, label]) => (
        <p key={field}>
          <label>
            {label}
            <input
              type="number"
              min={1}
              value={values[field] ?? config?.[field] ?? ''}
              onInput={({ currentTarget }) => setValues({ ...values, [field]: currentTarget.value })}
            />
          </label>
        </p>
      ))}
    </Ask>
  )
}

function Charts({ queue }: { queue: string }) {
  const [minutes, setMinutes] = useState(60)
  const { data, error } = useQuery(
    `stats ${queue} ${minutes}`,
    (signal) => call('queueStats', { params: { queue }, query: { minutes }, signal }),
    concerns,
  )
  const times = data?.points.map(({ at }) => at) ?? []
  const line = (
    label: string,
    colour: string,
    of: (point: NonNullable<typeof data>['points'][number]) => number | null,
  ) => ({
    label,
    colour,
    values: data?.points.map(of) ?? [],
  })
  return (
    <>
      <label class="inline">
        Time
        <select value={minutes} onChange={({ currentTarget }) => setMinutes(Number(currentTarget.value))}>
          <option value={5}>last 5 minutes</option>
          <option value={60}>last hour</option>
          <option value={360}>last 6 hours</option>
          <option value={1440}>last 24 hours</option>
        </select>
      </label>
      <Problem error={error} />
      {data?.sampled && <p class="muted">From the latest 5,000 runs: older times show less than there was.</p>}
      {data && (
        <div class="charts">
          <Chart
            title="Depth"
            times={times}
            format={number}
            least={4}
            series={[line('waiting', '--wait', ({ depth }) => depth)]}
          />
          <Chart
            title="Throughput"
            times={times}
            format={number}
            least={4}
            series={[
              line('came', '--muted', ({ enqueued }) => enqueued),
              line('began', '--accent', ({ started }) => started),
              line('ended', '--good', ({ ended }) => ended),
            ]}
          />
          <Chart
            title="Wait"
            times={times}
            format={duration}
            least={1_000}
            series={[
              line('half wait less', '--accent', ({ waitP50Ms }) => waitP50Ms),
              line('95% wait less', '--bad', ({ waitP95Ms }) => waitP95Ms),
            ]}
          />
        </div>
      )}
    </>
  )
}
