// Children: runs that a run starts. The child's id is derived from the parent and the child's name, so starting it
// twice, also at once, makes one.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { statement } from './coalesce.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { ApiError } from './errors.ts'
import { appendEvents, leftJoinRow, lockRuns, runIs } from './events.ts'
import { derivedId, wireId, wireIdSql } from './ids.ts'
import { insertRuns, newRun, newRunColumns, type RunRow, readRun, refuse, toRun } from './runs.ts'

type Edge = ReplyOf<Routes['createChild']>['edge']

/** A row of tidebase.edges. */
export interface EdgeRow {
  id: string
  parent_run_id: string
  child_run_id: string
  name: string
  edge_type: string
  metadata: Record<string, unknown>
  created_at: Date
}

/** An edge as the wire shows it. */
export function toEdge(row: EdgeRow): Edge {
  return {
    id: wireId('edge', row.id),
    parentRunId: wireId('run', row.parent_run_id),
    childRunId: wireId('run', row.child_run_id),
    name: row.name,
    edgeType: row.edge_type,
    metadata: row.metadata,
    createdAt: row.created_at.toISOString(),
  }
}

type ChildCall = ReturnType<typeof newRun> & {
  run: string
  edge_id: string
  name: string
  edge_type: string
  edge_metadata: object
}

const births = statement<ChildCall, RunRow & { edge_created_at: Date }>(
  'children.create',
  [...newRunColumns, 'run uuid', 'edge_id uuid', 'name text', 'edge_type text', 'edge_metadata json'],
  `${lockRuns}, decided as materialized (
    select c.*, l.tid, l.event_seq, case
      when l.id is null then 'missing'
      when not l.fresh or row_number() over (partition by c.project, c.run, c.edge_id order by c.i) > 1 then 'again'
      when e.id is not null then 'known'
      when l.status = 'cancelled' then 'cancelled'
      when r.id is not null then 'conflict'
      else 'created' end as action
    from calls c
    left join locked l on l.project = c.project and l.id = c.run
    ${leftJoinRow('edges', 'e', 't.project = c.project and t.parent_run_id = c.run and t.id = c.edge_id')}
    ${leftJoinRow('runs', 'r', runIs('t', 'c.project', 'c.id'))}
  ), numbered as materialized (
    select *, event_seq + row_number() over (partition by project, run order by i)::integer as seq
    from decided where action = 'created'
  ), ${insertRuns('numbered')}, joined as (
    insert into tidebase.edges (project, parent_run_id, child_run_id, id, name, edge_type, metadata)
    select project, run, id, edge_id, name, edge_type, edge_metadata from numbered
  ), bumped as (
    update tidebase.runs r set event_seq = n.last, updated_at = now()
    from (select tid, max(seq) as last from numbered group by tid) n where r.ctid = n.tid
  ), news as materialized (
    select project, run, seq, 'run.child.created' as type, json_build_object('childRunId', ${wireIdSql('run', 'id')},
      'name', name, 'workflowName', workflow_name, 'edgeType', edge_type) as payload
    from numbered
  ), ${appendEvents}
  select d.i, d.action, now() as edge_created_at, r.* from decided d
  left join inserted r on r.project = d.project and r.id = d.id and d.action = 'created'`,
)

/** Creates a child run, or finds it. @throws ApiError `run_not_found`, `run_cancelled`, `run_conflict`, `webhook_target_refused` */
export async function createChild(
  engine: Engine,
  caller: Caller,
  parent: string,
  body: BodyOf<Routes['createChild']>,
): Promise<ReplyOf<Routes['createChild']>> {
  const metadata = { ...body.metadata, parentRunId: wireId('run', parent), parentEdgeName: body.name }
  const call: ChildCall = {
    ...newRun(engine, caller, body.workflowName, { ...body, metadata }),
    run: parent,
    edge_id: derivedId(parent, 'edge', body.name),
    name: body.name,
    edge_type: body.edgeType ?? 'child',
    edge_metadata: body.edgeMetadata ?? {},
  }
  if (!body.id) call.id = derivedId(parent, 'child', body.name)
  const row = await submit(engine, births, call)
  refuse(row.action)
  if (row.action === 'conflict') throw new ApiError('run_conflict')
  if (row.action === 'known') {
    const [edge] = await engine.db.hot.query<EdgeRow>(
      'select * from tidebase.edges where project = $1 and parent_run_id = $2 and id = $3',
      [caller.project, parent, call.edge_id],
    )
    if (!edge) throw new ApiError('run_not_found')
    const child = await readRun(engine.db.hot, caller, edge.child_run_id)
    return { run: toRun(child), edge: toEdge(edge), created: false }
  }
  engine.wakeups.run(caller.project, parent)
  if (call.channels) engine.wakeups.outbox()
  const edge = toEdge({
    id: call.edge_id,
    parent_run_id: parent,
    child_run_id: row.id,
    name: body.name,
    edge_type: call.edge_type,
    metadata: body.edgeMetadata ?? {},
    created_at: row.edge_created_at,
  })
  return { run: toRun(row), edge, created: true }
}
