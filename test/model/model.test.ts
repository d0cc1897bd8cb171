import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openDatabase } from '../../packages/tidebase/src/db.ts'
import { type Reply, startServer } from '../server.ts'

// Random interleavings against a small model of a run and its steps. One test predicts every answer of a sequence;
// the other lets calls race over two servers and checks what must hold whatever their order was.
// MODEL_RUNS=1000 looks longer; a failure prints the seed and the shortest sequence that shows it.

let first: Awaited<ReturnType<typeof startServer>>
let second: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
beforeAll(async () => {
  first = await startServer({ reconciler: false })
  second = await startServer({ databaseUrl: first.databaseUrl, reconciler: false })
  db = openDatabase({ connectionString: first.databaseUrl })
})
afterAll(async () => {
  await db.close()
  await second.stop()
  await first.stop()
})

const workers = ['w0', 'w1', 'w2'] as const
const names = ['a', 'b'] as const
const kinds = [
  'begin',
  'heartbeat',
  'beginStep',
  'completeStep',
  'failStep',
  'record',
  'record',
  'complete',
  'fail',
  'cancel',
  'expire',
] as const

interface Command {
  kind: (typeof kinds)[number]
  worker: (typeof workers)[number]
  step: (typeof names)[number]
  hash: 'h' | 'other'
  output: number
}

const command: fc.Arbitrary<Command> = fc.record({
  kind: fc.constantFrom(...kinds),
  worker: fc.constantFrom(...workers),
  step: fc.constantFrom(...names),
  hash: fc.oneof(
    { weight: 9, arbitrary: fc.constant('h' as const) },
    { weight: 1, arbitrary: fc.constant('other' as const) },
  ),
  output: fc.nat(1000),
})
// Most sequences end early with a cancel or a completion: those are rare, so that what comes before is seen as well.
const commands = fc.array(
  command.filter(({ kind, output }) => (kind !== 'cancel' && kind !== 'complete') || output % 5 === 0),
  { minLength: 5, maxLength: 40 },
)

interface Step {
  status: 'running' | 'completed' | 'failed'
  hash: string
  owner: string | null
  expired: boolean
  last: string | null
  output: number | null
}

/** The run as the contract has it. */
class Model {
  status = 'pending'
  owner: string | null = null
  expired = false
  last: string | null = null
  attempt = 0
  steps = new Map<string, Step>()

  /** What the server must answer: an error code, an action, or `ok`. */
  expect({ kind, worker, step, hash, output }: Command): string {
    const known = this.steps.get(step)
    switch (kind) {
      case 'begin':
        if (this.status === 'cancelled') return 'run_cancelled'
        if (this.status === 'completed') return 'ok'
        if (this.status === 'running' && this.owner !== worker && !this.expired) return 'run_leased'
        this.status = 'running'
        this.owner = worker
        this.expired = false
        this.attempt++
        return 'ok'
      case 'heartbeat':
        if (this.status === 'cancelled') return 'run_cancelled'
        if (this.status !== 'running' || this.owner !== worker) return 'lease_lost'
        this.expired = false
        for (const each of this.steps.values()) if (each.owner === worker) each.expired = false
        return 'ok'
      case 'beginStep':
        if (this.status === 'cancelled') return 'cancelled'
        if (known && known.hash !== hash) return 'input_mismatch'
        if (known?.status === 'completed') return 'return'
        if (this.status === 'completed') return 'run_completed'
        if (known?.status === 'running' && known.owner !== worker && !known.expired) return 'locked'
        this.steps.set(step, {
          status: 'running',
          hash,
          owner: worker,
          expired: false,
          last: known?.last ?? null,
          output: null,
        })
        return 'execute'
      case 'completeStep':
      case 'failStep': {
        const end = kind === 'completeStep' ? 'completed' : 'failed'
        if (!known) return 'step_not_found'
        if (known.status === end && known.last === worker) return 'ok'
        if (this.status === 'cancelled') return 'run_cancelled'
        const ended = end === 'completed' && this.status === 'completed'
        if (ended || known.status !== 'running' || known.owner !== worker) return 'lease_lost'
        Object.assign(known, { status: end, last: worker, owner: null, output: end === 'completed' ? output : null })
        return 'ok'
      }
      case 'record':
        if (this.status === 'cancelled') return 'cancelled'
        if (known && known.hash !== hash) return 'input_mismatch'
        if (known?.status === 'completed') return known.last === worker ? 'recorded' : 'return'
        if (this.status !== 'running' || this.owner !== worker) return 'lease_lost'
        if (known?.status === 'running' && known.owner !== worker && !known.expired) return 'locked'
        this.steps.set(step, { status: 'completed', hash, owner: null, expired: false, last: worker, output })
        return 'recorded'
      case 'complete':
      case 'fail': {
        const end = kind === 'complete' ? 'completed' : 'failed'
        if (this.status === 'cancelled') return 'ok'
        if (this.status === end && this.last === worker) return 'ok'
        if (this.owner !== worker) return 'lease_lost'
        this.status = end
        this.owner = null
        this.last = worker
        return 'ok'
      }
      case 'cancel':
        if (this.status === 'completed') return 'run_completed'
        this.status = 'cancelled'
        this.owner = null
        return 'ok'
      case 'expire':
        this.expired = true
        for (const each of this.steps.values()) each.expired = true
        return 'ok'
    }
  }
}

let runs = 0
async function create(): Promise<string> {
  const { run } = await first.ok('createRun', { params: { workflowName: 'model' }, body: { metadata: { n: runs++ } } })
  return run.id
}

/** Carries a command out and says what came back, in the model's words. */
async function carryOut(runId: string, { kind, worker, step, hash, output }: Command, server = first): Promise<string> {
  const params = { runId }
  const said = ({ status, body }: Reply) =>
    status === 200 ? (typeof body.action === 'string' ? body.action : 'ok') : (body.code ?? String(status))
  const stepId = async () => {
    const { steps } = await server.ok('getRun', { params, query: { include: 'steps' } })
    return steps.find(({ name }) => name === step)?.id ?? `step_${'0'.repeat(32)}`
  }
  const start = { name: step, inputHash: hash, leaseOwner: worker }
  switch (kind) {
    case 'begin':
      return said(await server.send('beginRun', { params, headers: { 'x-tidebase-worker': worker } }))
    case 'heartbeat':
      return said(await server.send('heartbeatRun', { params, body: { leaseOwner: worker } }))
    case 'beginStep':
      return said(await server.send('beginStep', { params, body: start }))
    case 'completeStep':
      return said(
        await server.send('completeStep', {
          params: { runId, stepId: await stepId() },
          body: { leaseOwner: worker, output },
        }),
      )
    case 'failStep':
      return said(
        await server.send('failStep', {
          params: { runId, stepId: await stepId() },
          body: { leaseOwner: worker, error: 'x' },
        }),
      )
    case 'record':
      return said(await server.send('recordStep', { params, body: { ...start, output } }))
    case 'complete':
      return said(await server.send('completeRun', { params, body: { leaseOwner: worker, result: output } }))
    case 'fail':
      return said(await server.send('failRun', { params, body: { leaseOwner: worker, error: 'x' } }))
    case 'cancel':
      return said(await server.send('cancelRun', { params, body: {} }))
    case 'expire': {
      const id = runId.slice('run_'.length)
      await db.cold.query(`update tidebase.runs set lease_expires_at = now() - interval '1 s' where id = $1`, [id])
      await db.cold.query(`update tidebase.steps set lease_expires_at = now() - interval '1 s' where run_id = $1`, [id])
      return 'ok'
    }
  }
}

/** What holds of every history, whatever was called. */
async function checkHistory(runId: string) {
  const { run, steps, events } = await second.ok('getRun', { params: { runId } })
  expect(events.map(({ seq }) => seq)).toEqual(events.map((_, n) => n + 1))
  const types = events.map(({ type }) => type)
  const count = (type: string) => types.filter((each) => each === type).length
  expect(count('run.completed')).toBeLessThanOrEqual(1)
  expect(count('run.cancelled')).toBeLessThanOrEqual(1)
  expect(count('run.started')).toBe(run.attempt)
  if (run.status === 'cancelled') expect(types.at(-1)).toBe('run.cancelled')
  if (run.status === 'completed') expect(types.lastIndexOf('run.started')).toBeLessThan(types.indexOf('run.completed'))
  for (const { id, status } of steps) {
    const mine = events.filter(({ payload }) => Object(payload).stepId === id).map(({ type }) => type)
    expect(mine[0]).toBe('step.started')
    expect(mine.filter((type) => type === 'step.completed')).toHaveLength(status === 'completed' ? 1 : 0)
    // Nothing happens to a step after its checkpoint.
    if (status === 'completed') expect(mine.at(-1)).toBe('step.completed')
  }
  return { run, steps }
}

const numRuns = Number(process.env.MODEL_RUNS ?? 25)

test('every answer of a random sequence is the model’s', { timeout: 120_000 + numRuns * 1_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(commands, async (sequence) => {
      const runId = await create()
      const model = new Model()
      for (const [n, each] of sequence.entries()) {
        const expected = model.expect(each)
        expect({ n, each, said: await carryOut(runId, each, n % 2 ? first : second) }).toEqual({
          n,
          each,
          said: expected,
        })
      }
      const { run, steps } = await checkHistory(runId)
      expect(run).toMatchObject({ status: model.status, leaseOwner: model.owner, attempt: model.attempt })
      expect(Object.fromEntries(steps.map(({ name, status, output }) => [name, { status, output }]))).toEqual(
        Object.fromEntries([...model.steps].map(([name, { status, output }]) => [name, { status, output }])),
      )
    }),
    { numRuns },
  )
})

test('whatever the order of racing calls, the history is legal and what was acknowledged stays', {
  timeout: 120_000 + numRuns * 1_000,
}, async () => {
  await fc.assert(
    fc.asyncProperty(commands, fc.integer({ min: 2, max: 12 }), async (sequence, atOnce) => {
      const runId = await create()
      const acknowledged = new Map<string, number>()
      for (let n = 0; n < sequence.length; n += atOnce) {
        const racing = sequence.slice(n, n + atOnce)
        const said = await Promise.all(racing.map((each, k) => carryOut(runId, each, k % 2 ? first : second)))
        expect(said).not.toContain('internal')
        // Of several workers at once, one may hold the run.
        const { steps } = await second.ok('getRun', { params: { runId } })
        for (const { name, status, output } of steps) {
          if (acknowledged.has(name))
            expect({ status, output }).toEqual({ status: 'completed', output: acknowledged.get(name) })
          if (status === 'completed') acknowledged.set(name, Number(output))
        }
        racing.forEach((each, k) => {
          if (each.kind === 'record' && said[k] === 'recorded') expect(acknowledged.has(each.step)).toBe(true)
        })
      }
      await checkHistory(runId)
    }),
    { numRuns },
  )
})
