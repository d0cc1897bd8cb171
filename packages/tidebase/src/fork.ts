// Fork: a new run that starts where another one was: with its completed steps up to a point, and its state.
// The steps are copied under ids of their own, so that both runs go their ways; outputs never leave the database.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import type { Caller, Engine } from './engine.ts'
import { ApiError } from './errors.ts'
import { derivedId, newId, wireId } from './ids.ts'
import { keepLive } from './live-runs.ts'
import { type RunRow, readRun, runKey, toRun } from './runs.ts'

/**
 * Forks a run.
 *
 * @param run the one to start from, in whatever state it is
 * @throws ApiError `run_not_found`, `step_not_found`, `state_not_found`, `run_conflict` (the new id is another run's)
 */
export async function forkRun(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['forkRun']>,
): Promise<ReplyOf<Routes['forkRun']>> {
  const { project } = caller
  const id = body.id ? runKey(body.id) : newId()
  const row = await engine.db.transaction(async (tx) => {
    const parent = await readRun(tx, caller, run)
    // So that retention does not delete it between two of the statements.
    const [kept] = await tx.query('select from tidebase.runs where project = $1 and id = $2 for key share', [
      project,
      run,
    ])
    if (!kept) throw new ApiError('run_not_found')
    const metadata = { ...parent.metadata, forkedFrom: wireId('run', run) }
    const [made] = await tx.query<RunRow>(
      `with made as (
      insert into tidebase.runs (project, id, workflow_name, input, metadata, status, recovery_webhook, queue, concurrency_key,
        priority, run_at, max_attempts, budget_cost_usd, budget_total_tokens, event_seq, created_by)
      select project, $3, workflow_name, case when $4 then $5::json else input end, $6,
        case when queue is null then 'pending' else 'queued' end, recovery_webhook, queue, concurrency_key, priority,
        case when queue is not null then now() end, max_attempts, budget_cost_usd, budget_total_tokens, 2, $7
      from tidebase.runs where project = $1 and id = $2
      on conflict do nothing returning *
      ), ${keepLive('made')}
      select * from made`,
      [project, run, id, body.input !== undefined, JSON.stringify(body.input ?? null), metadata, caller.keyId],
    )
    if (!made) {
      // A repeated call finds what the first one made.
      const known = await readRun(tx, caller, id)
      if (known.metadata.forkedFrom !== metadata.forkedFrom) throw new ApiError('run_conflict')
      return known
    }
    const steps = await tx.query<{ id: string; name: string; status: string; position: number }>(
      'select id, name, status, position from tidebase.steps where project = $1 and run_id = $2 order by position',
      [project, run],
    )
    const from = body.fromStep == null ? undefined : steps.find(({ name }) => name === body.fromStep)
    if (body.fromStep != null && !from) throw new ApiError('step_not_found')
    const taken = steps
      .filter(
        ({ status, position }) => status === 'completed' && position < (from?.position ?? Number.POSITIVE_INFINITY),
      )
      // Before all that the new run does itself: its own events are numbered from 1.
      .map((step, n, all) => ({ old: step.id, new: derivedId(id, 'step', step.name), place: n - all.length }))
    await tx.query(
      `insert into tidebase.steps (project, run_id, id, name, input_hash, input, options, replay_safe, status, output,
        attempt, position, started_at, completed_at)
      select project, $3, c.new, name, input_hash, input, options, replay_safe, status, output, attempt,
        c.place, started_at, completed_at
      from tidebase.steps s join json_to_recordset($4::text::json) as c(old uuid, new uuid, place integer) on c.old = s.id
      where s.project = $1 and s.run_id = $2`,
      [project, run, id, JSON.stringify(taken)],
    )
    const states = await tx.query(
      `with version as (
        select v.value from tidebase.state_versions v where v.project = $1 and v.run_id = $2 and v.stream = 'run'
          and ($4::integer is null or v.version = $4) order by v.version desc limit 1
      ), stream as (
        insert into tidebase.state_streams (project, run_id, name, id, target_type, target_id, current_version, current_value)
        select $1, $3, 'run', $5, 'run', $6, 1, value from version returning id
      )
      insert into tidebase.state_versions (project, run_id, stream, version, id, stream_id, value, importance, reason)
      select $1, $3, 'run', 1, $7, stream.id, version.value, 'normal', 'forked' from version, stream returning id`,
      [project, run, id, body.stateVersion ?? null, newId(), wireId('run', id), newId()],
    )
    if (body.stateVersion != null && states.length === 0) throw new ApiError('state_not_found')
    // The second event tells a worker that there is something to take up: see `beginRun`.
    await tx.query(
      `insert into tidebase.events (project, run_id, seq, type, payload) values ($1, $2, 1, $3, $4), ($1, $2, 2, 'run.forked', $5)`,
      [
        project,
        id,
        made.queue === null ? 'run.created' : 'run.enqueued',
        { workflowName: made.workflow_name, ...(made.queue === null ? {} : { queue: made.queue, runAt: made.run_at }) },
        { from: metadata.forkedFrom, steps: taken.length },
      ],
    )
    return made
  })
  if (row.queue !== null) engine.wakeups.queued(project, row.queue)
  else engine.wakeups.created(project)
  return { run: toRun(row) }
}
