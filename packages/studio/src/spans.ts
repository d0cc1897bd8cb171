// What a run did as spans of time: its steps with their attempts, gates, waits and children, those that belong together
// under one name.
import type { Detail, RunEvent } from './types.ts'

/** From when to when something went on, ms since 1970, and how it ended. */
export interface Span {
  begin: number
  /** null while it goes on. */
  end: number | null
  status: string
}

/** An attempt of a step. */
export interface Attempt extends Span {
  error: string | null
}

/** The attempts that events tell of. */
export interface Attempts {
  ofSteps: ReadonlyMap<string, Attempt[]>
  /** When the run was begun again, ms since 1970. */
  resumed: number[]
}

/** Nothing is known of attempts. */
export const noAttempts: Attempts = { ofSteps: new Map(), resumed: [] }

/** A row of a timeline. */
export interface Item extends Span {
  id: string
  runId: string
  kind: 'step' | 'gate' | 'wait' | 'child' | 'group'
  name: string
  attempts: number
  /** What there is to draw: one for each attempt that is known. */
  spans: readonly Span[]
  /** What a group is made of. */
  inside: readonly Item[]
}

const text = (payload: unknown, field: string) => {
  const value: unknown = typeof payload === 'object' && payload !== null ? Reflect.get(payload, field) : undefined
  return typeof value === 'string' ? value : null
}

const ends: Record<string, string> = {
  'step.completed': 'completed',
  'step.failed': 'failed',
  'step.manual_review': 'manual_review',
}

/** The attempts of steps, by what happened to them. An attempt whose end nobody told ended with the next. */
export function attemptsOf(events: readonly RunEvent[]): Attempts {
  const ofSteps = new Map<string, Attempt[]>()
  const begun: number[] = []
  for (const { type, payload, createdAt } of events) {
    const at = Date.parse(createdAt)
    if (type === 'run.started' || type === 'run.claimed') begun.push(at)
    const id = text(payload, 'stepId')
    if (id === null) continue
    const known = ofSteps.get(id) ?? []
    const last = known.at(-1)
    if (type === 'step.started') {
      const error = text(payload, 'lastError')
      if (last?.end === null)
        Object.assign(last, { end: at, status: error === null ? 'retried' : 'failed_retryable', error })
      known.push({ begin: at, end: null, status: 'running', error: null })
      ofSteps.set(id, known)
    }
    const status = ends[type]
    if (last && last.end === null && status !== undefined)
      Object.assign(last, { end: at, status: text(payload, 'status') ?? status, error: text(payload, 'error') })
  }
  return { ofSteps, resumed: begun.slice(1) }
}

const at = (time: string | null) => (time === null ? null : Date.parse(time))

/** What happened in a run, in the order in which it began; what is numbered under one name is a group. */
export function itemsOf({ run, steps, gates, waits, runEdges, childRuns }: Detail, attempts: Attempts): Item[] {
  const ended = at(run.completedAt)
  const edges = new Map(runEdges.map(({ childRunId, name }) => [childRunId, name]))
  const item = (
    of: Pick<Item, 'id' | 'kind' | 'name' | 'status' | 'begin' | 'end'>,
    tries = 1,
    known?: readonly Span[],
  ): Item => {
    const whole: Span = { begin: of.begin, end: of.end, status: of.status }
    const spans = known && known.length > 1 ? withEnd(known, whole) : [whole]
    return {
      ...of,
      begin: spans[0]?.begin ?? of.begin,
      runId: run.id,
      attempts: Math.max(tries, spans.length),
      spans,
      inside: [],
    }
  }
  const items = [
    ...steps.map(({ id, name, status, startedAt, createdAt, updatedAt, completedAt, attempt }) =>
      item(
        {
          id,
          kind: 'step',
          name,
          status,
          begin: Date.parse(startedAt ?? createdAt),
          end: at(completedAt) ?? (status === 'running' ? ended : Date.parse(updatedAt)),
        },
        attempt,
        attempts.ofSteps.get(id),
      ),
    ),
    ...gates.map(({ id, name, status, createdAt, resolvedAt }) =>
      item({ id, kind: 'gate', name, status, begin: Date.parse(createdAt), end: at(resolvedAt) ?? ended }),
    ),
    ...waits.map(({ id, name, status, createdAt, resolvedAt }) =>
      item({
        id,
        kind: 'wait',
        name,
        status: status === 'pending' ? 'waiting' : status,
        begin: Date.parse(createdAt),
        end: at(resolvedAt) ?? ended,
      }),
    ),
    ...childRuns.map((child) =>
      item(
        {
          id: child.id,
          kind: 'child',
          name: edges.get(child.id) ?? child.workflowName,
          status: child.status,
          begin: Date.parse(child.createdAt),
          end: at(child.completedAt),
        },
        Math.max(1, child.attempt),
      ),
    ),
  ]
  return grouped(items.sort((a, b) => a.begin - b.begin))
}

/**
 * Attempts, the last of which is as the step says: many steps are told of when they are done, so that their events come
 * late.
 */
function withEnd(known: readonly Span[], whole: Span): Span[] {
  const last = known.length - 1
  const before = known[last - 1]?.end ?? 0
  return known.map((span, n) =>
    n === last ? { ...whole, begin: Math.min(span.begin, Math.max(whole.begin, before)) } : span,
  )
}

const severity = ['failed', 'manual_review', 'failed_retryable', 'running', 'waiting', 'pending', 'queued', 'cancelled']

function grouped(items: Item[]): Item[] {
  const groups = new Map<string, Item[]>()
  const keyOf = ({ kind, name }: Item) => {
    const [, base] = /^(.+)#\d+$/.exec(name) ?? []
    return base === undefined ? undefined : `${kind} ${base}`
  }
  for (const item of items) {
    const key = keyOf(item)
    if (key === undefined) continue
    const group = groups.get(key)
    if (group) group.push(item)
    else groups.set(key, [item])
  }
  return items.flatMap((item) => {
    const key = keyOf(item)
    const inside = key === undefined ? undefined : groups.get(key)
    if (inside === undefined || inside.length < 2) return [item]
    if (inside[0] !== item) return []
    const end = inside.some((each) => each.end === null)
      ? null
      : inside.reduce((latest, each) => Math.max(latest, each.end ?? 0), 0)
    const status = severity.find((each) => inside.some((one) => one.status === each)) ?? 'completed'
    const whole: Span = { begin: item.begin, end, status }
    const name = item.name.replace(/#\d+$/, '')
    return [
      {
        ...whole,
        id: `${item.runId} ${key}`,
        runId: item.runId,
        kind: 'group',
        name,
        attempts: 1,
        spans: [whole],
        inside,
      },
    ]
  })
}

/** How many of a group are done, as `48 of 50`. */
export const progress = ({ inside }: Item) =>
  `${inside.filter(({ status }) => status === 'completed').length} of ${inside.length}`
