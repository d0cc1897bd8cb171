// What is known of a row of the timeline.
import { Ago } from '../../parts/basics.tsx'
import { Json } from '../../parts/json.tsx'
import { type Item, progress } from '../../spans.ts'
import type { History } from './children.tsx'
import { ErrorText, StepPanel } from './step.tsx'

/** The details of a step, gate, wait, child or group. */
export function Chosen({ item, history, reload }: { item: Item; history: History; reload: () => void }) {
  const { detail, attempts } = history
  switch (item.kind) {
    case 'step': {
      const step = detail.steps.find(({ id }) => id === item.id)
      return step ? (
        <StepPanel key={step.id} step={step} attempts={attempts.ofSteps.get(step.id) ?? []} reload={reload} />
      ) : null
    }
    case 'group':
      return (
        <>
          <p>{progress(item)} are done.</p>
          <Json title="Statuses" value={statuses(item)} />
        </>
      )
    case 'child': {
      const child = detail.childRuns.find(({ id }) => id === item.id)
      return (
        <>
          <p>
            <a href={`/ui/runs/${item.id}`}>Open the child run</a>
          </p>
          <ErrorText text={child?.error} />
          <Json title="Result" value={child?.result} />
          <Json title="Input" value={child?.input} />
        </>
      )
    }
    case 'gate': {
      const gate = detail.gates.find(({ id }) => id === item.id)
      if (!gate) return null
      return (
        <>
          <p>{gate.prompt}</p>
          <p>
            <a href={`/ui/runs/${gate.runId}?tab=gates`}>Open the gate</a>
          </p>
          <p class="muted">
            Asked <Ago at={gate.createdAt} />
            {gate.actor && `, ${gate.status} by ${gate.actor}`}
          </p>
          <Json title="Data" value={gate.data} />
        </>
      )
    }
    case 'wait':
      return <Json title="Wait" value={detail.waits.find(({ id }) => id === item.id)} />
  }
}

function statuses({ inside }: Item): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { status } of inside) counts[status] = (counts[status] ?? 0) + 1
  return counts
}
