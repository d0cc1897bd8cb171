// One connection to the project's event stream for everything that Studio shows. It goes on after the last event it saw
// when the server was away, and rests while nobody looks at the tab.

import { signal } from '@preact/signals'
import type { Event } from '@tidebase/wire'
import { authorization, can } from './api.ts'

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

/** Without a word for this long the connection is dead: the server says something every 15 s. */
const silenceMs = 40_000
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
    let silence = setTimeout(end, silenceMs)
    function rest() {
      if (document.hidden) end()
    }
    try {
      await untilVisible(signal)
      const resumed = last !== undefined && { 'last-event-id': String(last) }
      const response = await fetch('/events?after=latest', {
        headers: { ...authorization(), ...resumed },
        signal: connection.signal,
      })
      if (!response.ok || !response.body) throw new Error(`HTTP ${response.status}`)
      liveness.value = 'live'
      failures = 0
      if (last === undefined) tell(null)
      for await (const event of parse(response.body)) {
        clearTimeout(silence)
        silence = setTimeout(end, silenceMs)
        if (event === null) continue
        last = event.id
        tell(event)
      }
    } catch {
      // Whatever it was, the way on is to connect again.
    } finally {
      clearTimeout(silence)
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

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    signal.addEventListener(
      'abort',
      () => {
        clearTimeout(timer)
        resolve()
      },
      { once: true },
    )
  })
}

/** The events of a body; null for what only shows that the server is there. */
async function* parse(body: ReadableStream<Uint8Array>): AsyncGenerator<Event | null> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader()
  let rest = ''
  for (;;) {
    const { value, done } = await reader.read()
    if (done) return
    const frames = (rest + value).split('\n\n')
    rest = frames.pop() ?? ''
    yield null
    for (const frame of frames) {
      const data = frame.split('\n').find((line) => line.startsWith('data: '))
      if (data) yield JSON.parse(data.slice(6)) as Event
    }
  }
}
