import pg from 'pg'
import { expect, onTestFinished, test, vi } from 'vitest'
import { openFrames, take } from '../../../test/frames.ts'
import { startServer } from '../../../test/server.ts'

// A prepared plan is made once, often while the tables are empty, and stays when they have grown. So on fresh tables,
// without statistics, every prepared statement must already look rows up as it has to among millions.

/** Indexes that find few rows whatever the table holds. Others may be read in order by lists, which are not prepared. */
const finders =
  /_pkey$|^events_by_id$|^live_runs_by_queue$|^runs_dedupe$|^waits_pending$|^signals_unread$|^queue_claims_recent$|^projects_|^api_keys_|^channels_|^servers_/

interface Node {
  'Node Type': string
  'Index Name'?: string
  'Index Cond'?: string
  'Relation Name'?: string
  Plans?: Node[]
}

/** What of a plan would grow with its tables. */
function slow(node: Node, under?: Node): string[] {
  const type = node['Node Type']
  const table = node['Relation Name']
  const found: string[] = []
  if (type === 'Seq Scan' || type === 'Bitmap Heap Scan') found.push(`${type} on ${table}`)
  if (type.startsWith('Index')) {
    const index = node['Index Name'] ?? ''
    if (!finders.test(index) || !node['Index Cond']) found.push(`${type} on ${index} (${node['Index Cond']})`)
    // What is read of one run is as large as the run.
    const ofRun = /\brun_id = \$/.test(node['Index Cond'] ?? '')
    if (under && /^(Hash|Merge|Sort)/.test(under['Node Type']) && !ofRun)
      found.push(`${under['Node Type']} over all of ${table}`)
  }
  return [...found, ...(node.Plans ?? []).flatMap((child) => slow(child, node))]
}

test('prepared statements find their rows by key, also when their plans are made on empty tables', async () => {
  const seen = new Map<string, { text: string; values: unknown[] }>()
  const query = vi.spyOn(pg.Client.prototype, 'query')
  onTestFinished(() => query.mockRestore())
  const server = await startServer({ leaseMs: 60_000, allowPrivateWebhooks: true })
  onTestFinished(() => server.stop())

  const { run } = await server.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  const params = { runId: run.id }
  const worker = { 'x-tidebase-worker': 'w1' }
  const step = { inputHash: 'a'.repeat(64), leaseOwner: 'w1' }
  await server.ok('beginRun', { params, headers: worker })
  await server.ok('recordStep', { params, body: { ...step, name: 'a', output: 1 } })
  await server.ok('recordStep', { params, body: { ...step, name: 'a', output: 1, leaseOwner: 'w2' } })
  const together = [run.id, `run_${'0'.repeat(32)}`].map((runId) => ({
    route: 'recordStep' as const,
    params: { runId },
    body: { ...step, name: 'together', output: 1 },
  }))
  await server.ok('batch', { body: { calls: together } })
  const plain = { route: 'enqueue' as const, params: { queue: 'alike' }, body: { workflowName: 'w' } }
  await server.ok('batch', { body: { calls: [plain, plain] } })
  for (const name of ['b', 'c']) {
    const begun = await server.ok('beginStep', { params, body: { ...step, name } })
    if (begun.action !== 'execute') throw new Error(begun.action)
    const path = { ...params, stepId: begun.step.id }
    if (name === 'b') await server.ok('completeStep', { params: path, body: { leaseOwner: 'w1', output: 1 } })
    else await server.ok('failStep', { params: path, body: { leaseOwner: 'w1', error: 'no', retryable: true } })
  }
  const watching = await openFrames(`${server.url}/runs/${run.id}/events`)
  for (const [offset, chunk] of [...'abc'].entries()) {
    await server.ok('appendStream', { params, body: { stream: 'd', offset, chunk } })
  }
  await take(watching.frames, 3)
  watching.close()
  await server.ok('recordStep', { params, body: { ...step, name: 'd', output: 1 } })
  await server.ok('heartbeatRun', { params, body: { leaseOwner: 'w1' } })
  await server.ok('setState', { params, body: { value: { n: 1 } } })
  await server.ok('recordUsage', { params, body: { kind: 'llm', inputTokens: 1 } })
  await server.ok('createChild', { params, body: { name: 'child', workflowName: 'w' } })
  const { gate } = await server.ok('beginGate', { params, body: { name: 'g', prompt: '?' } })
  await server.ok('resolveGate', {
    params: { ...params, gateId: gate.id },
    body: { decision: 'approved', token: gate.resolveToken },
  })
  const { wait } = await server.ok('waitForSignal', { params, body: { name: 'a', signal: 's' } })
  await server.ok('sendSignal', { params, body: { name: 's' } })
  await server.ok('createTimer', { params, body: { name: 't', delayMs: 1 } })
  await server.ok('getWait', { params: { ...params, waitId: wait.id } })
  await server.ok('parkRun', { params, body: { leaseOwner: 'w1', waitingFor: [wait.id] } })
  await server.send('resolveStep', {
    params: { ...params, stepId: gate.id.replace('gate', 'step') },
    body: { decision: 'retry' },
  })
  await server.ok('completeRun', { params, body: { leaseOwner: 'w1' } })
  const job = { params: { queue: 'q' }, body: { workflowName: 'w', dedupeKey: 'k' } }
  await server.ok('configureQueue', { params: { queue: 'q' }, body: { concurrency: 5, ratePerMinute: 100 } })
  await server.ok('claim', { body: { queues: ['q'], leaseOwner: 'w1' } })
  await server.ok('enqueue', job)
  await server.ok('enqueue', job)
  await server.ok('configureQueue', { params: { queue: 'q' }, body: { perKeyConcurrency: 1 } })
  await server.ok('enqueue', { params: { queue: 'q' }, body: { workflowName: 'w', concurrencyKey: 'a' } })
  for (const brief of [true, false]) {
    for (let n = 0; n < 3; n++) await server.ok('enqueue', { params: { queue: 'busy' }, body: { workflowName: 'w' } })
    // The first claim that finds as much as it wanted tells that the queue is busy.
    await server.ok('claim', { body: { queues: ['busy'], leaseOwner: 'w1' } })
    const { runs } = await server.ok('claim', { body: { queues: ['busy'], leaseOwner: 'w1', brief } })
    await server.ok('completeRun', { params: { runId: runs[0]?.id ?? '' }, body: { leaseOwner: 'w1', brief: true } })
  }
  for (const jobs of [
    Array.from({ length: 50 }, () => ({ workflowName: 'w' })),
    [{ workflowName: 'w', dedupeKey: 'k' }],
  ]) {
    await server.ok('enqueueBatch', { params: { queue: 'busy' }, body: { jobs, brief: true } })
  }
  const claimed = await server.ok('claim', { body: { queues: ['q'], leaseOwner: 'w1' } })
  const failing = { params: { runId: claimed.runs[0]?.id ?? '' }, body: { leaseOwner: 'w1', error: 'no' } }
  await server.ok('failRun', failing)
  const other = await server.ok('createRun', {
    params: { workflowName: 'w' },
    body: { recoveryWebhook: 'http://127.0.0.1:9/' },
  })
  await server.ok('recoverRun', { params: { runId: other.run.id }, body: {} })
  await server.ok('cancelRun', { params: { runId: other.run.id }, body: {} })

  await server.ok('getRun', { params })
  const feed = await openFrames(`${server.url}/events`)
  await take(feed.frames, 3)
  feed.close()

  for (const [given] of query.mock.calls) {
    const { name, text, values = [] } = given as unknown as { name?: string; text: string; values?: unknown[] }
    if (name) seen.set(name, { text, values })
  }
  expect([...seen.keys()]).toEqual(
    expect.arrayContaining([
      'steps.record',
      'steps.record_fresh',
      'steps.record_fresh_alone',
      'queues.claim',
      'queues.claim_keyed',
      'queues.claim_ready',
      'queues.claim_brief',
      'runs.create',
      'runs.create_brief',
      'queues.enqueue_fresh',
      'queues.enqueue_fresh_alone',
      'queues.enqueue_many',
      'runs.complete_fresh',
      'gates.resolve',
      'signals.send',
      'runs.park',
      'steps.resolve',
      'streams.append',
      'streams.read',
      'streams.drop',
      'events.feed',
      'events.backlog',
      'events.page',
      'steps.page',
      'runs.parts',
    ]),
  )
  query.mockRestore()

  const fresh = await startServer({ reconciler: false })
  onTestFinished(() => fresh.stop())
  const db = new pg.Client(fresh.databaseUrl)
  await db.connect()
  onTestFinished(() => db.end())
  await db.query('set plan_cache_mode = force_generic_plan')
  await db.query('set enable_seqscan = off')
  const problems: Record<string, string[]> = {}
  let number = 0
  for (const [name, { text, values }] of seen) {
    const prepared = `s${number++}`
    await db.query(`prepare ${prepared} as ${text}`)
    const literals = values.map((value) => (value == null ? 'null' : db.escapeLiteral(String(value))))
    const args = literals.length ? `(${literals.join(', ')})` : ''
    const { rows } = await db.query<{ 'QUERY PLAN': [{ Plan: Node }] }>(
      `explain (format json) execute ${prepared}${args}`,
    )
    const found = rows[0] ? slow(rows[0]['QUERY PLAN'][0].Plan) : ['no plan']
    if (found.length > 0) problems[name] = found
  }
  expect(problems).toEqual({})
})
