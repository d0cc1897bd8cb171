// What a run used up, by model and by step.
import { dollars, number } from '../../format.ts'
import { Table } from '../../parts/table.tsx'
import type { Detail } from '../../types.ts'

function sums(usage: Detail['usage'], keyOf: (entry: Detail['usage'][number]) => string) {
  const groups = new Map<string, { entries: number; tokens: number; cost: number }>()
  for (const entry of usage) {
    const key = keyOf(entry)
    const sum = groups.get(key) ?? { entries: 0, tokens: 0, cost: 0 }
    groups.set(key, {
      entries: sum.entries + 1,
      tokens: sum.tokens + (entry.totalTokens ?? 0),
      cost: sum.cost + (entry.costUsd ?? 0),
    })
  }
  return [...groups].map(([key, { entries, tokens, cost }]) => ({
    key,
    cells: [key, number(entries), number(tokens), dollars(cost)],
  }))
}

/** The ledger of a run. */
export function UsageTab({ detail: { run, usage, steps } }: { detail: Detail }) {
  if (usage.length === 0) return <p class="muted">This run has recorded no usage.</p>
  const names = new Map(steps.map(({ id, name }) => [id, name]))
  const columns = ['entries', 'tokens', 'cost']
  return (
    <>
      {run.budget && (
        <p>
          Budget: {run.budget.costUsd != null && dollars(run.budget.costUsd)}{' '}
          {run.budget.totalTokens != null && `${number(run.budget.totalTokens)} tokens`}
        </p>
      )}
      <h2>By model</h2>
      <Table
        label="Usage by model"
        columns={['model', ...columns]}
        rows={sums(usage, ({ model, kind }) => model ?? kind)}
      />
      <h2>By step</h2>
      <Table
        label="Usage by step"
        columns={['step', ...columns]}
        rows={sums(usage, ({ stepId }) => names.get(stepId ?? '') ?? stepId ?? 'outside of steps')}
      />
    </>
  )
}
