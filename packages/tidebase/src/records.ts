// Records: a step that is safe to replay begins and completes in one write, under the run's lease.
//
// Nearly every call is of one kind: the run is held, nobody listens to it, and the step was never heard of. Such calls
// take a statement that checks just that and writes; whatever else there may be is for the second one.
//
//   `fresh`    no lock: the update of the run is the fence. It finds the row as the snapshot had it, or it writes nothing;
//              every statement that touches a step changes its run's row, so what the snapshot showed of the step holds.
//   `records`  locks, decides, answers for everything.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { dropStream } from './chunks.ts'
import { statement } from './coalesce.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { ApiError } from './errors.ts'
import { appendEvents, leftJoinRow, lockRuns, recordedStep, runIs } from './events.ts'
import { wireId } from './ids.ts'
import {
  firstOfStep,
  leaveAlone,
  recorded,
  refuseReviewed,
  type StartCall,
  startCall,
  startColumns,
  stepPayload,
} from './steps.ts'

type RecordCall = StartCall & { output?: unknown; attempt?: number | null; started_at?: string | null }

const columns = [...startColumns, 'output json', 'attempt integer', 'started_at timestamptz']

/** SQL: the two events of a step. */
const startedPayload = (of: (column: string) => string) =>
  stepPayload(of('id'), `'name', ${of('name')}, 'attempt', coalesce(${of('attempt')}, 1)`)
const completed = stepPayload('id', "'name', name")

const fresh = statement<RecordCall, { has_streams?: boolean }>(
  'steps.record_fresh',
  columns,
  (of) => `fit as materialized (
    select c.*, r.tid, r.version, r.event_seq from calls c
    -- By its key alone, as leftJoinRow does.
    cross join lateral (
      select r.ctid as tid, r.xmin as version, r.event_seq, r.status, r.lease_owner, r.has_channels, r.has_streams
      from tidebase.runs r where ${runIs('r', of('project'), of('run'))} offset 0
    ) r
    where r.status = 'running' and r.lease_owner = ${of('owner')} and not r.has_channels and not r.has_streams
    and not exists (
      select from tidebase.steps t
      where t.project = ${of('project')} and t.run_id = ${of('run')} and t.id = ${of('id')} offset 0
    )
  ), held as (
    update tidebase.runs r set event_seq = f.event_seq + 2, updated_at = now()
    from fit f where r.ctid = f.tid and r.xmin = f.version
    returning f.*
  ), written as (
    insert into tidebase.steps (project, run_id, id, name, input_hash, input, options, replay_safe, status, output,
      last_owner, attempt, position, started_at, completed_at)
    select ${['project', 'run', 'id', 'name', 'hash', 'input', 'options', 'safe'].map(of).join(', ')}, 'completed',
      ${of('output')}, ${of('owner')}, coalesce(${of('attempt')}, 1), c.event_seq + 1,
      least(${of('started_at')}, now()), now()
    from held c
  ), appended as (
    insert into tidebase.events (project, run_id, seq, type, payload)
    select ${of('project')}, ${of('run')}, c.event_seq + 2, '${recordedStep}', ${startedPayload(of)} from held c
  )
  select i, 'recorded' as action from held`,
  { simple: true },
)

const records = statement<RecordCall, { has_streams?: boolean }>(
  'steps.record',
  columns,
  `${lockRuns}, decided as materialized (
    select c.*, l.tid, l.event_seq, l.has_streams, s.status as known, s.last_owner, case
      when l.id is null then 'missing'
      when not l.fresh or not ${firstOfStep} then 'again'
      when l.status = 'cancelled' then 'cancelled'
      when s.id is not null and s.input_hash <> c.hash then 'input_mismatch'
      when s.status = 'completed' then case when s.last_owner = c.owner then 'repeated' else 'return' end
      when l.status <> 'running' or l.lease_owner is distinct from c.owner then 'lease_lost'
      when s.status = 'running' and s.lease_owner <> c.owner and s.lease_expires_at > now() then 'locked'
      when s.review is not null then 'review_' || s.review
      else 'recorded' end as action
    from calls c
    left join locked l on l.project = c.project and l.id = c.run
    ${leftJoinRow('steps', 's', 't.project = c.project and t.run_id = c.run and t.id = c.id')}
  ), numbered as materialized (
    -- A step that was begun by a note of its own has had its first event.
    select *, event_seq + sum(case when known = 'running' then 1 else 2 end)
      over (partition by project, run order by i)::integer as seq
    from decided where action = 'recorded'
  ), written as (
    insert into tidebase.steps as s (project, run_id, id, name, input_hash, input, options, replay_safe, status,
      output, last_owner, attempt, position, started_at, completed_at)
    select project, run, id, name, hash, input, options, safe, 'completed', output, owner, coalesce(attempt, 1),
      seq - 1, least(started_at, now()), now()
    from numbered
    on conflict (project, run_id, id) do update set status = 'completed', output = excluded.output, error = null,
      last_owner = excluded.last_owner, lease_owner = null, lease_expires_at = null,
      -- A note comes a while after the step began; who did not say when leaves it at that.
      started_at = case when excluded.started_at < now() then excluded.started_at else s.started_at end,
      attempt = greatest(s.attempt, excluded.attempt), completed_at = now(), updated_at = now()
  ), bumped as (
    update tidebase.runs r set event_seq = n.last, updated_at = now()
    from (select tid, max(seq) as last from numbered group by tid) n where r.ctid = n.tid
  ), news as materialized (
    select project, run, seq - 1 as seq, 'step.started' as type,
      ${startedPayload((column) => column)} as payload
    from numbered where known is distinct from 'running'
    union all
    select project, run, seq, 'step.completed', ${completed} from numbered
  ), ${appendEvents}
  select i, action, has_streams from decided`,
)

/**
 * Begins and completes a step in one write, under the run's lease.
 *
 * @throws ApiError `run_not_found`, `lease_lost`, `manual_review`, `step_failed`, `contention`
 */
export async function recordStep(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['recordStep']>,
): Promise<ReplyOf<Routes['recordStep']>> {
  // A literal that spreads another would take ten times as long.
  const call = Object.assign(startCall(caller, run, body, body.leaseOwner), {
    output: body.output,
    attempt: body.attempt,
    started_at: body.startedAt,
  })
  const simple = isLikelyFresh(body) ? await submit(engine, fresh, call) : undefined
  const { action, has_streams } = simple?.action === 'recorded' ? simple : await submit(engine, records, call)
  if (action === 'missing') throw new ApiError('run_not_found')
  if (action === 'lease_lost') throw new ApiError('lease_lost')
  if (action === 'cancelled') return { action }
  if (leaveAlone.has(action)) return recorded(engine, call, action)
  refuseReviewed(action, call.id)
  if (action === 'recorded') {
    if (has_streams) await dropStream(engine.db.hot, call.project, run, body.name)
    engine.wakeups.run(caller.project, run)
  }
  return { action: 'recorded', stepId: wireId('step', call.id) }
}

/** After this long, workers note that a step has begun, ms. */
const notedAfterMs = 100

/** Whether the step was probably never heard of. A guess, by clocks that may differ: a wrong one costs a statement. */
function isLikelyFresh({ startedAt, attempt }: BodyOf<Routes['recordStep']>): boolean {
  if ((attempt ?? 1) > 1) return false
  return !startedAt || Date.now() - Date.parse(startedAt) < notedAfterMs
}
