// A gate: what is asked, what it is about, and the two answers.
import { useState } from 'preact/hooks'
import type { CallError } from '../api.ts'
import { call, can } from '../api.ts'
import { shown } from '../query.ts'
import { me } from '../session.ts'
import type { Gate } from '../types.ts'
import { Ago, announcement, Problem, Status } from './basics.tsx'
import { Json } from './json.tsx'

/** A gate with its buttons, for those whose key may decide. */
export function GateCard({ gate, workflow, onDecided }: { gate: Gate; workflow?: string; onDecided: () => void }) {
  const [note, setNote] = useState('')
  const [error, setError] = useState<CallError>()
  const [busy, setBusy] = useState(false)
  const decide = async (decision: 'approved' | 'rejected') => {
    setBusy(true)
    try {
      const payload = note ? { note } : undefined
      const params = { runId: gate.runId, gateId: gate.id }
      await call('resolveGate', { params, body: { decision, actor: 'studio', payload } })
      announcement.value = `${gate.name}: ${decision}.`
      onDecided()
    } catch (problem) {
      setError(shown(problem))
    }
    setBusy(false)
  }
  return (
    <article class="card">
      <header>
        <h2>{gate.prompt || gate.name}</h2>
        <Status of={gate.status} />
      </header>
      <p class="muted">
        {workflow && <a href={`/ui/runs/${gate.runId}?tab=gates`}>{workflow}</a>} {gate.name} · asked{' '}
        <Ago at={gate.createdAt} />
        {gate.timeoutAt && gate.status === 'pending' && (
          <>
            {' '}
            · {gate.onTimeout} <Ago at={gate.timeoutAt} />
          </>
        )}
        {gate.actor && ` · by ${gate.actor}`}
      </p>
      {gate.data !== null && <Json title="Data" value={gate.data} />}
      {gate.decisionPayload !== null && gate.status !== 'pending' && (
        <Json title="Answer" value={gate.decisionPayload} />
      )}
      <Problem error={error} />
      {/* Without the gate's token only an admin may decide. */}
      {gate.status === 'pending' && can('resolveGate') && me.value?.scope === 'admin' && (
        <>
          <label>
            Note
            <textarea rows={2} value={note} onInput={({ currentTarget }) => setNote(currentTarget.value)} />
          </label>
          <div class="buttons">
            <button type="button" class="primary" disabled={busy} onClick={() => decide('approved')}>
              Approve
            </button>
            <button type="button" class="danger" disabled={busy} onClick={() => decide('rejected')}>
              Reject
            </button>
          </div>
        </>
      )}
    </article>
  )
}
