// The list of runs: live, narrowed down by the address, counted, changed in bulk.
import type { ReplyOf, Routes } from '@tidebase/wire'
import { useEffect, useState } from 'preact/hooks'
import { useLocation } from 'preact-iso'
import { call, can } from '../api.ts'
import { addressOf, type Filter, readFilter, toQuery } from '../filter.ts'
import { dollars, duration, plural, shortId } from '../format.ts'
import { type Run, useLiveRuns } from '../live-runs.ts'
import { Ago, Command, Empty, Heading, now, Problem, Status } from '../parts/basics.tsx'
import { Dialog } from '../parts/dialog.tsx'
import { Filters } from '../parts/filters.tsx'
import { useNarrow, Virtual } from '../parts/virtual.tsx'
import { useQuery } from '../query.ts'
import { firstRun, installAndRun } from '../snippets.ts'

const statuses = ['pending', 'queued', 'running', 'waiting', 'completed', 'failed', 'cancelled'] as const

/** How long a run took, or has taken. */
export function took(run: Run): number {
  return (run.completedAt ? Date.parse(run.completedAt) : now.value) - Date.parse(run.createdAt)
}

function Row({ run }: { run: Run }) {
  const href = `/ui/runs/${run.id}`
  return (
    <a class="run" href={href} data-row>
      <Status of={run.status} />
      <span class="name">{run.workflowName}</span>
      <span class="id">{shortId(run.id)}</span>
      <span class="queue">{run.queue ?? ''}</span>
      <span class="cost">{run.usageTotals.costUsd > 0 ? dollars(run.usageTotals.costUsd) : ''}</span>
      <span class="took">{duration(took(run))}</span>
      <span class="ago">
        <Ago at={run.createdAt} />
      </span>
    </a>
  )
}

type Counts = ReplyOf<Routes['countRuns']>

function StatusTabs({ given, counts }: { given: Record<string, string>; counts: Counts | undefined }) {
  const total = counts && Object.values(counts.counts).reduce((sum, each) => sum + each, 0)
  const write = (amount: number | undefined, more: boolean) =>
    amount === undefined ? '' : `${Intl.NumberFormat('en', { notation: 'compact' }).format(amount)}${more ? '+' : ''}`
  return (
    <nav class="tabs" aria-label="Status">
      <a href={addressOf(given, { status: undefined })} aria-current={given.status ? undefined : 'page'}>
        all <span class="count">{write(total, (counts?.atLeast.length ?? 0) > 0)}</span>
      </a>
      {statuses.map((status) => (
        <a
          key={status}
          href={addressOf(given, { status })}
          aria-current={given.status === status ? 'page' : undefined}
          class={status}
        >
          {status} <span class="count">{write(counts?.counts[status], counts?.atLeast.includes(status) ?? false)}</span>
        </a>
      ))}
    </nav>
  )
}

/** Cancels or retries what the filter finds; says first how many that is. */
function Bulk({ what, filter, onClose }: { what: 'cancelRuns' | 'retryRuns'; filter: Filter; onClose: () => void }) {
  const [done, setDone] = useState(0)
  // The same runs are changed that were counted: the time stands still.
  const [body] = useState(() => ({ filter: toQuery(filter), actor: 'studio' }))
  const { data, error } = useQuery('bulk', (signal) => call(what, { body: { ...body, dryRun: true }, signal }))
  const verb = what === 'cancelRuns' ? 'Cancel' : 'Retry'
  const noun = what === 'cancelRuns' ? 'live run' : 'failed run'
  const run = async () => {
    for (;;) {
      const reply = await call(what, { body })
      setDone((sum) => sum + reply.done)
      if (!reply.more) return
    }
  }
  const many = data && data.matched >= 10_000 ? '10,000 or more' : ''
  return (
    <Dialog
      title={`${verb} what the filter finds`}
      action={data && data.matched > 0 ? `${verb} ${many || plural(data.matched, noun)}` : undefined}
      danger={what === 'cancelRuns'}
      onConfirm={run}
      onClose={onClose}
    >
      <Problem error={error} />
      <p>
        {data === undefined
          ? 'Counting…'
          : `The filter finds ${many || plural(data.matched, noun)}. ${
              what === 'cancelRuns'
                ? 'Cancelling is for good; workers learn it at their next step.'
                : 'Each goes on after its last completed step.'
            }`}
      </p>
      {done > 0 && <p role="status">{plural(done, 'run')} done so far.</p>}
    </Dialog>
  )
}

/** The list of runs. */
export function Runs() {
  const { query: given } = useLocation()
  const filter = readFilter(given)
  const { runs, ready, held, release, more, error } = useLiveRuns(filter.query, filter.since)
  const { status: _, ...unstatus } = filter.query
  const counts = useQuery(
    `counts ${JSON.stringify([unstatus, filter.since])}`,
    (signal) => call('countRuns', { query: toQuery({ ...filter, query: unstatus }), signal }),
    ({ type }) => type.startsWith('run.'),
  )
  const [bulk, setBulk] = useState<'cancelRuns' | 'retryRuns'>()
  const narrow = useNarrow()
  useEffect(() => setBulk(undefined), [JSON.stringify(given)])
  const filtered = Object.keys(filter.query).length > 0 || filter.since !== undefined
  return (
    <>
      <Heading title="Runs">
        {can('retryRuns') && (
          <button type="button" onClick={() => setBulk('retryRuns')}>
            Retry these…
          </button>
        )}
        {can('cancelRuns') && (
          <button type="button" onClick={() => setBulk('cancelRuns')}>
            Cancel these…
          </button>
        )}
      </Heading>
      <Filters given={given} workflows={[...new Set(runs.slice(0, 300).map(({ workflowName }) => workflowName))]} />
      <StatusTabs given={given} counts={counts.data} />
      <Problem error={error} />
      {held > 0 && (
        <button type="button" class="held primary" onClick={release}>
          {plural(held, 'new run')}
        </button>
      )}
      {ready && runs.length === 0 && !error && (filtered ? <NothingFound given={given} /> : <First />)}
      {runs.length > 0 && (
        <div class="run-columns" aria-hidden="true">
          {['Status', 'Workflow', 'Run', 'Queue', 'Cost', 'Took', 'Created'].map((column) => (
            <span key={column}>{column}</span>
          ))}
        </div>
      )}
      {runs.length > 0 && (
        <Virtual
          items={runs}
          rowHeight={narrow ? 62 : 38}
          keyOf={({ id }) => id}
          row={(run) => <Row run={run} />}
          onEnd={more}
          label="Runs, newest first"
        />
      )}
      {bulk && <Bulk what={bulk} filter={filter} onClose={() => setBulk(undefined)} />}
    </>
  )
}

function NothingFound({ given }: { given: Record<string, string> }) {
  return (
    <Empty title="No run is like that">
      <p>
        {given.metadata === undefined && 'A filter on metadata finds exact values. '}
        <a href="/ui/runs">Show all runs</a>
      </p>
    </Empty>
  )
}

function First() {
  const url = location.origin
  return (
    <Empty title="No runs yet">
      <p>
        A run executes a workflow in steps. When its worker dies, it goes on after the last completed step. Save this as{' '}
        <code>first.mjs</code>:
      </p>
      <Command text={firstRun(url)} />
      <p>Then:</p>
      <Command text={installAndRun} />
      <p>Or, without installing anything, create a run that waits for a worker:</p>
      <Command
        text={`curl -X POST ${url}/runs/hello -H 'content-type: application/json' -d '{"input":{"name":"Ada"}}'`}
      />
    </Empty>
  )
}
