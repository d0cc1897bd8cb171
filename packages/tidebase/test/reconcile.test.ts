import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { openDatabase } from '../src/db.ts'

let server: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
beforeAll(async () => {
  server = await startServer({ leaseMs: 200, reconcileMs: 10, retentionDays: 30 })
  db = openDatabase({ connectionString: server.databaseUrl }, { hot: 1, cold: 1 })
})
afterAll(async () => {
  await db.close()
  await server.stop()
})

test('a run that the database will not let go holds up neither the others nor what the server does at times', async () => {
  // Whatever takes the lease from it changes its row.
  await db.cold.query(`create function keep() returns trigger language plpgsql as $$ begin
    if old.workflow_name = 'kept' and old.status = 'running' then raise exception 'kept'; end if;
    return new;
  end $$`)
  await db.cold.query('create trigger keep before update on tidebase.runs for each row execute function keep()')
  const claimed = async (workflowName: string) => {
    const { run } = await server.ok('enqueue', { params: { queue: 'q' }, body: { workflowName } })
    await server.ok('claim', { body: { queues: ['q'], leaseOwner: 'w1' } })
    return run.id
  }
  const kept = await claimed('kept')
  const other = await claimed('w')
  const { run } = await server.ok('createRun', { params: { workflowName: 'w' }, body: {} })
  const old = run.id
  await server.ok('beginRun', { params: { runId: old }, headers: { 'x-tidebase-worker': 'w1' } })
  await server.ok('completeRun', { params: { runId: old }, body: { leaseOwner: 'w1' } })
  const statusOf = async (runId: string) => (await server.send('getRun', { params: { runId } })).body.run
  const soon = (check: () => Promise<void>) => vi.waitFor(check, { timeout: 10_000, interval: 50 })
  await soon(async () => expect(await statusOf(other)).toMatchObject({ status: 'failed' }))
  await db.cold.query(
    `update tidebase.runs set created_at = created_at - interval '31 days', completed_at = completed_at - interval '31 days'
      where id = $1`,
    [old.slice(4)],
  )
  await soon(async () => expect(await statusOf(old)).toBeUndefined())
  expect(await statusOf(kept)).toMatchObject({ status: 'running', leaseOwner: 'w1' })
})
