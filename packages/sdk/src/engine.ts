// What executions share: the way to the server and the registered workflows.
import { TidebaseError } from './errors.ts'
import type { RunContext } from './run.ts'
import type { Transport } from './transport.ts'

/** The body of a workflow. What it does outside of steps runs again whenever the run is resumed. */
export type WorkflowFn<Input, Output> = (run: RunContext, input: Input) => Output | Promise<Output>

/** A registered workflow, with its types. */
export interface Workflow<Input = unknown, Output = unknown> {
  readonly name: string
  readonly fn: WorkflowFn<Input, Output>
}

/** What executions need of their client. */
export interface Engine {
  readonly transport: Transport
  /** Registered workflows by name. */
  readonly workflows: ReadonlyMap<string, WorkflowFn<unknown, unknown>>
  /** Begins a run and executes it; see execute.ts. */
  resume<Input, Output>(runId: string, fn: WorkflowFn<Input, Output>, options: BeginOptions): Promise<Output>
}

/** How a run is begun. */
export interface BeginOptions {
  /** Who executes it. A worker that comes back under its old name need not wait for its old lease. */
  leaseOwner?: string | undefined
  /** How long to wait for another worker's lease to end, in milliseconds; 0 throws at once. */
  leaseWaitMs?: number | undefined
  /** Stops the execution; see `RunOptions.signal`. */
  signal?: AbortSignal | undefined
  /**
   * After how many milliseconds in which everything waits the run is given up, because something will execute it again;
   * never unless given.
   */
  parkAfterMs?: number | undefined
}

/**
 * The function of a workflow.
 *
 * @throws TidebaseError `workflow_not_registered`
 */
export function workflowFn(engine: Engine, name: string): WorkflowFn<unknown, unknown> {
  const fn = engine.workflows.get(name)
  if (fn) return fn
  throw new TidebaseError(`No workflow "${name}" is registered here.`, {
    code: 'workflow_not_registered',
    hint: `Register it with tide.workflow('${name}', …) before you use it. Registered: ${[...engine.workflows.keys()].join(', ') || 'none'}.`,
    failureClass: 'workflow_not_registered',
  })
}
