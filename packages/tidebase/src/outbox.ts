// The outbox: sends the webhooks that transactions left in tidebase.deliveries, and records what became of them.
//
// Invariants:
// - A row is taken by moving its `next_try_at` beyond the time limit of a call, skipping what other servers hold: no
//   two send it at once, and what a crashed server held is taken again. Taking counts `tries` up, and a result is
//   recorded only for the try that it belongs to: one that comes late changes nothing.
// - Deliveries are at least once, but an invoke goes out once at most: its queue asks again (webhooks.ts).
// - One target has at most `perTarget` calls under way, so slow ones cannot keep the others waiting.
// - A gate's token exists in the body that is sent and nowhere else, and goes only to channels of runs that an admin key
//   made: else a worker could have itself sent what it must not see.
import { createHmac } from 'node:crypto'
import type { LookupFunction } from 'node:net'
import type { Agent, Dispatcher } from 'undici'
import { statement } from './coalesce.ts'
import { type Engine, submit } from './engine.ts'
import { ApiError } from './errors.ts'
import { appendEvents, lockRuns } from './events.ts'
import { gateToken } from './gates.ts'
import { wireId, wireIdSql } from './ids.ts'
import { callTarget, guardedAgent, type Outcome } from './target.ts'
import { type DeliveryRow, gateIdOf, redeliveryMs } from './webhooks.ts'

/** Pauses before the second to the eighth try, s: about an hour in all. */
const pauses = [5, 15, 45, 120, 300, 900, 1_800]
const timeoutMs = 10_000
/** How long a taken row is invisible to others, s. */
const heldS = 30
const maxCalls = 256
const perTarget = 16
/** How many rows one look takes. */
const batch = 64
/** How long calls under way may go on when the server stops, ms. */
const graceMs = 1_000

/** A delivery with what sending it needs. */
interface Due extends DeliveryRow {
  /** Host and port as the URL spells them. */
  target: string
  /** Whether the run was made by one who may decide gates: only then are its channels sent the token. */
  trusted: boolean
  /** Too old for an invoke: together with the call's own time it would come close to the next one. */
  late: boolean
  workflow_name: string | null
  run_status: string | null
  run_attempt: number | null
  leased: boolean | null
  channel_secret: string | null
  project_secret: Buffer
}

/**
 * Starts to send.
 *
 * @param options.log told when the outbox itself cannot work (not of targets that fail: those are recorded)
 * @param options.lookup resolves the targets' names; the system's resolver unless given
 * @returns `close` stops taking, lets calls under way end for a moment, then cuts them off for the next server to send
 */
export function startOutbox(
  engine: Engine,
  { log, lookup }: { log: (message: string) => void; lookup?: LookupFunction },
): { close(): Promise<void> } {
  let opening: Promise<Agent> | undefined
  const agent = () => {
    opening ??= guardedAgent(engine.settings.allowPrivateWebhooks, { lookup, timeoutMs, connections: perTarget })
    return opening
  }
  const calls = new Set<Promise<void>>()
  const targets = new Map<string, number>()
  let looking: Promise<void> | undefined
  let again = false
  let closed = false
  let failing = false

  const send = async (due: Due) => {
    try {
      const why = superseded(due)
      if (why !== undefined) {
        await record(engine, due, { ok: false, final: true, error: `superseded, not sent: ${why}` }, false)
        return
      }
      const outcome = await attempt(engine, due, await agent())
      const cutOff = closed && !outcome.ok && !outcome.final && outcome.httpStatus === undefined
      // A call that may have arrived is not made again if it is an invoke.
      if (cutOff && due.kind !== 'invoke') await giveBack(engine, due)
      else await record(engine, due, outcome, due.kind === 'recovery')
    } catch (error) {
      // The row is taken again after its time. If only the database was away, that is all there is to say.
      if (!(error instanceof ApiError)) log(`a webhook's result could not be recorded: ${messageOf(error)}`)
    } finally {
      const left = (targets.get(due.target) ?? 1) - 1
      if (left > 0) targets.set(due.target, left)
      else targets.delete(due.target)
    }
  }
  const look = async () => {
    do {
      again = false
      const room = maxCalls - calls.size
      if (room <= 0) break
      const taken = await take(engine, Math.min(room, batch), targets)
      for (const due of taken) {
        targets.set(due.target, (targets.get(due.target) ?? 0) + 1)
        const call = send(due)
        calls.add(call)
        void call.finally(() => {
          calls.delete(call)
          wake()
        })
      }
      if (taken.length > 0) again = true
    } while (again && !closed)
  }
  const wake = () => {
    again = true
    if (looking || closed) return
    looking = look()
      .then(
        () => {
          failing = false
        },
        (error: unknown) => {
          if (!failing) log(`the outbox could not look: ${messageOf(error)}`)
          failing = true
        },
      )
      .finally(() => {
        looking = undefined
      })
  }
  const unsubscribe = engine.wakeups.onOutbox(wake)
  wake()
  return {
    async close() {
      closed = true
      unsubscribe()
      await looking
      const grace = setTimeout(async () => (await opening)?.destroy(), graceMs)
      await Promise.all(calls)
      clearTimeout(grace)
      await (await opening)?.destroy()
    },
  }
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error))

/** SQL: who is to be called. Skipped through by one index probe each: a hundred thousand rows for a busy one cost nothing. */
const pendingTargets = `with recursive targets as (
      (select target from tidebase.deliveries where status = 'pending' order by target limit 1)
      union all
      select (select d.target from tidebase.deliveries d where d.status = 'pending' and d.target > t.target
        order by d.target limit 1)
      from targets t where t.target is not null
    )`

/** SQL: whether a delivery's time has come. */
export const deliveriesDue = `exists (${pendingTargets}
    select from targets t cross join lateral (
      select from tidebase.deliveries d where d.status = 'pending' and d.target = t.target and d.next_try_at <= now() limit 1
    ) d where t.target is not null)`

function take(engine: Engine, limit: number, underWay: Map<string, number>): Promise<Due[]> {
  return engine.db.cold.query<Due>(
    `${pendingTargets}, chosen as materialized (
      select d.tid from targets t cross join lateral (
        select ctid as tid, next_try_at from tidebase.deliveries d
        where d.status = 'pending' and d.target = t.target and d.next_try_at <= now() order by next_try_at
        limit greatest($4 - coalesce(($3::jsonb ->> t.target)::integer, 0), 0) for update skip locked
      ) d where t.target is not null order by d.next_try_at limit $1
    ), taken as (
      update tidebase.deliveries d set tries = d.tries + 1, next_try_at = now() + $2 * interval '1 second',
        updated_at = now()
      from chosen c where d.ctid = c.tid returning d.*
    )
    select t.*, t.created_at < now() - $5 * interval '1 ms' as late, r.workflow_name, r.status as run_status,
      r.attempt as run_attempt, r.lease_expires_at > now() as leased, c.secret as channel_secret,
      p.secret as project_secret, coalesce(k.scope, 'admin') = 'admin' as trusted
    from taken t join tidebase.projects p on p.id = t.project
    left join tidebase.runs r on r.project = t.project and r.id = t.run_id
    left join tidebase.api_keys k on k.id = r.created_by
    left join tidebase.channels c on c.project = t.project and c.run_id = t.run_id and c.id = t.channel_id`,
    [limit, heldS, JSON.stringify(Object.fromEntries(underWay)), perTarget, redeliveryMs / 2],
  )
}

/** The reasons that the server itself calls for; any other is somebody's wish. */
const ownReasons = new Set(['lease_expired', 'run_failed', 'wait_over'])

/** Why a delivery is not sent any more: what it asks for has happened or cannot happen. */
function superseded(due: Due): string | undefined {
  if (due.kind === 'channel') return undefined
  if (due.run_status === null) return 'the run was deleted'
  if (due.run_status === 'completed' || due.run_status === 'cancelled') return `the run is ${due.run_status}`
  if (due.kind === 'invoke') {
    if (due.run_status !== 'queued') return 'the run was begun'
    if (due.tries > 1 || due.late) return 'the queue asks again'
  } else if (ownReasons.has(due.reason) && due.run_status === 'running' && due.leased) return 'the run was begun'
  return undefined
}

async function attempt(engine: Engine, due: Due, dispatcher: Dispatcher): Promise<Outcome> {
  const resolving = resolutionOf(engine, due)
  const body = JSON.stringify(payloadOf(due, resolving))
  const secret = due.kind === 'channel' ? due.channel_secret : engine.settings.webhookSecret
  const headers = {
    'content-type': 'application/json',
    'user-agent': 'tidebase',
    'x-tidebase-delivery': deliveryId(due),
    'x-tidebase-timestamp': String(Math.floor(Date.now() / 1_000)),
    ...(secret ? { 'x-tidebase-signature': `sha256=${createHmac('sha256', secret).update(body).digest('hex')}` } : {}),
  }
  // A target may answer with what it was sent.
  return callTarget(dispatcher, due.url, body, headers, { timeoutMs, conceal: resolving?.resolveToken })
}

const deliveryId = (due: Due) => wireId(due.kind === 'channel' ? 'del' : 'rec', due.id)

/** How to decide the gate that a delivery tells of; the token not to a channel that a lesser key has set up. */
function resolutionOf(engine: Engine, due: Due): { resolveUrl: string; resolveToken?: string } | undefined {
  const gateId = gateIdOf(due)
  if (due.kind !== 'channel' || gateId === null || !due.reason.startsWith('gate.')) return undefined
  return {
    resolveUrl: `${engine.settings.publicUrl}/runs/${wireId('run', due.run_id)}/gates/${gateId}/resolve`,
    ...(due.trusted ? { resolveToken: gateToken(due.project_secret, gateId) } : {}),
  }
}

function payloadOf(due: Due, resolving: object | undefined): object {
  const runId = wireId('run', due.run_id)
  if (due.kind !== 'channel') {
    const type = due.kind === 'invoke' ? 'run.invoke' : 'run.resume'
    return { type, runId, workflowName: due.workflow_name, reason: due.reason, attempt: due.run_attempt }
  }
  const payload = { ...due.payload, ...resolving }
  return { type: due.reason, runId, gateId: gateIdOf(due), deliveryId: deliveryId(due), payload }
}

// Only a result that becomes an event locks the run (`run`); any other leaves it to the workers.
const outcomes = statement<
  {
    project: number
    run?: string
    run_of: string
    id: string
    tries: number
    status: DeliveryRow['status']
    again_s: number
    http_status?: number
    response_body?: string
    error_text?: string
  },
  { action: string }
>(
  'outbox.record',
  [
    'project integer',
    'run uuid',
    'run_of uuid',
    'id uuid',
    'tries integer',
    'status text',
    'again_s double precision',
    'http_status integer',
    'response_body text',
    'error_text text',
  ],
  `${lockRuns}, decided as materialized (
    select c.*, l.tid, l.event_seq, case when l.id is not null and not l.fresh then 'again' else 'recorded' end as action
    from calls c left join locked l on l.project = c.project and l.id = c.run
  ), recorded as materialized (
    update tidebase.deliveries d set status = c.status, http_status = c.http_status, response_body = c.response_body,
      error_text = c.error_text, next_try_at = now() + c.again_s * interval '1 second', updated_at = now()
    from decided c where d.project = c.project and d.run_id = c.run_of and d.id = c.id and c.action = 'recorded'
      and d.tries = c.tries and d.status not in ('delivered', 'failed')
    returning c.i
  ), numbered as materialized (
    select d.*, event_seq + row_number() over (partition by project, run order by i)::integer as seq
    from decided d join recorded using (i) where d.tid is not null
  ), bumped as (
    update tidebase.runs r set event_seq = n.last, updated_at = now()
    from (select tid, max(seq) as last from numbered group by tid) n where r.ctid = n.tid
  ), news as materialized (
    select project, run, seq, 'recovery.' || status as type, case status
      when 'delivered' then json_build_object('deliveryId', ${wireIdSql('rec', 'id')}, 'httpStatus', http_status)
      else json_build_object('deliveryId', ${wireIdSql('rec', 'id')}, 'httpStatus', http_status, 'error', error_text)
    end as payload
    from numbered
  ), ${appendEvents}
  select d.i, case when n.i is null then d.action else 'told' end as action
  from decided d left join numbered n on n.i = d.i`,
)

/** @param tell the run's history, when the delivery has ended with this */
async function record(engine: Engine, due: Due, outcome: Outcome, tell: boolean): Promise<void> {
  const pause = due.kind === 'invoke' || outcome.final ? undefined : pauses[due.tries - 1]
  const status = outcome.ok ? 'delivered' : pause === undefined ? 'failed' : 'pending'
  const run = due.run_id.replaceAll('-', '')
  const { action } = await submit(engine, outcomes, {
    project: due.project,
    ...(tell && status !== 'pending' ? { run } : {}),
    run_of: run,
    id: due.id,
    tries: due.tries,
    status,
    again_s: (pause ?? 0) * (0.9 + Math.random() * 0.2),
    http_status: outcome.httpStatus,
    response_body: outcome.body,
    error_text: outcome.error,
  })
  if (action === 'told') engine.wakeups.run(due.project, run)
}

/** Puts a delivery back as if it had not been taken. */
async function giveBack(engine: Engine, { project, run_id, id, tries }: Due): Promise<void> {
  await engine.db.cold.query(
    `update tidebase.deliveries set tries = tries - 1, next_try_at = now(), updated_at = now()
      where project = $1 and run_id = $2 and id = $3 and tries = $4 and status = 'pending'`,
    [project, run_id, id, tries],
  )
}
