// What a child run did, for the timeline of its parent.
import { useEffect } from 'preact/hooks'
import { Problem } from '../../parts/basics.tsx'
import { useRun } from '../../run-detail.ts'
import { useAttempts } from '../../run-events.ts'
import type { Attempts } from '../../spans.ts'
import type { Detail } from '../../types.ts'

/** A run and the attempts of its steps. */
export interface History {
  detail: Detail
  attempts: Attempts
}

/** The parts of a run that its timeline is made of. */
export const timelineParts = 'steps,gates,waits,runEdges,childRuns'

/** Loads a child for as long as it is there, and again whenever something happens in it. Shows only what went wrong. */
export function LoadChild({ runId, onLoad }: { runId: string; onLoad: (runId: string, history: History) => void }) {
  const { data, error } = useRun(runId, timelineParts)
  const attempts = useAttempts(data)
  useEffect(() => {
    if (data) onLoad(runId, { detail: data, attempts })
  }, [data, attempts])
  return <Problem error={error} />
}
