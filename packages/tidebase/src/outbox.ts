// The outbox: sends the webhooks that transactions left in tidebase.deliveries, and records what became of them.
//
// A row is taken by moving its `next_try_at` beyond the time limit of a call, skipping what other servers hold: no two
// send it at once, and what a crashed server held is taken again. Deliveries are at least once. A target that is slow
// holds at most `perTarget` calls, so it cannot keep others waiting.
import { createHmac } from 'node:crypto'
import type { LookupFunction } from 'node:net'
import { request } from 'undici'
import { statement } from './coalesce.ts'
import { type Engine, submit } from './engine.ts'
import { appendEvents, lockRuns } from './events.ts'
import { gateToken } from './gates.ts'
import { wireId, wireIdSql } from './ids.ts'
import { guardedAgent, TargetRefused } from './target.ts'
import { type DeliveryRow, gateIdOf } from './webhooks.ts'

/** Pauses before the second to the eighth try, s: about an hour in all. */
const pauses = [5, 15, 45, 120, 300, 900, 1_800]
const timeoutMs = 10_000
/** How long a taken row is invisible to others, s. */
const heldS = 30
const maxCalls = 64
const perTarget = 16
/** How often to look for what is due although nothing woke us, ms. */
const pollMs = 500
const maxResponse = 8_000

/** A delivery with what sending it needs. */
interface Due extends DeliveryRow {
  workflow_name: string | null
  run_status: string | null
  run_attempt: number | null
  leased: boolean | null
  channel_secret: string | null
  project_secret: Buffer
}

/** What became of a try. */
interface Outcome {
  ok: boolean
  /** Not worth another try. */
  final?: boolean
  httpStatus?: number
  body?: string
  error?: string
}

/**
 * Starts to send.
 *
 * @param options.log told when the outbox itself cannot work (not of targets that fail: those are recorded)
 * @param options.lookup resolves the targets' names, for tests
 */
export function startOutbox(
  engine: Engine,
  { log, lookup }: { log: (message: string) => void; lookup?: LookupFunction },
): { close(): Promise<void> } {
  const agent = guardedAgent(engine.settings.allowPrivateWebhooks, { lookup, timeoutMs })
  const calls = new Set<Promise<void>>()
  const targets = new Map<string, number>()
  let timer: NodeJS.Timeout | undefined
  let looking: Promise<void> | undefined
  let again = false
  let closed = false
  let failing = false

  const send = async (due: Due, target: string) => {
    try {
      await record(engine, due, await attempt(engine, due, agent))
    } catch {
      // The database went away: the row is taken again after its time.
    } finally {
      const left = (targets.get(target) ?? 1) - 1
      if (left > 0) targets.set(target, left)
      else targets.delete(target)
    }
  }
  const look = async () => {
    do {
      again = false
      const busy = [...targets].filter(([, count]) => count >= perTarget).map(([target]) => target)
      const room = maxCalls - calls.size
      if (room <= 0) break
      const due = await take(engine, Math.min(room, perTarget), busy)
      for (const row of due) {
        const target = new URL(row.url).host
        targets.set(target, (targets.get(target) ?? 0) + 1)
        const call = send(row, target)
        calls.add(call)
        void call.finally(() => {
          calls.delete(call)
          wake()
        })
      }
      if (due.length > 0) again = true
    } while (again && !closed)
  }
  const wake = () => {
    again = true
    if (looking || closed) return
    clearTimeout(timer)
    looking = look()
      .then(
        () => {
          failing = false
        },
        (error: unknown) => {
          if (!failing) log(`the outbox could not look: ${error instanceof Error ? error.message : String(error)}`)
          failing = true
        },
      )
      .finally(() => {
        looking = undefined
        if (!closed) timer = setTimeout(wake, pollMs)
      })
  }
  const unsubscribe = engine.wakeups.onOutbox(wake)
  wake()
  return {
    async close() {
      closed = true
      unsubscribe()
      clearTimeout(timer)
      await looking
      // Calls under way are cut off: their rows are taken again after a restart.
      await agent.destroy()
      await Promise.all(calls)
    },
  }
}

function take(engine: Engine, limit: number, busy: string[]): Promise<Due[]> {
  return engine.db.cold.query<Due>(
    `with taken as (
      update tidebase.deliveries d set tries = d.tries + 1, next_try_at = now() + $2 * interval '1 second',
        updated_at = now()
      from (
        select ctid as tid from tidebase.deliveries
        where status = 'pending' and next_try_at <= now() and split_part(split_part(url, '/', 3), '@', 1) <> all ($3)
        order by next_try_at limit $1 for update skip locked
      ) t where d.ctid = t.tid returning d.*
    )
    select t.*, r.workflow_name, r.status as run_status, r.attempt as run_attempt,
      r.lease_expires_at > now() as leased, c.secret as channel_secret, p.secret as project_secret
    from taken t join tidebase.projects p on p.id = t.project
    left join tidebase.runs r on r.project = t.project and r.id = t.run_id
    left join tidebase.channels c on c.project = t.project and c.run_id = t.run_id and c.id = t.channel_id`,
    [limit, heldS, busy],
  )
}

/** Why a delivery is not sent any more: what it asks for has happened or cannot happen. */
function superseded(due: Due): string | undefined {
  if (due.kind === 'channel') return undefined
  if (due.run_status === null) return 'the run was deleted'
  if (due.run_status === 'completed' || due.run_status === 'cancelled') return `the run is ${due.run_status}`
  if (due.kind === 'invoke' && due.run_status !== 'queued') return 'the run was begun'
  if (due.run_status === 'running' && due.leased) return 'a worker has taken the run up'
  return undefined
}

async function attempt(engine: Engine, due: Due, agent: ReturnType<typeof guardedAgent>): Promise<Outcome> {
  const late = superseded(due)
  if (late !== undefined) return { ok: false, final: true, error: `not sent: ${late}` }
  const body = JSON.stringify(payloadOf(engine, due))
  const secret = due.kind === 'channel' ? due.channel_secret : engine.settings.webhookSecret
  try {
    const response = await request(due.url, {
      method: 'POST',
      body,
      headers: {
        'content-type': 'application/json',
        'user-agent': 'tidebase',
        'x-tidebase-delivery': deliveryId(due),
        'x-tidebase-timestamp': String(Math.floor(Date.now() / 1_000)),
        ...(secret
          ? { 'x-tidebase-signature': `sha256=${createHmac('sha256', secret).update(body).digest('hex')}` }
          : {}),
      },
      dispatcher: agent,
      signal: AbortSignal.timeout(timeoutMs),
    })
    const text = await readStart(response.body)
    const ok = response.statusCode >= 200 && response.statusCode < 300
    return {
      ok,
      httpStatus: response.statusCode,
      body: text,
      ...(ok ? {} : { error: `the target answered ${response.statusCode}` }),
    }
  } catch (error) {
    if (error instanceof TargetRefused) return { ok: false, final: true, error: error.message }
    const timedOut = error instanceof Error && error.name === 'TimeoutError'
    const message = error instanceof Error ? error.message || error.name : String(error)
    return { ok: false, error: timedOut ? `no answer within ${timeoutMs / 1_000} s` : message }
  }
}

const deliveryId = (due: Due) => wireId(due.kind === 'channel' ? 'del' : 'rec', due.id)

function payloadOf(engine: Engine, due: Due): object {
  const runId = wireId('run', due.run_id)
  if (due.kind !== 'channel') {
    const type = due.kind === 'invoke' ? 'run.invoke' : 'run.resume'
    return { type, runId, workflowName: due.workflow_name, reason: due.reason, attempt: due.run_attempt }
  }
  const gateId = gateIdOf(due)
  const resolving = gateId && {
    resolveUrl: `${engine.settings.publicUrl}/runs/${runId}/gates/${gateId}/resolve`,
    resolveToken: gateToken(due.project_secret, gateId),
  }
  return { type: due.reason, runId, gateId, deliveryId: deliveryId(due), payload: { ...due.payload, ...resolving } }
}

/** The first characters of a body; the rest is not read. NUL cannot be stored. */
async function readStart(body: AsyncIterable<Buffer> & { destroy(): unknown }): Promise<string> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of body) {
    chunks.push(chunk)
    size += chunk.length
    if (size >= maxResponse * 4) break
  }
  body.destroy()
  return Buffer.concat(chunks).toString('utf8').replaceAll('\0', '').slice(0, maxResponse)
}

const outcomes = statement<
  {
    project: number
    run: string
    id: string
    status: DeliveryRow['status']
    again_s: number
    http_status?: number
    response_body?: string
    error_text?: string
    tell: boolean
  },
  { action: string }
>(
  'outbox.record',
  [
    'project integer',
    'run uuid',
    'id uuid',
    'status text',
    'again_s double precision',
    'http_status integer',
    'response_body text',
    'error_text text',
    'tell boolean',
  ],
  `${lockRuns}, decided as materialized (
    select c.*, l.tid, l.event_seq, case
      when l.id is not null and not l.fresh then 'again'
      -- The history of a run that has ended for good does not grow.
      when c.tell and l.status not in ('completed', 'cancelled') then 'told'
      else 'recorded' end as action
    from calls c left join locked l on l.project = c.project and l.id = c.run
  ), recorded as (
    update tidebase.deliveries d set status = c.status, http_status = c.http_status, response_body = c.response_body,
      error_text = c.error_text, next_try_at = now() + c.again_s * interval '1 second', updated_at = now()
    from decided c where d.project = c.project and d.run_id = c.run and d.id = c.id and c.action <> 'again'
  ), numbered as materialized (
    select *, event_seq + row_number() over (partition by project, run order by i)::integer as seq
    from decided where action = 'told'
  ), bumped as (
    update tidebase.runs r set event_seq = n.last, updated_at = now()
    from (select tid, max(seq) as last from numbered group by tid) n where r.ctid = n.tid
  ), news as materialized (
    select project, run, seq, 'recovery.' || status as type, json_build_object('deliveryId',
      ${wireIdSql('rec', 'id')}, 'httpStatus', http_status, 'error', error_text) as payload
    from numbered
  ), ${appendEvents}
  select i, action from decided`,
)

async function record(engine: Engine, due: Due, outcome: Outcome): Promise<void> {
  // An invoke is not repeated by the outbox: within the redelivery horizon it may go out once only.
  const pause = due.kind === 'invoke' || outcome.final ? undefined : pauses[due.tries - 1]
  const status = outcome.ok ? 'delivered' : pause === undefined ? 'failed' : 'pending'
  const run = due.run_id.replaceAll('-', '')
  const { action } = await submit(engine, outcomes, {
    project: due.project,
    run,
    id: due.id,
    status,
    again_s: (pause ?? 0) * (0.9 + Math.random() * 0.2),
    http_status: outcome.httpStatus,
    response_body: outcome.body,
    error_text: outcome.error,
    tell: due.kind === 'recovery' && status !== 'pending',
  })
  if (action === 'told') engine.wakeups.run(due.project, run)
}
