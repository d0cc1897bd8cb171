// The steps of a child within its parent's page.
import { call } from '../../api.ts'
import { duration } from '../../format.ts'
import { Problem, Status } from '../../parts/basics.tsx'
import { useQuery } from '../../query.ts'

const most = 200

/** What a child run has done, live. */
export function ChildSteps({ runId }: { runId: string }) {
  const { data, error } = useQuery(
    `child ${runId}`,
    (signal) => call('getRun', { params: { runId }, query: { include: 'steps,childRuns' }, signal }),
    (event) => event.runId === runId,
  )
  return (
    <>
      <Problem error={error} />
      <ul class="nested">
        {data?.steps.slice(0, most).map((step) => (
          <li key={step.id}>
            <Status of={step.status} /> {step.name}{' '}
            {step.completedAt && step.startedAt && (
              <span class="muted">{duration(Date.parse(step.completedAt) - Date.parse(step.startedAt))}</span>
            )}
          </li>
        ))}
        {data?.childRuns.slice(0, most).map((child) => (
          <li key={child.id}>
            <Status of={child.status} /> <a href={`/ui/runs/${child.id}`}>{child.workflowName}</a>
          </li>
        ))}
      </ul>
    </>
  )
}
