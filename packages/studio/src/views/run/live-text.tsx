// The text that a step produces while it runs: its token stream, from wherever the connection broke.
import type { Chunk } from '@tidebase/wire'
import { useEffect, useState } from 'preact/hooks'
import { authorization } from '../../api.ts'
import { pause, readStream } from '../../sse.ts'

/** Events are read elsewhere: none has a number this high. */
const noEvents = 2_147_483_647
/** Characters that are shown; of more, the last. */
const most = 50_000

/** A text that grows by chunks. Offsets count code points; a chunk at 0 starts over. */
function append(text: readonly string[], { offset, chunk }: Chunk): string[] {
  return [...text.slice(0, offset), ...chunk]
}

/** Follows a stream of a run for as long as it is there. */
export function LiveText({ runId, name }: { runId: string; name: string }) {
  const [text, setText] = useState<readonly string[]>([])
  useEffect(() => {
    const stop = new AbortController()
    let all: string[] = []
    const follow = async () => {
      for (let failures = 0; !stop.signal.aborted; failures++) {
        const connection = new AbortController()
        const end = () => connection.abort()
        stop.signal.addEventListener('abort', end)
        const query = new URLSearchParams({ after: String(noEvents) })
        if (all.length > 0) query.set('offsets', `${encodeURIComponent(name)}:${all.length}`)
        await readStream(
          `/runs/${runId}/events?${query}`,
          authorization(),
          connection,
          () => {
            failures = 0
          },
          ({ event, data }) => {
            if (event !== 'chunk') return
            const chunk = JSON.parse(data) as Chunk
            if (chunk.stream !== name) return
            all = append(all, chunk)
            setText(all)
          },
          // Whatever it was, the way on is to connect again.
        ).catch(() => {})
        stop.signal.removeEventListener('abort', end)
        await pause(Math.min(250 * 2 ** failures, 5_000), stop.signal)
      }
    }
    void follow()
    return () => stop.abort()
  }, [runId, name])
  if (text.length === 0) return null
  return (
    <section aria-label="Text so far">
      <h3>Text so far</h3>
      <pre class="live-text">
        {text.length > most && '…'}
        {text.slice(-most).join('')}
      </pre>
    </section>
  )
}
