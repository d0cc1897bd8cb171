// A run with some of its parts, live.
import { useRef } from 'preact/hooks'
import { call } from './api.ts'
import { type Query, useQuery } from './query.ts'
import type { Detail } from './types.ts'

/**
 * Loads a run, again whenever something happens in it, and when a child of it begins or ends.
 *
 * @param parts as `include` of GET /runs/:runId takes them
 */
export function useRun(runId: string, parts: string): Query<Detail> {
  const children = useRef<ReadonlySet<string>>(new Set())
  const query = useQuery(
    `run ${runId} ${parts}`,
    (signal) => call('getRun', { params: { runId }, query: { include: parts }, signal }),
    (event) => event.runId === runId || (event.type.startsWith('run.') && children.current.has(event.runId)),
  )
  children.current = new Set(query.data?.childRuns.map(({ id }) => id))
  return query
}
