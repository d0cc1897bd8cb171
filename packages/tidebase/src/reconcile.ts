// The reconciler: a loop that looks for what time has brought about and calls the same operations a client would.
// Safe with any number of servers, because each operation looks again under the run's lock.
import { expireLease } from './attempts.ts'
import { cancelChildren, cancelRun } from './cancel.ts'
import { dropEndedStreams } from './chunks.ts'
import type { Caller, Engine } from './engine.ts'
import { ApiError } from './errors.ts'
import { timeOutGate } from './gates.ts'
import { deliveriesDue } from './outbox.ts'
import { foldQueueCounts } from './queues.ts'
import { retention } from './retention.ts'
import { fireSchedules } from './schedules.ts'
import { allEnded } from './settle.ts'
import { endWait } from './waits.ts'
import { invokePushed } from './webhooks.ts'

/** How much of each kind one round takes; a full batch is followed by another at once. */
const batch = 500

/** How often it says that this server is alive, ms; the others forget it after 15 s. A new one tells them itself. */
const seePeersMs = 4_000

const hex = (column: string) => `replace(${column}::text, '-', '')`

interface Due {
  project: number
  id: string
}

/**
 * Starts the loop.
 *
 * @param options.warn told of a round that failed, once until the next that succeeds
 * @returns `close` ends it after the round under way; `tick` runs one round now, for tests
 */
export function startReconciler(
  engine: Engine,
  { warn }: { warn: (error: unknown) => void },
): { tick(): Promise<void>; close(): Promise<void> } {
  let timer: NodeJS.Timeout | undefined
  let closed = false
  let running = Promise.resolve()
  let rounds = 0
  let failing = false
  let leftOver = false
  const deleteOldRuns = retention(engine)
  let peersSeen = Number.NEGATIVE_INFINITY

  const tick = async () => {
    try {
      if (performance.now() - peersSeen >= seePeersMs) {
        await engine.wakeups.seePeers()
        peersSeen = performance.now()
      }
      const tenth = rounds++ % 10 === 0
      await allEnded([
        round(engine),
        tenth && foldQueueCounts(engine.db.cold),
        tenth && dropEndedStreams(engine.db.cold),
        (tenth || leftOver) &&
          deleteOldRuns().then((more) => {
            leftOver = more
          }),
      ])
      failing = false
    } catch (error) {
      if (!failing) warn(error)
      failing = true
    }
  }
  const loop = () => {
    running = tick().then(() => {
      if (!closed) timer = setTimeout(loop, engine.settings.reconcileMs)
    })
  }
  loop()
  return {
    tick,
    async close() {
      closed = true
      clearTimeout(timer)
      await running
    },
  }
}

/** SQL: the leases that ran out, and the runs that nobody took up after their webhook was called. */
const expired = `tidebase.live_runs l join tidebase.runs r on r.id = l.run_id and r.project = l.project
  where l.status = 'running' and l.orphaned_at is null and r.lease_owner is not null and r.lease_expires_at < now()`
const forgotten = (leaseMs: string) =>
  `tidebase.live_runs l where l.orphaned_at < now() - ${leaseMs} * interval '1 ms' and l.recovers`
const pastDeadline = `tidebase.live_runs l where l.deadline_at < now()`

/** Whether there is anything to do, of each kind: a round on which nothing is due asks this one question. */
const due = `select
  exists (select from ${expired})
    or exists (select from ${forgotten('$1')}) as leases,
  exists (select from ${pastDeadline}) as deadlines,
  exists (select from tidebase.gates where status = 'pending' and timeout_at < now()) as gates,
  exists (select from tidebase.waits where status = 'pending' and due_at < now()) as waits,
  exists (select from tidebase.edges where cancelling) as children,
  exists (select from tidebase.schedules
    where enabled and next_run_at is not null and next_run_at <= now()) as schedules,
  exists (select from tidebase.queues where invoke_url is not null and not paused) as pushed,
  ${deliveriesDue} as deliveries`

async function round(engine: Engine): Promise<void> {
  const [is] = await engine.db.cold.query<
    Record<'leases' | 'deadlines' | 'gates' | 'waits' | 'children' | 'schedules' | 'pushed' | 'deliveries', boolean>
  >(due, [engine.settings.leaseMs])
  if (is?.deliveries) engine.wakeups.outbox()
  await allEnded([
    is?.leases && expireLeases(engine),
    is?.deadlines && passDeadlines(engine),
    is?.gates && timeOutGates(engine),
    is?.waits && endWaits(engine),
    is?.children && cancelChildren(engine),
    is?.schedules && fireSchedules(engine),
    is?.pushed && invokePushed(engine),
  ])
}

async function expireLeases(engine: Engine): Promise<void> {
  const { leaseMs } = engine.settings
  await inBatches(
    () => engine.db.cold.query<Due>(`select l.project, ${hex('l.run_id')} as id from ${expired} limit $1`, [batch]),
    ({ project, id }) => expireLease(engine, project, id),
  )
  // Runs that nobody took up after their webhook was called: once more per lease window.
  const again = await engine.db.cold.query<Due>(
    `select l.project, ${hex('l.run_id')} as id from ${forgotten('$1')} limit $2`,
    [leaseMs, batch],
  )
  await allEnded(again.map(({ project, id }) => expireLease(engine, project, id)))
}

async function passDeadlines(engine: Engine): Promise<void> {
  await inBatches(
    () =>
      engine.db.cold.query<Due>(`select l.project, ${hex('l.run_id')} as id from ${pastDeadline} limit $1`, [batch]),
    async ({ project, id }) => {
      const caller: Caller = { project, scope: 'admin', keyId: null }
      await cancelRun(engine, caller, id, { reason: 'deadline', actor: 'reconciler' }).catch((error) => {
        // It ended in the meantime.
        if (!(error instanceof ApiError && error.code === 'run_completed')) throw error
      })
    },
  )
}

async function timeOutGates(engine: Engine): Promise<void> {
  await inBatches(
    () =>
      engine.db.cold.query<Due & { run_id: string }>(
        `select g.project, ${hex('g.run_id')} as run_id, ${hex('g.id')} as id from tidebase.gates g
          where g.status = 'pending' and g.timeout_at < now() limit $1`,
        [batch],
      ),
    ({ project, run_id, id }) => timeOutGate(engine, project, run_id, id),
  )
}

async function endWaits(engine: Engine): Promise<void> {
  await inBatches(
    () =>
      engine.db.cold.query<Due & { run_id: string }>(
        `select w.project, ${hex('w.run_id')} as run_id, ${hex('w.id')} as id from tidebase.waits w
          where w.status = 'pending' and w.due_at < now() limit $1`,
        [batch],
      ),
    ({ project, run_id, id }) => endWait(engine, project, run_id, id),
  )
}

/** Works through what `look` finds until it finds less than a batch. */
async function inBatches<T>(look: () => Promise<T[]>, work: (item: T) => Promise<unknown>): Promise<void> {
  for (;;) {
    const items = await look()
    await allEnded(items.map(work))
    if (items.length < batch) return
  }
}
