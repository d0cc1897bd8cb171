// Claims: workers take jobs, or wait until there are some. How they are taken is in claim-statements.ts.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import {
  briefClaims,
  type ClaimCall,
  type ClaimedRow,
  keyedClaims,
  plainClaims,
  readyClaims,
} from './claim-statements.ts'
import { Encoded, objectText } from './encoded.ts'
import type { Caller, Engine } from './engine.ts'
import { newId, wireId } from './ids.ts'
import { type RunRow, toRun } from './runs.ts'
import { type Scout, Scouts } from './scouts.ts'
import { readCheckpoints } from './step-rows.ts'
import { waitFor } from './wait.ts'

/** What this server has noticed of groups of queues: one of them has keys, or a claim found as much as it wanted. */
const noticed = new WeakMap<Engine, Map<string, 'keyed' | 'busy'>>()
const maxNoticed = 10_000
const scoutsOf = new WeakMap<Engine, Scouts>()

function notice(known: Map<string, 'keyed' | 'busy'>, group: string, as: 'keyed' | 'busy'): void {
  if (known.size >= maxNoticed) known.clear()
  known.set(group, as)
}

type Claimed = ReplyOf<Routes['claim']>

interface Found {
  rows: Pick<RunRow, 'id' | 'event_seq'>[]
  runs: Claimed['runs']
  /** When there may be more; null when nobody knows. */
  nextInMs: number | null
  capped: boolean
}

const nothing: Found = { rows: [], runs: [], nextInMs: null, capped: false }

/**
 * Claims once.
 *
 * @param hopeful there is probably a job: the statement that does no more than take some is tried first
 */
async function take(
  engine: Engine,
  call: ClaimCall,
  group: string,
  { brief, hopeful }: { brief: boolean; hopeful: boolean },
): Promise<Found> {
  const known = noticed.get(engine) ?? new Map<string, 'keyed' | 'busy'>()
  noticed.set(engine, known)
  if (known.get(group) === 'busy' || (hopeful && !known.has(group))) {
    const found = await (brief ? takeBriefly(engine, call, group) : takeReady(engine, call, group))
    if (found.rows.length < call.max) known.delete(group)
    if (found.rows.length > 0) return found
  }
  let rows = await engine.coalescers.submit(known.get(group) === 'keyed' ? keyedClaims : plainClaims, call, group)
  if (rows[0]?.action === 'keyed') {
    notice(known, group, 'keyed')
    rows = await engine.coalescers.submit(keyedClaims, call, group)
  }
  const claimed = rows.filter((row) => row.id != null).sort(inOrder)
  const capped = rows[0]?.capped ?? false
  if (!capped && claimed.length === call.max) notice(known, group, 'busy')
  const runs: Claimed['runs'] = brief ? claimed.map(toClaimed) : claimed.map(toRun)
  return { rows: claimed, runs, nextInMs: rows[0]?.next_in_ms ?? null, capped }
}

async function takeReady(engine: Engine, call: ClaimCall, group: string): Promise<Found> {
  const rows = (await engine.coalescers.submit(readyClaims, call, group)).filter(({ action }) => action === 'claimed')
  return { rows, runs: rows.map(toRun), nextInMs: null, capped: false }
}

async function takeBriefly(engine: Engine, call: ClaimCall, group: string): Promise<Found> {
  const rows = (await engine.coalescers.submit(briefClaims, call, group)).filter(({ action }) => action === 'claimed')
  return { rows, runs: rows.map(toClaimed), nextInMs: null, capped: false }
}

const toClaimed = (row: ClaimedRow) => ({
  id: wireId('run', row.id),
  workflowName: row.workflow_name,
  input: row.input,
  metadata: row.metadata,
  queue: row.queue,
  concurrencyKey: row.concurrency_key,
  attempt: row.attempt,
  maxAttempts: row.max_attempts,
})

/**
 * Takes ready runs of some queues, waiting up to `waitMs` for the first.
 *
 * @param signals end the wait early: the client went away, the server stops
 */
export async function claim(
  engine: Engine,
  caller: Caller,
  body: BodyOf<Routes['claim']>,
  signals: readonly AbortSignal[],
): Promise<Claimed | Encoded<Claimed>> {
  const { project } = caller
  const { leaseMs } = engine.settings
  const owner = body.leaseOwner || `worker_${newId()}`
  const queues = [...new Set(body.queues)].sort()
  const group = JSON.stringify([project, ...queues])
  const call = { project, queues, owner, lease_ms: leaseMs, max: body.limit ?? 1 }
  const scouts = scoutsOf.get(engine) ?? new Scouts()
  scoutsOf.set(engine, scouts)
  let scout: Scout | undefined
  let looked = false
  let capped = false
  let told = false
  const { rows, runs } = await waitFor({
    look: async () => {
      const first = !looked
      looked = true
      if (first && scout?.quiet()) return nothing
      const calm = scout?.looks()
      const hopeful = told && !capped
      told = false
      const found = await take(engine, call, group, { brief: body.brief ?? false, hopeful })
      capped = found.capped
      if (found.rows.length === 0 && found.nextInMs === null && !capped) calm?.()
      return found
    },
    enough: ({ rows }) => rows.length > 0,
    subscribe: (wake) => {
      const unsubscribe = queues.flatMap((queue) => [
        engine.wakeups.onQueue(project, queue, () => {
          told = true
          scout?.stirred()
          wake()
        }),
        engine.wakeups.onFreed(project, queue, () => capped && wake()),
      ])
      scout = scouts.join(group, wake)
      return () => {
        for (const each of unsubscribe) each()
        scout?.leave()
      }
    },
    waitMs: body.waitMs ?? 0,
    signals,
    // A delayed run is claimed when it is due, not at the next look. Under a rate, room comes with time alone.
    againMs: ({ nextInMs }) => (nextInMs !== null ? nextInMs + 1 : capped ? untilCommonLook() : Infinity),
  })
  if (rows.length > 0) scout?.found()
  for (const row of rows) engine.wakeups.run(project, row.id.replaceAll('-', ''))
  const reply = { runs, leaseOwner: owner, leaseMs }
  if (!body.include?.includes('checkpoints')) return reply
  // A run that was only enqueued and claimed has no steps yet.
  const resumed = rows.filter((row) => row.event_seq > 2)
  const checkpoints = await Promise.all(
    resumed.map(async ({ id }) => [wireId('run', id), (await readCheckpoints(engine.db.hot, project, id)).text]),
  )
  return new Encoded(
    objectText<Claimed>({
      runs: JSON.stringify(reply.runs),
      leaseOwner: JSON.stringify(owner),
      leaseMs: String(leaseMs),
      checkpoints: objectText<Record<string, string>>(Object.fromEntries(checkpoints)),
    }),
  )
}

const cappedPollMs = 2_000

/** Those who wait look at the same moments: hundreds of idle workers cost a statement then, not one each. */
const untilCommonLook = () => cappedPollMs - (performance.now() % cappedPollMs)

/** The order in which runs are claimed. */
const inOrder = (a: RunRow, b: RunRow) => b.priority - a.priority || runAt(a) - runAt(b) || (a.id < b.id ? -1 : 1)

const runAt = (row: RunRow) => row.run_at?.getTime() ?? 0
