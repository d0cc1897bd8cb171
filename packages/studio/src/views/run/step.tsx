// A step: whether it may run again, what it was given, what came of it, and the decision about one in review.
import { useLocation } from 'preact-iso'
import { call, can } from '../../api.ts'
import { exact, ofDay } from '../../format.ts'
import { Ask } from '../../parts/dialog.tsx'
import { Json } from '../../parts/json.tsx'
import { rerun } from '../../rerun.ts'
import type { Step } from '../../types.ts'

/** Everything about a step. */
export function StepPanel({ step, reload }: { step: Step; reload: () => void }) {
  const { route } = useLocation()
  const { safe, words } = rerun(step)
  const params = { runId: step.runId, stepId: step.id }
  const resolve = (decision: 'retry' | 'complete' | 'fail') => async () => {
    await call('resolveStep', { params, body: { decision, actor: 'studio' } })
    reload()
  }
  return (
    <>
      <p class={safe ? 'rerun safe' : 'rerun unsafe'}>{words}</p>
      {step.needsReview && can('resolveStep') && (
        <div class="buttons">
          <Ask
            label="Run it again"
            title={`Run “${step.name}” again?`}
            action="Run it again"
            onConfirm={resolve('retry')}
          >
            <p>If its effect did happen, it happens twice.</p>
          </Ask>
          <Ask
            label="It happened"
            title={`“${step.name}” is done?`}
            action="It happened"
            onConfirm={resolve('complete')}
          >
            <p>The run goes on with an empty output for this step.</p>
          </Ask>
          <Ask
            label="Let it fail"
            title={`Let “${step.name}” fail?`}
            action="Let it fail"
            danger
            onConfirm={resolve('fail')}
          />
        </div>
      )}
      <p class="muted">
        Attempt {step.attempt}
        {step.startedAt && <span title={exact(step.startedAt)}>, began {ofDay(step.startedAt)}</span>}
        {step.completedAt && <span title={exact(step.completedAt)}>, done {ofDay(step.completedAt)}</span>}
        {step.leaseOwner && `, held by ${step.leaseOwner}`}
      </p>
      {step.error && (
        <>
          <h3>Error</h3>
          <pre class="problem">{step.error}</pre>
        </>
      )}
      <Json title="Output" value={step.output} />
      <Json title="Input" value={step.input} />
      <Json title="Resume contract" value={step.resumeContract} />
      {can('forkRun') && (
        <Ask
          label="Fork from here"
          title={`Fork from “${step.name}”?`}
          action="Fork"
          onConfirm={async () => {
            const { run } = await call('forkRun', { params: { runId: step.runId }, body: { fromStep: step.name } })
            route(`/ui/runs/${run.id}`)
          }}
        >
          <p>A new run takes over what was done before this step. This step and what came after it run again.</p>
        </Ask>
      )}
    </>
  )
}
