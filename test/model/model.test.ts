import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { Coalescers } from '../../packages/tidebase/src/coalesce.ts'
import { openDatabase } from '../../packages/tidebase/src/db.ts'
import type { Engine } from '../../packages/tidebase/src/engine.ts'
import { endWait } from '../../packages/tidebase/src/waits.ts'
import { Wakeups } from '../../packages/tidebase/src/wakeups.ts'
import { expectLiveRuns } from '../live-runs.ts'
import { type Reply, startServer } from '../server.ts'

// Random interleavings against a small model of a run, its steps, waits, budget and forks. One test predicts every
// answer of a sequence; the other lets calls race over two servers and checks what must hold whatever their order was.
// MODEL_RUNS=1000 looks longer; a failure prints the seed and the shortest sequence that shows it.
// Longer than other files: the model, the calls and what must hold of them are one, and are read together.

let first: Awaited<ReturnType<typeof startServer>>
let second: Awaited<ReturnType<typeof startServer>>
let db: ReturnType<typeof openDatabase>
/** Carries out what the reconciler would, when the model says so. */
let engine: Engine
beforeAll(async () => {
  first = await startServer({ reconciler: false })
  second = await startServer({ databaseUrl: first.databaseUrl, reconciler: false })
  db = openDatabase({ connectionString: first.databaseUrl })
  engine = {
    db,
    coalescers: new Coalescers(db),
    wakeups: new Wakeups(db),
    settings: {
      leaseMs: 60_000,
      reconcileMs: 1_000,
      retentionDays: undefined,
      publicUrl: first.url,
      webhookSecret: undefined,
      allowPrivateWebhooks: false,
      keyless: true,
    },
  }
})
afterAll(async () => {
  await db.close()
  await second.stop()
  await first.stop()
})
afterEach(() => expectLiveRuns(db.cold))

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
  'wait',
  'wait',
  'signal',
  'park',
  'park',
  'fire',
  'usage',
  'fork',
] as const
/** What a run may use up. */
const budget = 2_500

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

/** A wait of a signal named as the step, one of two; or a timer. */
const waitOf = ({ step, output }: Command) => ({ timer: output % 3 === 2, name: `${output % 3}:${step}`, signal: step })

interface Wait {
  status: 'pending' | 'resolved' | 'timed_out'
  signal: string | null
  payload: number | null
}

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
  /** Parked: the attempt that goes on was counted. */
  claimed = false
  used = 0
  // In the order they began.
  steps = new Map<string, Step>()
  waits = new Map<string, Wait>()
  unread: { name: string; payload: number }[] = []

  get over(): boolean {
    return this.status === 'cancelled' || this.status === 'completed'
  }

  #end(wait: Wait, status: Wait['status'], payload: number | null): void {
    Object.assign(wait, { status, payload })
    if (this.status === 'waiting') this.status = 'pending'
  }

  /** What the server must answer: an error code, an action, or `ok`. */
  expect(command: Command): string {
    const { kind, worker, step, hash, output } = command
    const known = this.steps.get(step)
    switch (kind) {
      case 'begin':
        if (this.status === 'cancelled') return 'run_cancelled'
        if (this.status === 'completed') return 'ok'
        if (this.status === 'running' && this.owner !== worker && !this.expired) return 'run_leased'
        this.status = 'running'
        this.owner = worker
        this.expired = false
        if (!this.claimed) this.attempt++
        this.claimed = false
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
        this.claimed = false
        return 'ok'
      }
      case 'wait': {
        const { timer, name, signal } = waitOf(command)
        const begun = this.waits.get(name)
        if (begun) return begun.status === 'pending' ? 'wait' : 'return'
        if (this.status === 'cancelled') return 'run_cancelled'
        const kept = timer ? -1 : this.unread.findIndex((each) => each.name === signal)
        const [taken] = kept < 0 ? [] : this.unread.splice(kept, 1)
        this.waits.set(name, {
          status: taken ? 'resolved' : 'pending',
          signal: timer ? null : signal,
          payload: taken?.payload ?? null,
        })
        return taken ? 'return' : 'wait'
      }
      case 'signal': {
        if (this.over) return `run_${this.status}`
        const waiting = [...this.waits.values()].find(({ status, signal }) => status === 'pending' && signal === step)
        if (waiting) this.#end(waiting, 'resolved', output)
        else this.unread.push({ name: step, payload: output })
        return 'ok'
      }
      case 'fire': {
        const due = this.waits.get(waitOf(command).name)
        if (due?.status === 'pending' && !this.over)
          this.#end(due, due.signal === null ? 'resolved' : 'timed_out', null)
        return 'ok'
      }
      case 'park': {
        if (this.status === 'cancelled') return 'run_cancelled'
        const given = this.status === 'waiting' || this.status === 'pending'
        if (given && this.last === worker && this.claimed) return 'parked'
        if (this.status !== 'running' || this.owner !== worker) return 'lease_lost'
        if (this.waits.get(waitOf(command).name)?.status !== 'pending') return 'continue'
        this.status = 'waiting'
        this.owner = null
        this.last = worker
        this.claimed = true
        return 'parked'
      }
      case 'usage':
        this.used += output
        if (this.used > budget && !this.over) {
          this.status = 'cancelled'
          this.owner = null
        }
        return 'ok'
      case 'fork': {
        const all = [...this.steps]
        const from = output % 2 ? all.findIndex(([name]) => name === step) : all.length
        if (from < 0) return 'step_not_found'
        const taken = all.slice(0, from).filter(([, { status }]) => status === 'completed')
        return `ok ${taken.map(([name, { output }]) => `${name}=${output}`).join()}`
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
  const { run } = await first.ok('createRun', {
    params: { workflowName: 'model' },
    body: { metadata: { n: runs++ }, budget: { totalTokens: budget } },
  })
  return run.id
}

/** Carries a command out and says what came back, in the model's words. */
async function carryOut(runId: string, command: Command, server = first): Promise<string> {
  const { kind, worker, step, hash, output } = command
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
    case 'wait': {
      const { timer, name, signal } = waitOf(command)
      return said(
        timer
          ? await server.send('createTimer', { params, body: { name, delayMs: 3_600_000 } })
          : await server.send('waitForSignal', { params, body: { name, signal } }),
      )
    }
    case 'signal':
      return said(await server.send('sendSignal', { params, body: { name: step, payload: output } }))
    case 'fire': {
      const [due] = await db.cold.query<{ project: number; id: string }>(
        `update tidebase.waits set due_at = now() - interval '1 s'
          where run_id = $1 and name = $2 and status = 'pending' returning project, replace(id::text, '-', '') as id`,
        [runId.slice('run_'.length), waitOf(command).name],
      )
      if (due) await endWait(engine, due.project, runId.slice('run_'.length), due.id)
      return 'ok'
    }
    case 'park': {
      const { waits } = await server.ok('getRun', { params, query: { include: 'waits' } })
      const id = waits.find(({ name }) => name === waitOf(command).name)?.id ?? `wait_${'0'.repeat(32)}`
      return said(await server.send('parkRun', { params, body: { leaseOwner: worker, waitingFor: [id] } }))
    }
    case 'usage':
      return said(await server.send('recordUsage', { params, body: { kind: 'llm', totalTokens: output } }))
    case 'fork': {
      const reply = await server.send('forkRun', { params, body: output % 2 ? { fromStep: step } : {} })
      if (reply.status !== 200) return said(reply)
      const forked = await server.ok('getRun', { params: { runId: String(Object(reply.body.run).id) } })
      expect(forked.run).toMatchObject({ status: 'pending', attempt: 0, budget: { totalTokens: budget } })
      expect(forked.events.map(({ type }) => type)).toEqual(['run.created', 'run.forked'])
      return `ok ${forked.steps.map(({ name, output }) => `${name}=${output}`).join()}`
    }
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
  const { run, steps, waits, signals, events } = await second.ok('getRun', { params: { runId } })
  expect(events.map(({ seq }) => seq)).toEqual(events.map((_, n) => n + 1))
  const types = events.map(({ type }) => type)
  const count = (type: string) => types.filter((each) => each === type).length
  expect(count('run.completed')).toBeLessThanOrEqual(1)
  expect(count('run.cancelled')).toBeLessThanOrEqual(1)
  // What goes on after it was parked is the same attempt.
  expect(count('run.started')).toBeGreaterThanOrEqual(run.attempt)
  expect(count('run.started')).toBeLessThanOrEqual(run.attempt + count('run.waiting'))
  expect(count('run.resumed')).toBeLessThanOrEqual(count('run.waiting'))
  expect(count('wait.ended')).toBeLessThanOrEqual(count('wait.started'))
  // The ledger takes what was used until then, and what is reported late.
  const acts = types.filter((type) => type !== 'usage.recorded')
  if (run.status === 'cancelled') expect(acts.at(-1)).toBe('run.cancelled')
  if (count('run.budget_exceeded')) expect(run).toMatchObject({ status: 'cancelled', cancelReason: 'budget' })
  if (run.usageTotals.totalTokens > budget) expect(['cancelled', 'completed']).toContain(run.status)
  if (run.status === 'completed') expect(types.lastIndexOf('run.started')).toBeLessThan(types.indexOf('run.completed'))
  for (const { id, status } of steps) {
    const mine = events.filter(({ payload }) => Object(payload).stepId === id).map(({ type }) => type)
    expect(mine[0]).toBe('step.started')
    expect(mine.filter((type) => type === 'step.completed')).toHaveLength(status === 'completed' ? 1 : 0)
    // Nothing happens to a step after its checkpoint.
    if (status === 'completed') expect(mine.at(-1)).toBe('step.completed')
  }
  // A signal ends one wait, and that wait has what came with it.
  const taken = signals.filter(({ waitId }) => waitId !== null)
  expect(new Set(taken.map(({ waitId }) => waitId)).size).toBe(taken.length)
  for (const { waitId, payload } of taken) expect(waits.find(({ id }) => id === waitId)).toMatchObject({ payload })
  return { run, steps, waits }
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
      const { run, steps, waits } = await checkHistory(runId)
      expect(run).toMatchObject({ status: model.status, leaseOwner: model.owner, attempt: model.attempt })
      expect(run.usageTotals.totalTokens).toBe(model.used)
      expect(waits.map(({ name, status, signal, payload }) => [name, { status, signal, payload }])).toEqual([
        ...model.waits,
      ])
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
