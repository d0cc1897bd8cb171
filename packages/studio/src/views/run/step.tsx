// A step: whether it may run again, its attempts, what it was given, what came of it, and the decision about one in
// review.

import { useState } from 'preact/hooks'
import { useLocation } from 'preact-iso'
import { CallError, call, can } from '../../api.ts'
import { duration, exact, ofDay } from '../../format.ts'
import { now, Status } from '../../parts/basics.tsx'
import { Ask } from '../../parts/dialog.tsx'
import { Json } from '../../parts/json.tsx'
import { rerun } from '../../rerun.ts'
import type { Attempt } from '../../spans.ts'
import type { Step } from '../../types.ts'
import { LiveText } from './live-text.tsx'

/** Everything about a step. */
export function StepPanel({
  step,
  attempts,
  reload,
}: {
  step: Step
  attempts: readonly Attempt[]
  reload: () => void
}) {
  const { route } = useLocation()
  const { safe, words } = rerun(step)
  return (
    <>
      <p class={safe ? 'rerun safe' : 'rerun unsafe'}>{words}</p>
      {step.needsReview && can('resolveStep') && <Review step={step} reload={reload} />}
      <p class="muted">
        Attempt {step.attempt}
        {step.startedAt && <span title={exact(step.startedAt)}>, began {ofDay(step.startedAt)}</span>}
        {step.completedAt && <span title={exact(step.completedAt)}>, done {ofDay(step.completedAt)}</span>}
        {step.leaseOwner && `, held by ${step.leaseOwner}`}
      </p>
      {attempts.length > 1 && <Attempts attempts={attempts} />}
      {step.attempt > Math.max(1, attempts.length) && (
        <p class="muted">Its worker tried again at once, by itself; those tries were not reported.</p>
      )}
      <ErrorText text={step.error} />
      {step.status === 'running' && <LiveText runId={step.runId} name={step.name} />}
      <Json title="Output" value={step.output} />
      <Json title="Input" value={step.input} />
      <Json title="Resume contract" value={step.resumeContract} />
      {can('forkRun') && (
        <div class="buttons">
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
        </div>
      )}
    </>
  )
}

/** An error: what it says, and under it where it came from. */
export function ErrorText({ text }: { text: string | null | undefined }) {
  if (!text) return null
  const stack = text.search(/\n\s*at |\nTraceback |\nCaused by: /)
  return (
    <section aria-label="Error">
      <h3>Error</h3>
      <pre class="problem">{stack < 0 ? text : text.slice(0, stack)}</pre>
      {stack >= 0 && (
        <details open>
          <summary>Stack</summary>
          <pre class="stack">{text.slice(stack + 1)}</pre>
        </details>
      )}
    </section>
  )
}

function Attempts({ attempts }: { attempts: readonly Attempt[] }) {
  return (
    <section aria-label="Attempts">
      <h3>Attempts</h3>
      <ol class="tries">
        {attempts.map(({ begin, end, status, error }) => (
          <li key={begin}>
            <Status of={status} />{' '}
            <span class="muted">
              {ofDay(new Date(begin).toISOString())}, {duration((end ?? now.value) - begin)}
            </span>
            {error && <pre class="problem">{error}</pre>}
          </li>
        ))}
      </ol>
    </section>
  )
}

function Review({ step, reload }: { step: Step; reload: () => void }) {
  const [output, setOutput] = useState('')
  const resolve = async (decision: 'retry' | 'complete' | 'fail', given?: unknown) => {
    const params = { runId: step.runId, stepId: step.id }
    await call('resolveStep', {
      params,
      body: { decision, actor: 'studio', ...(given !== undefined && { output: given }) },
    })
    reload()
  }
  return (
    <div class="buttons">
      <Ask
        label="Run it again"
        title={`Run “${step.name}” again?`}
        action="Run it again"
        onConfirm={() => resolve('retry')}
      >
        <p>If its effect did happen, it happens twice.</p>
      </Ask>
      <Ask
        label="It happened"
        title={`“${step.name}” is done?`}
        action="It happened"
        onConfirm={async () => resolve('complete', output.trim() === '' ? undefined : parsed(output))}
      >
        <p>The run goes on with this as the output of the step.</p>
        <label>
          Output (JSON, or nothing)
          <textarea rows={4} value={output} onInput={({ currentTarget }) => setOutput(currentTarget.value)} />
        </label>
      </Ask>
      <Ask
        label="Let it fail"
        title={`Let “${step.name}” fail?`}
        action="Let it fail"
        danger
        onConfirm={() => resolve('fail')}
      />
    </div>
  )
}

/** @throws CallError for what is no JSON */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new CallError({
      error: 'This is not JSON.',
      code: 'studio',
      hint: 'Text stands in quotes: "like this". Leave the field empty for no output.',
    })
  }
}
