// Children: runs that a run starts, found again by their name in it.
import { type Engine, type Workflow, type WorkflowFn, workflowFn } from './engine.ts'
import type { Lease } from './lease.ts'
import type { Edge, NewRunOptions, Run } from './types.ts'

/** What a child run may carry. */
export interface ChildOptions<Input = unknown> extends NewRunOptions<Input> {
  /** What the child is to its parent; for people. */
  edgeType?: string
  edgeMetadata?: Record<string, unknown>
}

// A crashed parent's child stays leased for as long as the parent did; add a little for the server's clock.
const leaseWaitMs = 75_000

/** The children of one execution. */
export class Children {
  readonly #engine: Engine
  readonly #lease: Lease

  constructor(engine: Engine, lease: Lease) {
    this.#engine = engine
    this.#lease = lease
  }

  /**
   * Creates a child run and leaves its execution to others: `tide.run(workflowName, { runId: child.run.id }, …)`.
   *
   * @param name its name in this run; the same name is the same child
   * @param workflowName what it executes
   * @returns the child, the edge to it, and whether it is new
   */
  create(
    name: string,
    workflowName: string,
    options: ChildOptions = {},
  ): Promise<{ run: Run; edge: Edge; created: boolean }> {
    return this.#lease.call('createChild', {
      params: { runId: this.#lease.runId },
      body: { name, workflowName, ...options },
    })
  }

  /** Creates a child and executes it here; see `RunContext.child`. */
  async execute<Input, Output>(
    name: string,
    workflow: string | Workflow<Input, Output> | WorkflowFn<Input, Output>,
    options: ChildOptions<Input>,
  ): Promise<unknown> {
    // Before anything is written: a name that nobody registered is a mistake, not a child.
    if (typeof workflow === 'string') workflowFn(this.#engine, workflow)
    const { run } = await this.create(name, typeof workflow === 'string' ? workflow : workflow.name || name, options)
    const begin = { leaseWaitMs, signal: this.#lease.signal }
    if (typeof workflow === 'string') return this.#engine.resume(run.id, workflowFn(this.#engine, workflow), begin)
    return this.#engine.resume(run.id, typeof workflow === 'function' ? workflow : workflow.fn, begin)
  }
}
