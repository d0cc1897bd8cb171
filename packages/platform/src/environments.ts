// Environments: how large a pod's processes may be and what they cost. Operators add some; pods choose one.
import { z } from 'zod'
import type { Queryable } from './db.ts'
import { endpoint } from './endpoint.ts'
import { PlatformError } from './errors.ts'
import { newId } from './ids.ts'

interface Row {
  id: string
  name: string
  memory_mb: number
  cpus: number
  processes: number
  scratch_mb: number
  credits_per_day: number
}

const Size = {
  memoryMb: z.int().min(64).max(65_536).describe('Memory of each process'),
  cpus: z.number().min(0.1).max(64),
  processes: z.int().min(16).max(4096),
  scratchMb: z.int().min(1).max(4096).describe('Space in /tmp, in memory'),
  creditsPerDay: z.int().min(0).max(1_000_000_000),
}
const Environment = z.object({ id: z.string(), name: z.string(), ...Size }).meta({ id: 'Environment' })

const toEnvironment = (row: Row) => ({
  id: row.id,
  name: row.name,
  memoryMb: row.memory_mb,
  cpus: row.cpus,
  processes: row.processes,
  scratchMb: row.scratch_mb,
  creditsPerDay: row.credits_per_day,
})

/** The environment of that id or name. @throws PlatformError `not_found` */
export async function findEnvironment(db: Queryable, which: string) {
  const [row] = await db.query<Row>('select * from platform.environments where id = $1 or name = $1', [which])
  if (!row)
    throw new PlatformError('not_found', `There is no environment ${which}.`, {
      hint: 'GET /api/environments lists them.',
    })
  return toEnvironment(row)
}

const list = endpoint({
  method: 'GET',
  path: '/api/environments',
  summary: 'Sizes that a pod may have.',
  access: 'public',
  reply: z.object({ environments: z.array(Environment) }),
  errors: [],
  async handler({ platform: { db } }) {
    const rows = await db.query<Row>('select * from platform.environments order by credits_per_day, name')
    return { environments: rows.map(toEnvironment) }
  },
})

const add = endpoint({
  method: 'POST',
  path: '/api/operator/environments',
  summary: 'Operator: add a size.',
  access: 'operator',
  body: z.object({ name: z.string().regex(/^[a-z][a-z0-9-]{0,39}$/), ...Size }),
  reply: z.object({ environment: Environment }),
  errors: ['name_taken'],
  async handler({ platform: { db }, body }) {
    const [row] = await db.query<Row>(
      `insert into platform.environments (id, name, memory_mb, cpus, processes, scratch_mb, credits_per_day)
       values ($1, $2, $3, $4, $5, $6, $7) on conflict (name) do nothing returning *`,
      [newId(), body.name, body.memoryMb, body.cpus, body.processes, body.scratchMb, body.creditsPerDay],
    )
    if (!row) throw new PlatformError('name_taken', `There is an environment ${body.name}.`)
    return { environment: toEnvironment(row) }
  },
})

export const environmentEndpoints = { listEnvironments: list, addEnvironment: add }
