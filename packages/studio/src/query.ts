// Data of the server as hooks: loaded, and loaded again when something happened that concerns it. A slow answer slows
// its own repetition down, so that a large run is not fetched over and over.
import type { Event } from '@tidebase/wire'
import { useCallback, useEffect, useRef, useState } from 'preact/hooks'
import { CallError } from './api.ts'
import { onEvent } from './feed.ts'

/** What is known of some data. */
export interface Query<T> {
  data: T | undefined
  error: CallError | undefined
  /** Loads again now. */
  reload(): void
}

const minPauseMs = 400

/** @returns `error` as what can be shown of it */
export function shown(error: unknown): CallError {
  if (error instanceof CallError) return error
  return new CallError({ error: error instanceof Error ? error.message : String(error), code: 'studio', hint: '' })
}

/**
 * Loads data, again whenever `key` changes and, softly, whenever a relevant event happens.
 *
 * @param relevant tells which events concern the data; null events (something may have been missed) always do
 */
export function useQuery<T>(
  key: string,
  load: (signal: AbortSignal) => Promise<T>,
  relevant: (event: Event) => boolean = () => false,
): Query<T> {
  const [state, setState] = useState<{ key: string; data?: T; error?: CallError }>({ key })
  const latest = useRef({ load, relevant })
  latest.current = { load, relevant }
  const again = useRef<() => void>(() => {})
  useEffect(() => {
    const stop = new AbortController()
    let loading = false
    let wanted = false
    let timer: ReturnType<typeof setTimeout> | undefined
    const run = async () => {
      if (loading) {
        wanted = true
        return
      }
      clearTimeout(timer)
      timer = undefined
      loading = true
      wanted = false
      const began = performance.now()
      try {
        const data = await latest.current.load(stop.signal)
        if (!stop.signal.aborted) setState({ key, data })
      } catch (error) {
        if (!stop.signal.aborted) setState((old) => ({ ...(old.key === key && old), key, error: shown(error) }))
      }
      loading = false
      if (wanted && !stop.signal.aborted) soon(performance.now() - began)
    }
    const soon = (took = 0) => {
      timer ??= setTimeout(() => void run(), Math.max(minPauseMs, took * 4))
    }
    again.current = () => void run()
    void run()
    const end = onEvent((event) => {
      if (event && !latest.current.relevant(event)) return
      if (loading) wanted = true
      else soon()
    })
    return () => {
      stop.abort()
      clearTimeout(timer)
      end()
    }
  }, [key])
  const reload = useCallback(() => again.current(), [])
  return {
    data: state.key === key ? state.data : undefined,
    error: state.key === key ? state.error : undefined,
    reload,
  }
}
