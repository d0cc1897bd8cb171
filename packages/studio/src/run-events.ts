// The events of a run as a hook, and what they tell of the attempts of its steps.
import { useEffect, useMemo, useState } from 'preact/hooks'
import { type CallError, call } from './api.ts'
import { onEvent } from './feed.ts'
import { shown } from './query.ts'
import { type Attempts, attemptsOf, noAttempts } from './spans.ts'
import type { Detail, RunEvent } from './types.ts'

const pageSize = 5_000

/**
 * The events of a run: read in pages until all are here, then as they happen.
 *
 * @param runId undefined reads nothing
 */
export function useEvents(runId: string | undefined): { events: RunEvent[]; error: CallError | undefined } {
  const [events, setEvents] = useState<RunEvent[]>([])
  const [error, setError] = useState<CallError>()
  useEffect(() => {
    setEvents([])
    if (runId === undefined) return
    const stop = new AbortController()
    const all: RunEvent[] = []
    let reading = false
    let wanted = false
    const read = async () => {
      wanted = true
      if (reading) return
      reading = true
      try {
        while (wanted && !stop.signal.aborted) {
          wanted = false
          const query = { include: 'events', eventsAfter: all.at(-1)?.seq ?? 0, eventsLimit: pageSize }
          const page = await call('getRun', { params: { runId }, query, signal: stop.signal })
          all.push(...page.events)
          setEvents([...all])
          setError(undefined)
          if (page.nextEventsAfter !== null) wanted = true
        }
      } catch (problem) {
        if (!stop.signal.aborted) setError(shown(problem))
      }
      reading = false
    }
    void read()
    const end = onEvent((event) => {
      if (event === null || event.runId === runId) void read()
    })
    return () => {
      stop.abort()
      end()
    }
  }, [runId])
  return { events, error }
}

/** The attempts of a run and of its steps, as far as there were several: most runs' events are not read for it. */
export function useAttempts(detail: Detail | undefined): Attempts {
  const several = detail && (detail.run.attempt > 1 || detail.steps.some(({ attempt }) => attempt > 1))
  const { events } = useEvents(several ? detail.run.id : undefined)
  return useMemo(() => (events.length === 0 ? noAttempts : attemptsOf(events)), [events])
}
