// What can be done about a run. A key sees no button that the server would refuse it.

import { useState } from 'preact/hooks'
import { useLocation } from 'preact-iso'
import { call, can } from '../../api.ts'
import { Command, Copy } from '../../parts/basics.tsx'
import { Ask } from '../../parts/dialog.tsx'
import { asCurl, asPython, asTypeScript, resumeBy } from '../../snippets.ts'
import type { Detail } from '../../types.ts'

/** The buttons of a run. */
export function Actions({ run, reload }: { run: Detail['run']; reload: () => void }) {
  const { route } = useLocation()
  const [reason, setReason] = useState('')
  const params = { runId: run.id }
  const over = run.status === 'completed' || run.status === 'cancelled'
  const recipe = { url: location.origin, ...run }
  return (
    <div class="buttons">
      {can('cancelRun') && !over && (
        <Ask
          label="Cancel"
          title="Cancel this run?"
          action="Cancel the run"
          danger
          onConfirm={async () => {
            await call('cancelRun', { params, body: { reason: reason || undefined, actor: 'studio' } })
            reload()
          }}
        >
          <p>It ends at once and for good, and so do its children. Its worker learns it at the next step.</p>
          <label>
            Reason
            <input value={reason} maxLength={2_000} onInput={({ currentTarget }) => setReason(currentTarget.value)} />
          </label>
        </Ask>
      )}
      {can('retryRun') && run.status === 'failed' && (
        <Ask
          label="Retry"
          title="Retry this run?"
          action="Retry the run"
          onConfirm={async () => {
            await call('retryRun', { params, body: { actor: 'studio' } })
            reload()
          }}
        >
          <p>It is put back with one more attempt, and goes on after its last completed step.</p>
        </Ask>
      )}
      {can('recoverRun') && !over && (
        <Ask
          label="Resume"
          title="Resume this run"
          action={run.recoveryWebhook ? 'Call its webhook' : undefined}
          onConfirm={async () => {
            await call('recoverRun', { params, body: { reason: 'studio' } })
            reload()
          }}
        >
          {run.recoveryWebhook ? (
            <p>Asks {run.recoveryWebhook} to go on with it.</p>
          ) : (
            <p>
              {run.queue
                ? `A worker of the queue ${run.queue} takes it by itself.`
                : 'It goes on in a program of yours:'}
            </p>
          )}
          {!run.recoveryWebhook && !run.queue && <Command text={resumeBy(run.workflowName, run.id)} />}
        </Ask>
      )}
      {can('forkRun') && (
        <Ask
          label="Fork"
          title="Fork this run?"
          action="Fork the run"
          onConfirm={async () => route(`/ui/runs/${(await call('forkRun', { params })).run.id}`)}
        >
          <p>A new run starts with the completed steps and the state of this one.</p>
        </Ask>
      )}
      <details class="menu">
        <summary>Copy as</summary>
        <div>
          <Copy label="curl" text={() => asCurl(recipe)} />
          <Copy label="TypeScript" text={() => asTypeScript(recipe)} />
          <Copy label="Python" text={() => asPython(recipe)} />
        </div>
      </details>
    </div>
  )
}
