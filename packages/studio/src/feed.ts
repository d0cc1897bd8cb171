// One connection to the project's event stream for everything that Studio shows. It goes on after the last event it saw
// when the server was away, and rests while nobody looks at the tab.

import { signal } from '@preact/signals'
import type { Event } from '@tidebase/wire'
import { authorization, can } from './api.ts'
import { forgetKey } from './session.ts'
import { pause, readStream, StreamRefused } from './sse.ts'

/** `live`: what is shown is what is. `away`: the connection is being made again. `never`: the key may not listen. */
export const liveness = signal<'connecting' | 'live' | 'away' | 'never'>('connecting')

type Listener = (event: Event | null) => void
const listeners = new Set<Listener>()

/**
 * Hears every event of the project.
 *
 * @param listener called with null when events may have been missed, or in place of them where the key cannot listen
 * @returns ends it
 */
export function onEvent(listener: Listener): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

const tell = (event: Event | null) => {
  for (const listener of [...listeners]) listener(event)
}

const pollMs = 5_000

/** Follows the stream until `signal` aborts. */
export async function follow(signal: AbortSignal): Promise<void> {
  liveness.value = 'connecting'
  if (!can('streamProjectEvents')) {
    liveness.value = 'never'
    while (!signal.aborted) {
      await pause(pollMs, signal)
      tell(null)
    }
    return
  }
  let last: number | undefined
  let failures = 0
  while (!signal.aborted) {
    const connection = new AbortController()
    const end = () => connection.abort()
    signal.addEventListener('abort', end)
    document.addEventListener('visibilitychange', rest)
    function rest() {
      if (document.hidden) end()
    }
    try {
      await untilVisible(signal)
      const resumed = last !== undefined && { 'last-event-id': String(last) }
      await readStream(
        '/events?after=latest',
        { ...authorization(), ...resumed },
        connection,
        () => {
          liveness.value = 'live'
          // What was asked meanwhile went wrong, whether or not anything happened.
          if (last === undefined || failures > 0) tell(null)
          failures = 0
        },
        ({ data }) => {
          const event = JSON.parse(data) as Event
          last = event.id
          tell(event)
        },
      )
    } catch (problem) {
      if (problem instanceof StreamRefused && problem.status === 401) return forgetKey()
      // Whatever else it was, the way on is to connect again.
    } finally {
      signal.removeEventListener('abort', end)
      document.removeEventListener('visibilitychange', rest)
      end()
    }
    if (signal.aborted) return
    if (!document.hidden) liveness.value = 'away'
    await pause(Math.min(250 * 2 ** failures++, 5_000), signal)
  }
}

function untilVisible(signal: AbortSignal): Promise<void> {
  if (!document.hidden) return Promise.resolve()
  return new Promise((resolve) => {
    document.addEventListener('visibilitychange', () => resolve(), { once: true, signal })
    signal.addEventListener('abort', () => resolve(), { once: true })
  })
}
