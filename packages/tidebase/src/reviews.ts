// Reviews: a person decides about a step whose worker died while a side effect may or may not have happened.
//
//   manual_review (open) ─retry→ failed_retryable     the next begin executes it
//                        ─complete→ completed          the next begin returns the output that was given
//                        ─fail→ failed                 no begin gets past it
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { statement } from './coalesce.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { ApiError } from './errors.ts'
import { appendEvents, leftJoinRow, lockRuns } from './events.ts'
import { parseId, wireIdSql } from './ids.ts'
import { announceWake, joinWoken, type Woken, wakeNews, wakeParked, wokenColumns } from './park.ts'
import { refuse } from './runs.ts'
import { type StepRow, toStep } from './step-rows.ts'

const resolutions = statement<
  { project: number; run: string; id: string; decision: string; output?: unknown; actor?: string | null },
  StepRow & Woken
>(
  'steps.resolve',
  ['project integer', 'run uuid', 'id uuid', 'decision text', 'output json', 'actor text'],
  `${lockRuns}, decided as materialized (
    select c.*, s.name, l.tid, l.event_seq, case
      when l.id is null then 'missing'
      when not l.fresh or row_number() over (partition by c.project, c.run, c.id order by c.i) > 1 then 'again'
      when s.id is null then 'no_step'
      when l.status = 'cancelled' then 'cancelled'
      when s.review is distinct from 'open' then 'not_in_review'
      else 'resolved' end as action
    from calls c
    left join locked l on l.project = c.project and l.id = c.run
    ${leftJoinRow('steps', 's', 't.project = c.project and t.run_id = c.run and t.id = c.id')}
  ), numbered as materialized (
    select *, event_seq + row_number() over (partition by project, run order by i)::integer as seq
    from decided where action = 'resolved'
  ), resolved as (
    update tidebase.steps s set
      status = case n.decision when 'retry' then 'failed_retryable' when 'complete' then 'completed' else 'failed' end,
      review = case n.decision when 'fail' then 'fail' end,
      output = case n.decision when 'complete' then n.output end, last_owner = null,
      completed_at = case n.decision when 'complete' then now() end, updated_at = now()
    from numbered n where s.project = n.project and s.run_id = n.run and s.id = n.id
    returning s.*
  ), ${wakeParked}, news as materialized (
    select project, run, seq, 'step.resolved' as type, json_build_object('stepId', ${wireIdSql('step', 'id')},
      'name', name, 'decision', decision, 'actor', actor) as payload
    from numbered ${wakeNews}
  ), ${appendEvents}
  select d.i, d.action, ${wokenColumns}, s.* from decided d ${joinWoken}
  left join resolved s on s.project = d.project and s.run_id = d.run and s.id = d.id and d.action = 'resolved'`,
)

/**
 * Decides about a step in review, exactly once. A parked run goes on.
 *
 * @throws ApiError `run_not_found`, `step_not_found`, `run_cancelled`, `step_not_in_review`
 */
export async function resolveStep(
  engine: Engine,
  caller: Caller,
  run: string,
  stepId: string,
  body: BodyOf<Routes['resolveStep']>,
): Promise<ReplyOf<Routes['resolveStep']>> {
  const id = parseId('step', stepId)
  if (!id) throw new ApiError('step_not_found')
  const call = { project: caller.project, run, id, decision: body.decision, output: body.output, actor: body.actor }
  const row = await submit(engine, resolutions, call)
  refuse(row.action)
  if (row.action === 'no_step') throw new ApiError('step_not_found')
  if (row.action === 'not_in_review') throw new ApiError('step_not_in_review')
  announceWake(engine, call, row)
  return { step: toStep(row) }
}
