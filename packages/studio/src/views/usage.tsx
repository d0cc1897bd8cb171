// Usage: what the project spent by day, workflow and model, and the runs that hit their budgets.
import { useState } from 'preact/hooks'
import { call } from '../api.ts'
import { spans } from '../filter.ts'
import { dollars, number } from '../format.ts'
import { Ago, Command, Empty, Heading, Problem } from '../parts/basics.tsx'
import { Chart } from '../parts/chart.tsx'
import { Table } from '../parts/table.tsx'
import { useQuery } from '../query.ts'
import { recordingUsage } from '../snippets.ts'

const concerns = ({ type }: { type: string }) => type === 'usage.recorded' || type === 'run.budget_exceeded'

/** The ledger of the project. */
export function UsagePage() {
  const [span, setSpan] = useState('30d')
  const { data, error } = useQuery(
    `usage ${span}`,
    async (signal) => {
      const length = spans.find(([name]) => name === span)?.[2]
      const from = length && new Date(Date.now() - length).toISOString()
      const sums = async (groupBy: 'day' | 'workflow' | 'model') =>
        (await call('sumUsage', { query: { groupBy, from }, signal })).sums
      const [day, workflow, model, budget] = await Promise.all([
        sums('day'),
        sums('workflow'),
        sums('model'),
        call('listRuns', { query: { cancelReason: 'budget', limit: 20 }, signal }),
      ])
      return { day, workflow, model, stopped: budget.runs }
    },
    concerns,
  )
  const columns = ['entries', 'tokens', 'cost']
  const rows = (sums: NonNullable<typeof data>['day']) =>
    sums
      .toSorted((a, b) => b.costUsd - a.costUsd)
      .map(({ key, entries, totalTokens, costUsd }) => ({
        key: key ?? '',
        cells: [key ?? 'not named', number(entries), number(totalTokens), dollars(costUsd)],
      }))
  return (
    <>
      <Heading title="Usage">
        <label class="inline">
          Time
          <select value={span} onChange={({ currentTarget }) => setSpan(currentTarget.value)}>
            {spans.slice(2).map(([name, words]) => (
              <option key={name} value={name}>
                {words}
              </option>
            ))}
            <option value="">ever</option>
          </select>
        </label>
      </Heading>
      <Problem error={error} />
      {data && data.day.length > 0 && (
        <>
          <Chart
            title="Cost by day"
            times={data.day.map(({ key }) => `${key}T00:00:00Z`)}
            format={dollars}
            least={0.01}
            bars
            series={[{ label: 'cost', colour: '--accent', values: data.day.map(({ costUsd }) => costUsd) }]}
          />
          <h2>By workflow</h2>
          <Table label="Usage by workflow" columns={['workflow', ...columns]} rows={rows(data.workflow)} />
          <h2>By model</h2>
          <Table label="Usage by model" columns={['model', ...columns]} rows={rows(data.model)} />
        </>
      )}
      {data && data.stopped.length > 0 && (
        <>
          <h2>Stopped by their budget</h2>
          <Table
            label="Runs stopped by their budget"
            columns={['run', 'spent', 'budget', 'when']}
            rows={data.stopped.map((run) => ({
              key: run.id,
              cells: [
                <a href={`/ui/runs/${run.id}?tab=usage`}>{run.workflowName}</a>,
                `${dollars(run.usageTotals.costUsd)}, ${number(run.usageTotals.totalTokens)} tokens`,
                [
                  run.budget?.costUsd != null && dollars(run.budget.costUsd),
                  run.budget?.totalTokens != null && `${number(run.budget.totalTokens)} tokens`,
                ]
                  .filter(Boolean)
                  .join(', '),
                <Ago at={run.cancelledAt ?? run.updatedAt} />,
              ],
            }))}
          />
        </>
      )}
      {data?.day.length === 0 && (
        <Empty title="No usage recorded in this time">
          <p>Steps write down what they used; a run with a budget is stopped when it has used it up:</p>
          <Command text={recordingUsage} />
        </Empty>
      )}
    </>
  )
}
