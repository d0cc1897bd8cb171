// The webhooks of a run: what was sent where, what came back, and sending it once more.
import { useEffect } from 'preact/hooks'
import { call, can } from '../../api.ts'
import { Ago, Status } from '../../parts/basics.tsx'
import { Ask } from '../../parts/dialog.tsx'
import { Json } from '../../parts/json.tsx'
import type { Detail } from '../../types.ts'

/** No event tells of tries: while there is something to send, it is looked at this often, ms. */
const pollMs = 2_000

/** The deliveries of a run. */
export function Webhooks({ detail, reload }: { detail: Detail; reload: () => void }) {
  const urls = new Map(detail.channels.map(({ id, url }) => [id, url]))
  const sent = [
    ...detail.channelDeliveries.map((each) => ({
      ...each,
      url: urls.get(each.channelId) ?? '',
      payload: each.payload,
    })),
    ...detail.recoveryAttempts.map((each) => ({ ...each, type: `recovery: ${each.reason}`, payload: null })),
  ].sort((a, b) => (a.createdAt < b.createdAt ? 1 : -1))
  const pending = sent.some(({ status }) => status === 'pending')
  useEffect(() => {
    if (!pending) return
    const timer = setInterval(() => {
      if (!document.hidden) reload()
    }, pollMs)
    return () => clearInterval(timer)
  }, [pending, reload])
  if (sent.length === 0)
    return <p class="muted">This run has called nobody. Runs made with `channels` tell a webhook what happens.</p>
  return (
    <>
      {sent.map((each) => (
        <article class="card" key={each.id}>
          <header>
            <h2>{each.type}</h2>
            <Status of={each.status} />
          </header>
          <p class="muted">
            {each.url} · {each.tries} tries · HTTP {each.httpStatus ?? 'none'} · <Ago at={each.updatedAt} />
            {each.nextTryAt && (
              <>
                {' '}
                · next <Ago at={each.nextTryAt} />
              </>
            )}
          </p>
          {each.errorText && <pre class="problem">{each.errorText}</pre>}
          {each.responseBody && (
            <details>
              <summary>Answer</summary>
              <pre>{each.responseBody}</pre>
            </details>
          )}
          {each.payload !== null && <Json title="Payload" value={each.payload} />}
          {can('redeliver') && (each.status !== 'pending' || each.tries > 0) && (
            <Ask
              label="Send again"
              title="Send this webhook again?"
              action="Send again"
              onConfirm={async () => {
                await call('redeliver', { params: { runId: each.runId, deliveryId: each.id } })
                reload()
              }}
            >
              <p>{each.url} gets the same call once more, with the same delivery id.</p>
            </Ask>
          )}
        </article>
      ))}
    </>
  )
}
