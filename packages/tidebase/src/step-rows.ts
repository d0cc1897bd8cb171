// Steps as they are stored, and as the wire shows them.
import { type ContractOptions, type ReplyOf, type Routes, resumeContract } from '@tidebase/wire'
import type { Queryable } from './db.ts'
import { ApiError } from './errors.ts'
import { wireId } from './ids.ts'

/** A step as the wire shows it. */
export type Step = ReplyOf<Routes['completeStep']>['step']
type Checkpoint = NonNullable<ReplyOf<Routes['beginRun']>['checkpoints']>[number]

/** A row of tidebase.steps. */
export interface StepRow {
  id: string
  run_id: string
  name: string
  input_hash: string
  input: unknown
  options: (ContractOptions & Record<string, unknown>) | null
  status: Step['status']
  output: unknown
  error: string | null
  review: 'open' | 'fail' | null
  lease_owner: string | null
  lease_expires_at: Date | null
  attempt: number
  started_at: Date | null
  completed_at: Date | null
  created_at: Date
  updated_at: Date
}

/** A step as the wire shows it. */
export function toStep(row: StepRow): Step {
  return {
    id: wireId('step', row.id),
    runId: wireId('run', row.run_id),
    name: row.name,
    inputHash: row.input_hash,
    input: row.input,
    options: row.options,
    resumeContract: resumeContract(row.options),
    status: row.status,
    output: row.output,
    error: row.error,
    needsReview: row.review === 'open',
    leaseOwner: row.lease_owner,
    leaseExpiresAt: row.lease_expires_at?.toISOString() ?? null,
    attempt: row.attempt,
    startedAt: row.started_at?.toISOString() ?? null,
    completedAt: row.completed_at?.toISOString() ?? null,
    createdAt: row.created_at.toISOString(),
    updatedAt: row.updated_at.toISOString(),
  }
}

/** The completed steps of a run in the order they began. */
export async function readCheckpoints(db: Queryable, project: number, run: string): Promise<Checkpoint[]> {
  const rows = await db.query<{ id: string; name: string; input_hash: string; output: unknown }>(
    {
      name: 'steps.checkpoints',
      text: `select id, name, input_hash, output from tidebase.steps
        where project = $1 and run_id = $2 and status = 'completed' order by position`,
    },
    [project, run],
  )
  return rows.map((row) => ({
    id: wireId('step', row.id),
    name: row.name,
    inputHash: row.input_hash,
    output: row.output,
  }))
}

/** Reads a step by its stored ids. @throws ApiError `step_not_found` */
export async function readStep(
  db: Queryable,
  { project, run, id }: { project: number; run: string; id: string },
): Promise<StepRow> {
  const [row] = await db.query<StepRow>(
    { name: 'steps.read', text: 'select * from tidebase.steps where project = $1 and run_id = $2 and id = $3' },
    [project, run, id],
  )
  if (!row) throw new ApiError('step_not_found')
  return row
}
