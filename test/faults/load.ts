// A load that remembers what was acknowledged, so that a test can ask for it after something was killed.
import { expect } from 'vitest'
import type { Client } from '../server.ts'

/** Workers that execute runs until told to stop, through errors. */
export interface Load {
  /** Steps whose recording was acknowledged: run id → names. */
  acknowledged: Map<string, Set<string>>
  /** Runs whose end was acknowledged. */
  completed: Set<string>
  /** Answers that broke a promise: refusals of calls that were only repeated. */
  refusals: string[]
  /** Answers that were errors of the server, by code; `network` for no answer. */
  errors: Map<string, number>
  stop(): Promise<void>
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/**
 * Starts a load: each worker creates a run, records steps, completes it, and begins anew. What fails is tried again
 * with the same arguments, as a client would.
 */
export function startLoad(api: () => Client, workers = 8): Load {
  const load: Load = {
    acknowledged: new Map(),
    completed: new Set(),
    refusals: [],
    errors: new Map(),
    stop: async () => {},
  }
  let running = true

  const insist = async (work: () => Promise<{ status: number; body: { code?: string } }>) => {
    for (;;) {
      const reply = await work().catch(() => undefined)
      if (reply?.status === 200) return true
      // Anything but "not at the moment" would be a broken promise.
      if (reply && reply.status < 500) {
        load.refusals.push(JSON.stringify(reply.body))
        return false
      }
      const code = reply ? (reply.body.code ?? String(reply.status)) : 'network'
      load.errors.set(code, (load.errors.get(code) ?? 0) + 1)
      if (!running) return false
      await pause(20)
    }
  }
  let runs = 0
  const worker = async (n: number) => {
    while (running) {
      const runId = `run_${(++runs).toString(16).padStart(12, '0')}${n.toString(16).padStart(20, '0')}`
      const params = { runId }
      const leaseOwner = `w${n}`
      if (!(await insist(() => api().send('createRun', { params: { workflowName: 'load' }, body: { id: runId } }))))
        return
      const headers = { 'x-tidebase-worker': leaseOwner }
      if (!(await insist(() => api().send('beginRun', { params, headers })))) return
      const names = new Set<string>()
      load.acknowledged.set(runId, names)
      for (let step = 0; step < 5; step++) {
        const body = { name: `s${step}`, inputHash: 'h', leaseOwner, output: `${runId}:${step}` }
        if (!(await insist(() => api().send('recordStep', { params, body })))) return
        names.add(body.name)
      }
      if (!(await insist(() => api().send('completeRun', { params, body: { leaseOwner, result: 1 } })))) return
      load.completed.add(runId)
    }
  }
  const all = Promise.all(Array.from({ length: workers }, (_, n) => worker(n)))
  load.stop = async () => {
    running = false
    await all
  }
  return load
}

/** Asserts that everything acknowledged is there, once, with events in order. */
export async function expectAllThere(api: Client, load: Load): Promise<void> {
  expect(load.refusals).toEqual([])
  for (const [runId, names] of load.acknowledged) {
    const { run, steps, events } = await api.ok('getRun', { params: { runId } })
    const recorded = steps.filter(({ status }) => status === 'completed')
    expect(recorded.map(({ name }) => name)).toEqual(expect.arrayContaining([...names]))
    for (const { name, output } of recorded) expect(output).toBe(`${runId}:${name.slice(1)}`)
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_, n) => n + 1))
    const ends = events.filter(({ type }) => type === 'step.completed')
    expect(ends).toHaveLength(recorded.length)
    expect(events.filter(({ type }) => type === 'run.completed').length).toBeLessThanOrEqual(1)
    if (load.completed.has(runId)) expect(run).toMatchObject({ status: 'completed', result: 1 })
  }
}
