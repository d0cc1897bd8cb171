// The timeline: what a run did as bars over one span of time, children in their place, live.
import { useState } from 'preact/hooks'
import { duration } from '../../format.ts'
import { now, Status } from '../../parts/basics.tsx'
import { Json } from '../../parts/json.tsx'
import { useNarrow, Virtual } from '../../parts/virtual.tsx'
import type { Detail } from '../../types.ts'
import { ChildSteps } from './children.tsx'
import { StepPanel } from './step.tsx'

interface Item {
  id: string
  kind: 'step' | 'gate' | 'wait' | 'child'
  name: string
  status: string
  begin: number
  /** null while it goes on. */
  end: number | null
  attempts: number
}

const at = (time: string | null) => (time === null ? null : Date.parse(time))

/** What happened, in the order in which it began. */
function itemsOf({ run, steps, gates, waits, runEdges, childRuns }: Detail): Item[] {
  const ended = at(run.completedAt)
  const edges = new Map(runEdges.map(({ childRunId, name }) => [childRunId, name]))
  const items: Item[] = [
    ...steps.map((step) => ({
      id: step.id,
      kind: 'step' as const,
      name: step.name,
      status: step.status,
      begin: Date.parse(step.startedAt ?? step.createdAt),
      end: at(step.completedAt) ?? (step.status === 'running' ? ended : Date.parse(step.updatedAt)),
      attempts: step.attempt,
    })),
    ...gates.map((gate) => ({
      id: gate.id,
      kind: 'gate' as const,
      name: gate.name,
      status: gate.status,
      begin: Date.parse(gate.createdAt),
      end: at(gate.resolvedAt) ?? ended,
      attempts: 1,
    })),
    ...waits.map((wait) => ({
      id: wait.id,
      kind: 'wait' as const,
      name: wait.name,
      status: wait.status === 'pending' ? 'waiting' : wait.status,
      begin: Date.parse(wait.createdAt),
      end: at(wait.resolvedAt) ?? ended,
      attempts: 1,
    })),
    ...childRuns.map((child) => ({
      id: child.id,
      kind: 'child' as const,
      name: edges.get(child.id) ?? child.workflowName,
      status: child.status,
      begin: Date.parse(child.createdAt),
      end: at(child.completedAt),
      attempts: Math.max(1, child.attempt),
    })),
  ]
  return items.sort((a, b) => a.begin - b.begin)
}

/** The bars of a run, and what is known of the one that was chosen. */
export function Timeline({ detail, reload }: { detail: Detail; reload: () => void }) {
  const [chosen, setChosen] = useState<string>()
  const narrow = useNarrow()
  const items = itemsOf(detail)
  const live = detail.run.completedAt === null
  const start = Date.parse(detail.run.createdAt)
  const until = items.reduce(
    (latest, { begin, end }) => Math.max(latest, end ?? begin),
    live ? now.value : Date.parse(detail.run.completedAt ?? detail.run.createdAt),
  )
  const span = Math.max(1, until - start)
  const item = items.find(({ id }) => id === chosen)
  return (
    <div class={item ? 'split' : ''}>
      <div>
        {items.length === 0 && <p class="muted">Nothing has happened in this run yet.</p>}
        <Virtual
          items={items}
          rowHeight={narrow ? 52 : 32}
          keyOf={({ id }) => id}
          label="Timeline"
          row={(each) => (
            <button
              type="button"
              class="bar-row"
              data-row
              aria-expanded={each.id === chosen}
              onClick={() => setChosen(each.id === chosen ? undefined : each.id)}
            >
              <span class="bar-name">
                {each.kind !== 'step' && <span class="kind">{each.kind}</span>}
                {each.name}
                {each.attempts > 1 && <span class="attempts"> ×{each.attempts}</span>}
              </span>
              <span class="unseen">{each.status.replace('_', ' ')}, </span>
              <span class="track" aria-hidden="true">
                <span
                  class={`bar ${each.kind} ${each.status}`}
                  style={{
                    left: `${(Math.max(0, each.begin - start) / span) * 100}%`,
                    width: `${(Math.max(0, (each.end ?? until) - each.begin) / span) * 100}%`,
                  }}
                />
              </span>
              <span class="num">{duration((each.end ?? until) - each.begin)}</span>
            </button>
          )}
        />
      </div>
      {item && (
        <aside class="panel" aria-label={`${item.kind} ${item.name}`}>
          <header class="heading">
            <h2>{item.name}</h2>
            <Status of={item.status} />
            <button type="button" onClick={() => setChosen(undefined)}>
              Close
            </button>
          </header>
          <Chosen item={item} detail={detail} reload={reload} />
        </aside>
      )}
    </div>
  )
}

function Chosen({ item, detail, reload }: { item: Item; detail: Detail; reload: () => void }) {
  const step = detail.steps.find(({ id }) => id === item.id)
  if (step) return <StepPanel step={step} reload={reload} />
  if (item.kind === 'child') {
    const child = detail.childRuns.find(({ id }) => id === item.id)
    return (
      <>
        <p>
          <a href={`/ui/runs/${item.id}`}>Open the child run</a>
        </p>
        <ChildSteps runId={item.id} />
        {child?.error && <pre class="problem">{child.error}</pre>}
        <Json title="Input" value={child?.input} />
        <Json title="Result" value={child?.result} />
      </>
    )
  }
  const gate = detail.gates.find(({ id }) => id === item.id)
  if (gate)
    return (
      <>
        <p>{gate.prompt}</p>
        <p>
          <a href={`/ui/runs/${gate.runId}?tab=gates`}>Open the gate</a>
        </p>
        <Json title="Data" value={gate.data} />
      </>
    )
  return <Json title="Wait" value={detail.waits.find(({ id }) => id === item.id)} />
}
