// The list of runs as it changes: pages by keyset, the newest page again whenever something happens.
import type { Event, ReplyOf, Routes } from '@tidebase/wire'
import { useEffect, useRef, useState } from 'preact/hooks'
import { type CallError, call } from './api.ts'
import { onEvent } from './feed.ts'
import { shown } from './query.ts'

/** A run as the list shows it. */
export type Run = ReplyOf<Routes['listRuns']>['runs'][number]

const pageSize = 100
/** Further down than this nothing is put in above what somebody reads, px. */
const readingFrom = 300

const statusAfter: Record<string, Run['status']> = {
  'run.claimed': 'running',
  'run.started': 'running',
  'run.requeued': 'queued',
  'run.completed': 'completed',
  'run.failed': 'failed',
  'run.cancelled': 'cancelled',
  'run.waiting': 'waiting',
}

/** The list so far. */
export interface LiveRuns {
  runs: Run[]
  /** Whether the first page has come. */
  ready: boolean
  /** New runs that are held back while somebody reads further down. */
  held: number
  /** Shows them. */
  release(): void
  /** Loads the next page, if there is one. */
  more(): void
  error: CallError | undefined
}

const isOlder = (run: Run, than: Run) =>
  run.createdAt < than.createdAt || (run.createdAt === than.createdAt && run.id < than.id)

/** Follows the runs that a query finds. */
export function useLiveRuns(query: Record<string, string>, since: number | undefined): LiveRuns {
  const key = JSON.stringify([query, since])
  const [, rerender] = useState(0)
  const list = useRef({ key: '', runs: [] as Run[], cursor: null as string | null, ready: false, held: [] as Run[] })
  const error = useRef<CallError | undefined>(undefined)
  const more = useRef<() => void>(() => {})
  useEffect(() => {
    const stop = new AbortController()
    const state = { key, runs: [] as Run[], cursor: null as string | null, ready: false, held: [] as Run[] }
    list.current = state
    const show = () => {
      if (!stop.signal.aborted) rerender((n) => n + 1)
    }
    const load = (before?: string) =>
      call('listRuns', {
        query: {
          ...query,
          ...(since && { from: new Date(Date.now() - since).toISOString() }),
          ...(before && { before }),
          limit: String(pageSize),
        },
        signal: stop.signal,
      })
    const attempt = async (work: () => Promise<void>) => {
      try {
        await work()
        error.current = undefined
      } catch (problem) {
        if (stop.signal.aborted) return
        error.current = shown(problem)
        state.ready = true
      }
      show()
    }

    let timer: ReturnType<typeof setTimeout> | undefined
    let loading = false
    const refresh = () =>
      attempt(async () => {
        loading = true
        const began = performance.now()
        const { runs, nextCursor } = await load().finally(() => {
          loading = false
        })
        const oldest = runs.at(-1)
        const known = new Set(state.runs.map(({ id }) => id))
        const fresh = state.ready && window.scrollY > readingFrom ? runs.filter(({ id }) => !known.has(id)) : []
        const older = oldest && nextCursor !== null ? state.runs.filter((run) => isOlder(run, oldest)) : []
        if (older.length === 0) state.cursor = nextCursor
        const held = new Set(fresh.map(({ id }) => id))
        state.held = fresh
        state.runs = [...runs.filter(({ id }) => !held.has(id)), ...older]
        state.ready = true
        if (wanted) soon((performance.now() - began) * 4)
        wanted = false
      })
    let wanted = false
    const soon = (ms = 0) => {
      if (loading) wanted = true
      else
        timer ??= setTimeout(
          () => {
            timer = undefined
            void refresh()
          },
          Math.max(300, ms),
        )
    }
    let paging = false
    more.current = () => {
      const { cursor } = state
      if (paging || cursor === null) return
      paging = true
      void attempt(async () => {
        const { runs, nextCursor } = await load(cursor).finally(() => {
          paging = false
        })
        const known = new Set(state.runs.map(({ id }) => id))
        state.runs = [...state.runs, ...runs.filter(({ id }) => !known.has(id))]
        state.cursor = nextCursor
      })
    }
    void refresh()
    const end = onEvent((event: Event | null) => {
      const status = event && statusAfter[event.type]
      if (event && status) {
        const changed = state.runs.findIndex(({ id }) => id === event.runId)
        const run = state.runs[changed]
        if (run && changed >= pageSize) state.runs = state.runs.with(changed, { ...run, status })
      }
      if (event === null || event.type.startsWith('run.')) soon()
    })
    return () => {
      stop.abort()
      clearTimeout(timer)
      end()
    }
  }, [key])

  const state = list.current.key === key ? list.current : undefined
  return {
    runs: state?.runs ?? [],
    ready: state?.ready ?? false,
    held: state?.held.length ?? 0,
    release: () => {
      window.scrollTo(0, 0)
      if (!state) return
      const known = new Set(state.runs.map(({ id }) => id))
      state.runs = [...state.held.filter(({ id }) => !known.has(id)), ...state.runs]
      state.held = []
      rerender((n) => n + 1)
    },
    more: () => more.current(),
    error: error.current,
  }
}
