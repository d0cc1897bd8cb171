// The filter of the list of runs, as it stands in the address.
const fields = ['status', 'workflow', 'queue', 'search', 'from', 'to', 'cancelReason'] as const

/** Spans of time to choose from: what the address says, what people read, ms. */
export const spans: [string, string, number][] = [
  ['15m', 'last 15 minutes', 900_000],
  ['1h', 'last hour', 3_600_000],
  ['24h', 'last 24 hours', 86_400_000],
  ['7d', 'last 7 days', 604_800_000],
  ['30d', 'last 30 days', 2_592_000_000],
]

/** A filter: the query of GET /runs, and how far back it looks. */
export interface Filter {
  query: Record<string, string>
  since: number | undefined
}

/** Reads the filter of an address. */
export function readFilter(given: Record<string, string>): Filter {
  const query: Record<string, string> = {}
  for (const [field, value] of Object.entries(given)) {
    if (value === '') continue
    if (field.startsWith('metadata.') || fields.some((known) => known === field)) query[field] = value
  }
  for (const field of ['from', 'to']) {
    const time = Date.parse(query[field] ?? '')
    if (Number.isNaN(time)) delete query[field]
    else query[field] = new Date(time).toISOString()
  }
  return { query, since: spans.find(([name]) => name === given.since)?.[2] }
}

/** What the API takes: the span as a time. */
export function toQuery({ query, since }: Filter): Record<string, string> {
  return { ...query, ...(since && { from: new Date(Date.now() - since).toISOString() }) }
}

/** The address of the list with some fields changed; an empty value takes one away. */
export function addressOf(given: Record<string, string>, change: Record<string, string | undefined>): string {
  const search = new URLSearchParams()
  for (const [field, value] of Object.entries({ ...given, ...change })) if (value) search.set(field, value)
  return search.size ? `/ui/runs?${search}` : '/ui/runs'
}
