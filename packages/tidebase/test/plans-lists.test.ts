import pg from 'pg'
import { expect, onTestFinished, test, vi } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { keepLive } from '../src/live-runs.ts'

// What Studio lists and counts must not read what ended long ago: the plans of its statements are run on a project with
// far more finished runs than any of them may look at.

const finished = 40_000
/** Rows that a statement may read: what is shown or counted, what lies between, and what the project has live. */
const mayRead = { listRuns: 2_000, countRuns: 15_000, cancelRuns: 15_000, retryRuns: 15_000 } as const

const filters: Record<string, string>[] = [
  {},
  { status: 'completed' },
  { status: 'failed' },
  { status: 'running' },
  { status: 'cancelled' },
  { workflow: 'busy' },
  { workflow: 'busy', status: 'failed' },
  { workflow: 'busy', status: 'running' },
  { workflow: 'busy', status: 'cancelled' },
  { workflow: 'none' },
  { queue: 'jobs' },
  { queue: 'jobs', status: 'failed' },
  { queue: 'jobs', status: 'cancelled' },
  { queue: 'jobs', status: 'queued' },
  { search: 'bus' },
  { search: 'bus', status: 'waiting' },
  { search: 'nothing' },
  { search: 'run_0' },
  { 'metadata.tenant': 'rare' },
  { 'metadata.tenant': 'nobody' },
  { 'metadata.tenant': 'rare', status: 'failed' },
  { 'metadata.count': '7' },
  { cancelReason: 'budget' },
  { cancelReason: 'nobody' },
  { cancelReason: 'budget', status: 'completed' },
  { from: '2026-01-01T00:00:00Z', to: '2026-01-01T00:01:00Z' },
  { to: '2020-01-01T00:00:00Z', status: 'failed' },
]

interface Node {
  'Actual Rows': number
  'Actual Loops': number
  'Rows Removed by Filter'?: number
  'Rows Removed by Index Recheck'?: number
  'Relation Name'?: string
  Plans?: Node[]
}

/** Rows of tidebase.runs that a plan has read. */
function read(node: Node): number {
  const rows =
    node['Actual Rows'] + (node['Rows Removed by Filter'] ?? 0) + (node['Rows Removed by Index Recheck'] ?? 0)
  const own = node['Relation Name'] === 'runs' ? rows * node['Actual Loops'] : 0
  return (node.Plans ?? []).reduce((sum, child) => sum + read(child), own)
}

test('lists, counts and bulk calls read no more finished runs than they show or count', {
  timeout: 120_000,
}, async () => {
  const server = await startServer({ reconciler: false })
  onTestFinished(() => server.stop())
  const db = new pg.Client(server.databaseUrl)
  await db.connect()
  onTestFinished(() => db.end())
  // A busy workflow and queue whose runs all completed, another whose runs all stopped, and a few runs that are live.
  await db.query(
    `with made as (
    insert into tidebase.runs (project, id, workflow_name, input, metadata, status, queue, cancel_reason, created_at)
    select 1, gen_random_uuid(), case when n % 4 = 0 then 'other' else 'busy' end, '{}',
      case when n % 3 = 0 then json_build_object('tenant', case when n % 3000 = 0 then 'rare' else 't' || n % 500 end,
        'count', n % 1000)::jsonb else '{}' end,
      case when n > $1 then (array['queued', 'running', 'waiting', 'pending'])[1 + n % 4]
        when n % 8 = 0 then 'failed' when n % 8 = 4 then 'cancelled' else 'completed' end,
      case when n % 4 > 0 then 'jobs' end, case when n % 8 = 4 then 'user' end,
      timestamptz '2026-01-01' + n * interval '1 s'
    from generate_series(1, $1 + 200) n returning *
    ), ${keepLive('made')} select`,
    [finished],
  )
  await db.query('analyze tidebase.runs, tidebase.live_runs')

  const query = vi.spyOn(pg.Client.prototype, 'query')
  onTestFinished(() => query.mockRestore())
  const far: unknown[] = []
  let looked = 0
  for (const filter of filters) {
    for (const name of ['listRuns', 'countRuns', 'cancelRuns', 'retryRuns'] as const) {
      query.mockClear()
      const bulk = name === 'cancelRuns' || name === 'retryRuns'
      await server.ok(name, bulk ? { body: { filter, dryRun: true } } : { query: filter })
      const asked = query.mock.calls.map(([given]) => given as unknown as { text: string; values?: unknown[] })
      for (const { text, values = [] } of asked.filter(({ text }) => text.includes('tidebase.runs r'))) {
        const { rows } = await db.query<{ 'QUERY PLAN': [{ Plan: Node }] }>(
          `explain (analyze, format json) ${text}`,
          values,
        )
        const rowsRead = rows[0] ? read(rows[0]['QUERY PLAN'][0].Plan) : Number.POSITIVE_INFINITY
        looked++
        if (rowsRead > mayRead[name]) far.push({ name, filter, rowsRead, values })
      }
    }
  }
  expect(far).toEqual([])
  expect(looked).toBeGreaterThan(filters.length * 4)
})
