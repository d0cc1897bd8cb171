// A run: how it went, step by step, and everything that belongs to it.
import { useLocation, useRoute } from 'preact-iso'
import { dollars, duration, exact, number } from '../format.ts'
import { Ago, Heading, Problem, Status } from '../parts/basics.tsx'
import { GateCard } from '../parts/gate.tsx'
import { Json } from '../parts/json.tsx'
import type { Query } from '../query.ts'
import { useRun } from '../run-detail.ts'
import type { Detail } from '../types.ts'
import { Actions } from './run/actions.tsx'
import { timelineParts } from './run/children.tsx'
import { Events } from './run/events.tsx'
import { StateTab } from './run/state.tsx'
import { Timeline } from './run/timeline.tsx'
import { UsageTab } from './run/usage.tsx'
import { Webhooks } from './run/webhooks.tsx'
import { took } from './runs.tsx'

const tabs = ['timeline', 'state', 'gates', 'usage', 'events', 'webhooks', 'raw'] as const
type Tab = (typeof tabs)[number]

/** The parts of a run that each tab shows. Events come in pages of their own. */
const parts: Record<Tab, string> = {
  timeline: timelineParts,
  state: 'state,stateStreams,stateVersions',
  gates: 'gates',
  usage: 'usage,steps',
  events: 'run',
  webhooks: 'channels,channelDeliveries,recoveryAttempts',
  raw: 'steps,state,stateStreams,runEdges,childRuns,recoveryAttempts,channels,channelDeliveries,gates,waits,signals,usage',
}

/** A run, by its id in the address. */
export function RunPage() {
  const { id = '' } = useRoute().params
  const { query } = useLocation()
  const tab = tabs.find((each) => each === query.tab) ?? 'timeline'
  const detail = useRun(id, parts[tab])
  return (
    <>
      <Head detail={detail} />
      <nav class="tabs" aria-label="Parts of the run">
        {tabs.map((each) => (
          <a key={each} href={`/ui/runs/${id}?tab=${each}`} aria-current={each === tab ? 'page' : undefined}>
            {each}
          </a>
        ))}
      </nav>
      <Problem error={detail.error} />
      {detail.data && <TabContent tab={tab} detail={detail.data} reload={detail.reload} />}
    </>
  )
}

function TabContent({ tab, detail, reload }: { tab: Tab; detail: Detail; reload: () => void }) {
  switch (tab) {
    case 'timeline':
      return <Timeline detail={detail} reload={reload} />
    case 'state':
      return <StateTab detail={detail} />
    case 'gates':
      return detail.gates.length === 0 ? (
        <p class="muted">This run has asked nobody.</p>
      ) : (
        detail.gates.map((gate) => <GateCard key={gate.id} gate={gate} onDecided={reload} />)
      )
    case 'usage':
      return <UsageTab detail={detail} />
    case 'events':
      return <Events runId={detail.run.id} />
    case 'webhooks':
      return <Webhooks detail={detail} reload={reload} />
    case 'raw':
      return <Json title="Run" value={detail} />
  }
}

function Head({ detail: { data, reload } }: { detail: Query<Detail> }) {
  const run = data?.run
  if (!run) return <Heading title="Run" />
  const { costUsd, totalTokens } = run.usageTotals
  return (
    <>
      <Heading title={run.workflowName}>
        <Actions run={run} reload={reload} />
      </Heading>
      <dl class="facts">
        <div>
          <dt>Status</dt>
          <dd>
            <Status of={run.status} />
          </dd>
        </div>
        <Fact name="Id" value={run.id} />
        <div>
          <dt>Created</dt>
          <dd title={exact(run.createdAt)}>
            <Ago at={run.createdAt} />
          </dd>
        </div>
        <Fact name="Took" value={duration(took(run))} />
        <Fact name="Attempt" value={`${run.attempt} of ${Math.max(run.attempt, run.maxAttempts)}`} />
        {run.queue && <Fact name="Queue" value={run.queue} />}
        {run.leaseOwner && <Fact name="Worker" value={run.leaseOwner} />}
        {totalTokens > 0 && <Fact name="Tokens" value={number(totalTokens)} />}
        {costUsd > 0 && <Fact name="Cost" value={dollars(costUsd)} />}
        {run.cancelReason && (
          <Fact name="Cancelled" value={`${run.cancelReason} by ${run.cancelActor ?? 'nobody named'}`} />
        )}
        {run.failureClass && <Fact name="Failure" value={run.failureClass} />}
      </dl>
      {run.error && <pre class="problem">{run.error}</pre>}
    </>
  )
}

function Fact({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  )
}
