// Webhooks: what goes into the outbox and how it is shown. outbox.ts sends it; target.ts says where it may go.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { statement } from './coalesce.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { ApiError } from './errors.ts'
import { appendEvents, lockRuns } from './events.ts'
import { newId, parseId, wireId, wireIdSql } from './ids.ts'
import { readRun } from './runs.ts'

type Detail = ReplyOf<Routes['getRun']>

/** A row of tidebase.deliveries. */
export interface DeliveryRow {
  project: number
  run_id: string
  id: string
  kind: 'recovery' | 'invoke' | 'channel'
  reason: string
  channel_id: string | null
  payload: Record<string, unknown> | null
  url: string
  status: 'pending' | 'delivered' | 'failed'
  tries: number
  next_try_at: Date
  http_status: number | null
  response_body: string | null
  error_text: string | null
  created_at: Date
  updated_at: Date
}

/** A row of tidebase.channels. */
export interface ChannelRow {
  id: string
  run_id: string
  type: string
  url: string
  events: string[]
  created_at: Date
}

const attempted = (row: DeliveryRow) => ({
  status: row.status,
  tries: row.tries,
  httpStatus: row.http_status,
  responseBody: row.response_body,
  errorText: row.error_text,
  nextTryAt: row.status === 'pending' ? row.next_try_at.toISOString() : null,
  createdAt: row.created_at.toISOString(),
  updatedAt: row.updated_at.toISOString(),
})

/** A recovery or invoke delivery as the wire shows it. */
export function toRecoveryAttempt(row: DeliveryRow): Detail['recoveryAttempts'][number] {
  return {
    id: wireId('rec', row.id),
    runId: wireId('run', row.run_id),
    reason: row.reason,
    url: row.url,
    ...attempted(row),
  }
}

/** A delivery to a channel as the wire shows it. Its payload is the event's; tokens are added only as it is sent. */
export function toChannelDelivery(row: DeliveryRow): Detail['channelDeliveries'][number] {
  return {
    id: wireId('del', row.id),
    runId: wireId('run', row.run_id),
    channelId: wireId('chan', row.channel_id ?? ''),
    gateId: gateIdOf(row),
    type: row.reason,
    payload: row.payload,
    ...attempted(row),
  }
}

/** The gate that a delivery tells of, as the wire shows its id. */
export function gateIdOf({ payload }: Pick<DeliveryRow, 'payload'>): string | null {
  return typeof payload?.gateId === 'string' ? payload.gateId : null
}

/** A channel as the wire shows it, without its secret. */
export function toChannel(row: ChannelRow): Detail['channels'][number] {
  return {
    id: wireId('chan', row.id),
    runId: wireId('run', row.run_id),
    type: row.type,
    url: row.url,
    events: row.events,
    createdAt: row.created_at.toISOString(),
  }
}

const recoveries = statement<{ project: number; run: string; id: string; reason: string }, DeliveryRow>(
  'runs.recover',
  ['project integer', 'run uuid', 'id uuid', 'reason text'],
  `${lockRuns}, decided as materialized (
    select c.*, l.tid, l.event_seq, l.recovery_webhook, case
      when l.id is null then 'missing'
      when not l.fresh then 'again'
      when l.status in ('cancelled', 'completed') then l.status
      when l.recovery_webhook is null then 'no_webhook'
      else 'started' end as action
    from calls c left join locked l on l.project = c.project and l.id = c.run
  ), numbered as materialized (
    select *, event_seq + row_number() over (partition by project, run order by i)::integer as seq
    from decided where action = 'started'
  ), started as (
    insert into tidebase.deliveries (project, run_id, id, kind, reason, url)
    select project, run, id, 'recovery', reason, recovery_webhook from numbered returning *
  ), bumped as (
    update tidebase.runs r set event_seq = n.last, updated_at = now()
    from (select tid, max(seq) as last from numbered group by tid) n where r.ctid = n.tid
  ), news as materialized (
    select project, run, seq, 'recovery.started' as type,
      json_build_object('deliveryId', ${wireIdSql('rec', 'id')}, 'reason', reason) as payload
    from numbered
  ), ${appendEvents}
  select d.i, d.action, s.* from decided d
  left join started s on s.project = d.project and s.run_id = d.run and s.id = d.id and d.action = 'started'`,
)

/** Asks a run's recovery webhook to resume it. @throws ApiError `run_not_found`, `run_cancelled`, `run_completed`, `no_recovery_webhook` */
export async function recoverRun(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['recoverRun']>,
): Promise<ReplyOf<Routes['recoverRun']>> {
  const row = await submit(engine, recoveries, {
    project: caller.project,
    run,
    id: newId(),
    reason: body.reason ?? 'manual',
  })
  if (row.action === 'missing') throw new ApiError('run_not_found')
  if (row.action === 'cancelled') throw new ApiError('run_cancelled')
  if (row.action === 'completed') throw new ApiError('run_completed')
  if (row.action === 'no_webhook') throw new ApiError('no_recovery_webhook')
  engine.wakeups.run(caller.project, run)
  engine.wakeups.outbox()
  return { recoveryAttempt: toRecoveryAttempt(row) }
}

/**
 * Sends a delivery once more. What asks for a run is left out: only one such call may be on its way (below).
 *
 * @throws ApiError `run_not_found`, `delivery_not_found`
 */
export async function redeliver(
  engine: Engine,
  caller: Caller,
  run: string,
  deliveryId: string,
): Promise<ReplyOf<Routes['redeliver']>> {
  await readRun(engine.db.hot, caller, run)
  const [row] = await engine.db.cold.query<DeliveryRow>(
    `update tidebase.deliveries set status = 'pending', tries = 0, next_try_at = now(), http_status = null,
      response_body = null, error_text = null, updated_at = now()
    where project = $1 and run_id = $2 and id = $3 and kind <> 'invoke' returning *`,
    [caller.project, run, parseId('del', deliveryId) ?? parseId('rec', deliveryId)],
  )
  if (!row) throw new ApiError('delivery_not_found')
  engine.wakeups.outbox()
  return { delivery: { id: deliveryId, runId: wireId('run', run), ...attempted(row) } }
}

/** A run that was asked for is not asked for again within this time, ms, whatever became of the call. */
export const redeliveryMs = 60_000
/** Runs that one transaction asks for; a queue with more takes several. */
const askBatch = 1_000

/**
 * SQL: deliveries `d` that asked for their run lately. An invoke changes for the last time when its call ends, and is
 * sent within half the horizon after it was made or not at all (outbox.ts): the bound on `created_at` is for the index.
 */
const askedLately = `d.kind = 'invoke' and d.created_at > now() - 1.5 * $3 * interval '1 ms'
  and d.updated_at > now() - $3 * interval '1 ms'`

/**
 * Push mode: asks the `invokeUrl` of each queue for its ready runs, as far as the queue's caps allow. The runs stay
 * queued until they are begun; what is not begun within the horizon is asked for again. Called by the reconciler.
 *
 * @throws what went wrong with the first queue that could not be worked on, after the others
 */
export async function invokePushed(engine: Engine): Promise<void> {
  const queues = await engine.db.cold.query<{ project: number; name: string }>(
    'select project, name from tidebase.queues where invoke_url is not null and not paused',
  )
  const errors: unknown[] = []
  for (const { project, name } of queues) {
    try {
      for (;;) {
        const asked = await invokeQueue(engine, project, name)
        if (asked > 0) engine.wakeups.outbox()
        if (asked < askBatch) break
      }
    } catch (error) {
      errors.push(error)
    }
  }
  if (errors.length > 0) throw errors[0]
}

/** SQL: the first ready jobs of the queue that nobody was asked for lately. */
const ready = (which: string, limit: string) => `select r.run_id as id, r.priority, r.run_at
  from tidebase.live_runs r
  where r.project = $1 and r.queue = $2 and r.status = 'queued' and r.run_at <= now() and ${which}
    and not exists (
      select from tidebase.deliveries d where d.project = r.project and d.run_id = r.run_id and ${askedLately})
  order by r.priority desc, r.run_at limit greatest(${limit}, 0)`

function invokeQueue(engine: Engine, project: number, queue: string): Promise<number> {
  return engine.db.transaction(async (tx) => {
    // The lock first, in a statement of its own: the next one sees what another server has asked for.
    const [locked] = await tx.query(
      'select from tidebase.queues where project = $1 and name = $2 and invoke_url is not null and not paused for no key update skip locked',
      [project, queue],
    )
    if (!locked) return 0
    const rows = await tx.query(
      `with room as materialized (
        select q.invoke_url, q.rate_per_minute, q.per_key_concurrency as per_key, least(
          q.concurrency
            - (select count(*) from tidebase.live_runs r where r.project = $1 and r.queue = $2 and r.status = 'running')
            - (select count(*) from tidebase.deliveries d
                join tidebase.live_runs r on r.project = d.project and r.run_id = d.run_id
                where d.project = $1 and ${askedLately} and r.queue = $2 and r.status = 'queued'),
          q.rate_per_minute - (select coalesce(sum(c.claims), 0) from tidebase.queue_claims c
            where c.project = $1 and c.queue = $2 and c.at > now() - interval '1 minute'),
          $4::integer
        ) as room
        from tidebase.queues q where q.project = $1 and q.name = $2
      ), keys as materialized (
        with recursive keys as (
          (select r.concurrency_key as key from tidebase.live_runs r
            where r.project = $1 and r.queue = $2 and r.status = 'queued' and r.concurrency_key > ''
            order by r.concurrency_key limit 1)
          union all
          select (select r.concurrency_key from tidebase.live_runs r
            where r.project = $1 and r.queue = $2 and r.status = 'queued' and r.concurrency_key > k.key
            order by r.concurrency_key limit 1)
          from keys k where k.key is not null
        )
        select k.key, greatest(0, least(room.room, room.per_key - (
          select count(*) from tidebase.live_runs r
          where r.project = $1 and r.queue = $2 and r.status = 'running' and r.concurrency_key = k.key
        ) - (
          select count(*) from tidebase.deliveries d join tidebase.live_runs r on r.project = d.project and r.run_id = d.run_id
          where d.project = $1 and ${askedLately} and r.queue = $2 and r.status = 'queued' and r.concurrency_key = k.key
        ))) as room
        from keys k cross join room where k.key is not null
      ), chosen as materialized (
        select r.id, room.invoke_url from room cross join lateral (
          select * from (${ready(`r.concurrency_key = ''`, 'room.room')}) r
          union all
          select r.* from keys k cross join lateral (${ready('r.concurrency_key = k.key', 'k.room')}) r
          order by priority desc, run_at limit greatest(room.room, 0)
        ) r
      ), counted as (
        insert into tidebase.queue_claims (project, queue, at, claims)
        select $1, $2, now(), count(*) from chosen
        having count(*) > 0 and (select rate_per_minute from room) is not null
        returning queue
      ), noticed as (
        -- A claim that waits for this lock has counted before it: a new version of the row makes it count again.
        update tidebase.queues q set updated_at = now() from counted c where q.project = $1 and q.name = c.queue
      )
      insert into tidebase.deliveries (project, run_id, kind, reason, url)
      select $1, id, 'invoke', 'queue', invoke_url from chosen returning id`,
      [project, queue, redeliveryMs, askBatch],
    )
    return rows.length
  })
}
