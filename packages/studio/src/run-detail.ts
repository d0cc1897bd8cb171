// A run with some of its parts, live.
import { useRef } from 'preact/hooks'
import { call } from './api.ts'
import { type Query, useQuery } from './query.ts'
import type { Detail } from './types.ts'

const stepsPerPage = 500

/** Steps that can change no more, and where those that follow begin. */
interface Settled {
  steps: Detail['steps']
  next: number
}

/**
 * Loads a run, again whenever something happens in it, and when a child of it begins or ends. Of a long run only the
 * steps from the first page on that can still change are loaded again.
 *
 * @param parts as `include` of GET /runs/:runId takes them
 */
export function useRun(runId: string, parts: string): Query<Detail> {
  const key = `run ${runId} ${parts}`
  const children = useRef<ReadonlySet<string>>(new Set())
  const known = useRef<{ key: string; settled: Settled | undefined }>({ key, settled: undefined })
  const query = useQuery(
    key,
    async (signal) => {
      const mine = known.current.key === key ? known.current : { key, settled: undefined }
      const { detail, settled } = await loadRun(runId, parts, mine.settled, signal)
      known.current = { key, settled }
      return detail
    },
    (event) => event.runId === runId || (event.type.startsWith('run.') && children.current.has(event.runId)),
  )
  children.current = new Set(query.data?.childRuns.map(({ id }) => id))
  return query
}

async function loadRun(runId: string, include: string, known: Settled | undefined, signal: AbortSignal) {
  const page = (include: string, after: number | undefined) => {
    const stepsAfter = after === undefined ? {} : { stepsAfter: after }
    return call('getRun', { params: { runId }, query: { include, stepsLimit: stepsPerPage, ...stepsAfter }, signal })
  }
  const detail = await page(include, known?.next)
  let settled = known
  const steps = [...(known?.steps ?? []), ...detail.steps]
  for (let { steps: read, nextStepsAfter: next } = detail; typeof next === 'number'; ) {
    // A completed step stays as it is.
    const before = steps.length - read.length === (settled?.steps.length ?? 0)
    if (before && read.every(({ status }) => status === 'completed')) settled = { steps: [...steps], next }
    const further = await page('steps', next)
    steps.push(...further.steps)
    read = further.steps
    next = further.nextStepsAfter
  }
  return { detail: { ...detail, steps }, settled }
}
