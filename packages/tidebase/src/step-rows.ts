// Steps as they are stored, and as the wire shows them.
import { type ContractOptions, type ReplyOf, type Routes, resumeContract } from '@tidebase/wire'
import type { Queryable } from './db.ts'
import { type Encoded, encodeRows, jsonText, stringText, timeText, utc } from './encoded.ts'
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

type StepTexts = [
  id: string,
  name: string,
  inputHash: string,
  input: string | null,
  options: string | null,
  status: string,
  output: string | null,
  error: string | null,
  review: string | null,
  leaseOwner: string | null,
  leaseExpiresAt: string | null,
  attempt: string,
  startedAt: string | null,
  completedAt: string | null,
  createdAt: string,
  updatedAt: string,
  position: string,
]

const stepColumns = [
  'id, name, input_hash, input, options, status, output, error, review, lease_owner',
  utc('lease_expires_at'),
  'attempt',
  ...['started_at', 'completed_at', 'created_at', 'updated_at'].map(utc),
  'position',
].join(', ')

/**
 * The steps of a run in the order they began, as `toStep` shows each, and where the next page begins: null on the last.
 *
 * @param options limit: steps at most, all unless given; after: position of the last step of the page before
 */
export async function readSteps(
  db: Queryable,
  project: number,
  run: string,
  { after, limit }: { after: number | undefined; limit: number | undefined },
): Promise<{ steps: Encoded<Step[]>; nextStepsAfter: number | null }> {
  const rows = await db.texts<StepTexts>(
    {
      name: 'steps.page',
      text: `select ${stepColumns} from tidebase.steps
        where project = $1 and run_id = $2 and position > $3 order by position limit $4`,
    },
    // Those that a fork took over have negative positions.
    [project, run, after ?? -(2 ** 31), limit],
  )
  const runId = stringText(wireId('run', run))
  // Most steps of a run are of the same few kinds.
  const contracts = new Map<string | null, string>()
  const contractOf = (options: string | null) => {
    const known = contracts.get(options)
    if (known !== undefined) return known
    const contract = JSON.stringify(resumeContract(options === null ? null : JSON.parse(options)))
    contracts.set(options, contract)
    return contract
  }
  const steps = encodeRows<Step, StepTexts>(
    rows,
    ([
      id,
      name,
      inputHash,
      input,
      options,
      status,
      output,
      error,
      review,
      leaseOwner,
      leaseExpiresAt,
      attempt,
      startedAt,
      completedAt,
      createdAt,
      updatedAt,
    ]) =>
      `{"id":"${wireId('step', id)}","runId":${runId},"name":${stringText(name)},"inputHash":${stringText(inputHash)},` +
      `"input":${jsonText(input)},"options":${jsonText(options)},"resumeContract":${contractOf(options)},` +
      `"status":"${status}","output":${jsonText(output)},"error":${stringText(error)},` +
      `"needsReview":${review === 'open'},"leaseOwner":${stringText(leaseOwner)},` +
      `"leaseExpiresAt":${timeText(leaseExpiresAt)},"attempt":${attempt},"startedAt":${timeText(startedAt)},` +
      `"completedAt":${timeText(completedAt)},"createdAt":${timeText(createdAt)},"updatedAt":${timeText(updatedAt)}}`,
  )
  return { steps, nextStepsAfter: rows.length === limit ? Number(rows.at(-1)?.at(-1)) : null }
}

/** The completed steps of a run in the order they began. */
export async function readCheckpoints(db: Queryable, project: number, run: string): Promise<Encoded<Checkpoint[]>> {
  const rows = await db.texts<[id: string, name: string, inputHash: string, output: string | null]>(
    {
      name: 'steps.checkpoints',
      text: `select id, name, input_hash, output from tidebase.steps
        where project = $1 and run_id = $2 and status = 'completed' order by position`,
    },
    [project, run],
  )
  return encodeRows(
    rows,
    ([id, name, inputHash, output]) =>
      `{"id":"${wireId('step', id)}","name":${stringText(name)},"inputHash":${stringText(inputHash)},"output":${jsonText(output)}}`,
  )
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
