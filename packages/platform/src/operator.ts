// What the operator sees and does: all agents and pods with what they use, the mails, the machine. Only with the
// operator's key (TIDEPOOL_OPERATOR_KEY, or operator.key in the data folder).
import { statfs } from 'node:fs/promises'
import { cpus, freemem, loadavg, totalmem } from 'node:os'
import { z } from 'zod'
import type { Queryable } from './db.ts'
import { endpoint, Time } from './endpoint.ts'
import { PlatformError } from './errors.ts'
import type { Platform } from './platform.ts'
import { activatePod, killPod, Pod, type PodRow, toPod } from './pods.ts'

const Page = z.object({ limit: z.coerce.number().int().min(1).max(1000).default(100) })

const AgentUse = z.object({
  id: z.string(),
  email: z.string(),
  verified: z.boolean(),
  createdAt: Time,
  pods: z.int(),
  keys: z.int(),
})

/** Agents, newest first. */
export async function listAgents(db: Queryable, limit: number) {
  const rows = await db.query<{
    id: string
    email: string
    verified: boolean
    created_at: Date
    pods: number
    keys: number
  }>(
    `select a.id, a.email, a.verified_at is not null as verified, a.created_at,
            (select count(*) from platform.pods p where p.agent = a.id and p.status <> 'deleted') as pods,
            (select count(*) from platform.keys k where k.agent = a.id) as keys
       from platform.agents a order by a.created_at desc, a.id limit $1`,
    [limit],
  )
  return rows.map(({ created_at, ...row }) => ({ ...row, createdAt: created_at.toISOString() }))
}

/** Pods of all agents with what they use, newest first. */
export async function listAllPods(platform: Platform, limit: number) {
  const rows = await platform.db.query<PodRow & { email: string; db_size: number; files: number; file_bytes: number }>(
    `select p.*, a.email, coalesce(s.db_size, 0) as db_size,
            (select count(*) from platform.files f where f.pod = p.id) as files,
            (select coalesce(sum(size), 0) from platform.files f where f.pod = p.id) as file_bytes
       from platform.pods p join platform.agents a on a.id = p.agent left join platform.stores s on s.pod = p.id
      order by p.created_at desc, p.id limit $1`,
    [limit],
  )
  return rows.map((row) => {
    const replicas = platform.replicas.of(row.id)
    const { requests, errors } = platform.traffic.of(row.id).hour
    return {
      pod: toPod(platform, row),
      agent: { id: row.agent, email: row.email },
      healthy: replicas.filter(({ state }) => state === 'healthy').length,
      restarts: replicas.reduce((sum, each) => sum + each.restarts, 0),
      memoryBytes: replicas.reduce((sum, each) => sum + (each.memory ?? 0), 0),
      cpu: replicas.reduce((sum, each) => sum + (each.cpu ?? 0), 0),
      requestsLastHour: requests,
      errorsLastHour: errors,
      dbBytes: row.db_size,
      files: row.files,
      fileBytes: row.file_bytes,
    }
  })
}

/** How the machine is. */
export async function machineState({ driver, db, replicas, mailer, settings }: Platform) {
  const disk = await statfs(settings.dir).catch(() => undefined)
  const [size] = await db.query<{ bytes: number; version: string }>(
    "select pg_database_size(current_database()) as bytes, current_setting('server_version') as version",
  )
  return {
    isolation: driver.describe(),
    mailDelivered: mailer.delivers,
    node: process.version,
    postgres: size?.version ?? '',
    uptimeSeconds: Math.trunc(process.uptime()),
    cores: cpus().length,
    load: loadavg(),
    memoryBytes: totalmem(),
    freeMemoryBytes: freemem(),
    ownMemoryBytes: process.memoryUsage.rss(),
    diskBytes: disk ? disk.blocks * disk.bsize : null,
    freeDiskBytes: disk ? disk.bavail * disk.bsize : null,
    databaseBytes: size?.bytes ?? 0,
    processes: replicas.groups().reduce((sum, { desired }) => sum + desired, 0),
  }
}

const agents = endpoint({
  method: 'GET',
  path: '/api/operator/agents',
  summary: 'Operator: agents, newest first.',
  access: 'operator',
  query: Page,
  reply: z.object({ agents: z.array(AgentUse) }),
  errors: [],
  handler: async ({ platform, query }) => ({ agents: await listAgents(platform.db, query.limit) }),
})

const pods = endpoint({
  method: 'GET',
  path: '/api/operator/pods',
  summary: 'Operator: pods of all agents with what they use, newest first; deleted ones that can be restored too.',
  access: 'operator',
  query: Page,
  reply: z.object({
    pods: z.array(
      z.object({
        pod: Pod,
        agent: z.object({ id: z.string(), email: z.string() }),
        healthy: z.int(),
        restarts: z.int(),
        memoryBytes: z.number(),
        cpu: z.number().describe('Cores in use'),
        requestsLastHour: z.int(),
        errorsLastHour: z.int(),
        dbBytes: z.number(),
        files: z.int(),
        fileBytes: z.number(),
      }),
    ),
  }),
  errors: [],
  handler: async ({ platform, query }) => ({ pods: await listAllPods(platform, query.limit) }),
})

const machine = endpoint({
  method: 'GET',
  path: '/api/operator/machine',
  summary: 'Operator: the machine’s state.',
  access: 'operator',
  reply: z.object({
    isolation: z.string().describe('What isolates pods, and what is missing'),
    mailDelivered: z.boolean().describe('Whether there is a mail server; without one mails are kept'),
    node: z.string(),
    postgres: z.string(),
    uptimeSeconds: z.int(),
    cores: z.int(),
    load: z.array(z.number()).describe('Over 1, 5 and 15 minutes'),
    memoryBytes: z.number(),
    freeMemoryBytes: z.number(),
    ownMemoryBytes: z.number(),
    diskBytes: z.number().nullable().describe('Of the data folder’s disk'),
    freeDiskBytes: z.number().nullable(),
    databaseBytes: z.number(),
    processes: z.int().describe('Of pods, that should run'),
  }),
  errors: [],
  handler: ({ platform }) => machineState(platform),
})

/** A pod of anybody. */
async function anyPod({ db }: Platform, id: string | undefined): Promise<PodRow> {
  const [row] = await db.query<PodRow>("select * from platform.pods where id = $1 and status <> 'deleted'", [id ?? ''])
  if (!row) throw new PlatformError('not_found', 'There is no such pod.')
  return row
}

const kill = endpoint({
  method: 'POST',
  path: '/api/operator/pods/:id/kill',
  summary: 'Operator: stop all processes of a pod; its data stays, and its agent may start it again.',
  access: 'operator',
  reply: z.object({ pod: Pod }),
  errors: ['not_found', 'not_deployed'],
  handler: async ({ platform, params }) => ({ pod: await killPod(platform, await anyPod(platform, params.id)) }),
})

const activate = endpoint({
  method: 'POST',
  path: '/api/operator/pods/:id/activate',
  summary: 'Operator: start a stopped pod.',
  access: 'operator',
  reply: z.object({ pod: Pod }),
  errors: ['not_found', 'not_deployed'],
  handler: async ({ platform, params }) => ({ pod: await activatePod(platform, await anyPod(platform, params.id)) }),
})

export const operatorEndpoints = {
  listAgents: agents,
  listAllPods: pods,
  getMachine: machine,
  operatorKillPod: kill,
  operatorActivatePod: activate,
}
