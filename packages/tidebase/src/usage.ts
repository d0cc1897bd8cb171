// Usage: the append-only ledger of a run. Its totals on the run are the sum of the ledger, exactly: a repeated call
// with the same id adds nothing.
import type { BodyOf, QueryOf, ReplyOf, Routes } from '@tidebase/wire'
import { cancelRun } from './cancel.ts'
import { statement } from './coalesce.ts'
import type { Queryable } from './db.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { ApiError } from './errors.ts'
import { appendEvents, leftJoinRow, lockRuns } from './events.ts'
import { newId, parseId, wireId, wireIdSql } from './ids.ts'

type Usage = ReplyOf<Routes['recordUsage']>['usage']

/** A row of tidebase.usage. */
export interface UsageRow {
  id: string
  run_id: string
  step_id: string | null
  kind: string
  provider: string | null
  model: string | null
  label: string | null
  quantity: number | null
  unit: string | null
  input_tokens: number | null
  output_tokens: number | null
  total_tokens: number | null
  cost_usd: number | null
  metadata: Record<string, unknown>
  created_at: Date
}

/** A ledger entry as the wire shows it. */
export function toUsage(row: UsageRow): Usage {
  return {
    id: wireId('use', row.id),
    runId: wireId('run', row.run_id),
    stepId: row.step_id,
    kind: row.kind,
    provider: row.provider,
    model: row.model,
    label: row.label,
    quantity: row.quantity,
    unit: row.unit,
    inputTokens: row.input_tokens,
    outputTokens: row.output_tokens,
    totalTokens: row.total_tokens,
    costUsd: row.cost_usd,
    metadata: row.metadata,
    createdAt: row.created_at.toISOString(),
  }
}

const columns = [
  'project integer',
  'run uuid',
  'id uuid',
  'step_id text',
  'kind text',
  'provider text',
  'model text',
  'label text',
  'quantity double precision',
  'unit text',
  'input_tokens bigint',
  'output_tokens bigint',
  'total_tokens bigint',
  'cost_usd numeric',
  'metadata json',
]

const records = statement<
  { project: number; run: string; id: string } & Record<string, unknown>,
  UsageRow & { over: boolean }
>(
  'usage.record',
  columns,
  `${lockRuns}, decided as materialized (
    select c.*, l.tid, l.event_seq, case
      when l.id is null then 'missing'
      when not l.fresh or row_number() over (partition by c.project, c.run, c.id order by c.i) > 1 then 'again'
      when u.id is not null then 'repeated'
      else 'recorded' end as action
    from calls c
    left join locked l on l.project = c.project and l.id = c.run
    ${leftJoinRow('usage', 'u', 't.run_id = c.run and t.id = c.id and t.project is not distinct from c.project')}
  ), numbered as materialized (
    select *, event_seq + row_number() over (partition by project, run order by i)::integer as seq
    from decided where action = 'recorded'
  ), recorded as (
    insert into tidebase.usage (project, run_id, id, step_id, kind, provider, model, label, quantity, unit,
      input_tokens, output_tokens, total_tokens, cost_usd, metadata)
    select project, run, id, step_id, coalesce(kind, 'custom'), provider, model, label, quantity, unit,
      input_tokens, output_tokens, total_tokens, cost_usd, coalesce(metadata, '{}')
    from numbered returning *
  ), bumped as (
    update tidebase.runs r set event_seq = n.last, updated_at = now(),
      usage_input_tokens = r.usage_input_tokens + n.input_tokens,
      usage_output_tokens = r.usage_output_tokens + n.output_tokens,
      usage_total_tokens = r.usage_total_tokens + n.total_tokens,
      usage_cost_usd = r.usage_cost_usd + n.cost_usd
    from (
      select tid, max(seq) as last, coalesce(sum(input_tokens), 0) as input_tokens,
        coalesce(sum(output_tokens), 0) as output_tokens, coalesce(sum(total_tokens), 0) as total_tokens,
        coalesce(sum(cost_usd), 0) as cost_usd
      from numbered group by tid
    ) n where r.ctid = n.tid
    returning r.project, r.id, coalesce(r.usage_cost_usd > r.budget_cost_usd, false)
      or coalesce(r.usage_total_tokens > r.budget_total_tokens, false) as over
  ), news as materialized (
    select project, run, seq, 'usage.recorded' as type, json_build_object(
      'usageId', ${wireIdSql('use', 'id')}, 'stepId', step_id, 'kind', coalesce(kind, 'custom'), 'provider', provider,
      'model', model, 'totalTokens', total_tokens, 'costUsd', cost_usd) as payload
    from numbered
  ), ${appendEvents}
  select d.i, d.action, coalesce(b.over, false) as over, u.* from decided d
  left join bumped b on b.project = d.project and b.id = d.run
  left join recorded u on u.project = d.project and u.run_id = d.run and u.id = d.id and d.action = 'recorded'`,
)

/** Appends to the ledger. @throws ApiError `run_not_found` */
export async function recordUsage(
  engine: Engine,
  caller: Caller,
  run: string,
  body: BodyOf<Routes['recordUsage']>,
): Promise<ReplyOf<Routes['recordUsage']>> {
  const given = body.inputTokens != null || body.outputTokens != null
  const call = {
    project: caller.project,
    run,
    id: (body.id && parseId('use', body.id)) || newId(),
    step_id: body.stepId,
    kind: body.kind,
    provider: body.provider,
    model: body.model,
    label: body.label,
    quantity: body.quantity,
    unit: body.unit,
    input_tokens: body.inputTokens,
    output_tokens: body.outputTokens,
    total_tokens: body.totalTokens ?? (given ? (body.inputTokens ?? 0) + (body.outputTokens ?? 0) : null),
    cost_usd: body.costUsd,
    metadata: body.metadata,
  }
  const row = await submit(engine, records, call)
  if (row.action === 'missing') throw new ApiError('run_not_found')
  if (row.action === 'repeated') {
    const [known] = await engine.db.hot.query<UsageRow>(
      'select * from tidebase.usage where project is not distinct from $1::integer and run_id = $2 and id = $3',
      [caller.project, run, call.id],
    )
    if (known) return { usage: toUsage(known) }
  }
  engine.wakeups.run(caller.project, run)
  // Every entry beyond the budget asks for it again, so that a crash in between does not let the run go on.
  if (row.over) await exceed(engine, caller, run)
  return { usage: toUsage(row) }
}

/** Cancels a run that has used up more than its budget. */
async function exceed(engine: Engine, caller: Caller, run: string): Promise<void> {
  await cancelRun(engine, caller, run, { reason: 'budget', actor: 'budget' }, true).catch((error) => {
    // Its last entry came with its end.
    if (!(error instanceof ApiError && error.code === 'run_completed')) throw error
  })
}

const groups = {
  workflow: `(select r.workflow_name from tidebase.runs r where r.project = u.project and r.id = u.run_id)`,
  model: 'u.model',
  provider: 'u.provider',
  day: `to_char(u.created_at at time zone 'UTC', 'YYYY-MM-DD')`,
}

/** Sums the project's ledger. */
export async function sumUsage(
  db: Queryable,
  caller: Caller,
  { groupBy = 'day', from, to }: QueryOf<Routes['sumUsage']>,
): Promise<ReplyOf<Routes['sumUsage']>> {
  const rows = await db.query<Record<string, number> & { key: string | null }>(
    `select ${groups[groupBy]} as key, count(*) as entries, coalesce(sum(input_tokens), 0) as input_tokens,
      coalesce(sum(output_tokens), 0) as output_tokens, coalesce(sum(total_tokens), 0) as total_tokens,
      coalesce(sum(cost_usd), 0) as cost_usd
    from tidebase.usage u where u.project = $1 and ($2::timestamptz is null or u.created_at >= $2)
      and ($3::timestamptz is null or u.created_at < $3)
    group by 1 order by 1 nulls last`,
    [caller.project, from ?? null, to ?? null],
  )
  return {
    sums: rows.map(({ key, entries = 0, input_tokens = 0, output_tokens = 0, total_tokens = 0, cost_usd = 0 }) => ({
      [groupBy]: key,
      key,
      entries,
      inputTokens: input_tokens,
      outputTokens: output_tokens,
      totalTokens: total_tokens,
      costUsd: cost_usd,
    })),
  }
}
