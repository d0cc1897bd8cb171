/**
 * `tp.workflow`, `tp.enqueue`, `tp.runs`: durable runs on Tidebase by its SDK.
 *
 * Nothing is started or connected for a pod that does not use them. While developing, the dev server starts Tidebase
 * on its embedded database under tp_data/ with the first use and keeps it over the pod's restarts; elsewhere the
 * environment says where it is. A pod that registers workflows executes them itself, in a worker that ends with it:
 * what it had under way goes on at the last checkpoint when the pod is back.
 */
import {
  type EnqueueOptions,
  type RunContext,
  type Runs,
  Tidebase,
  type Workflow,
  type WorkflowFn,
} from '@tidebase/sdk'
import { messageOf, TpError } from './errors.ts'
import type { Pod } from './pod.ts'

/** Where Tidebase is. */
export interface TidebaseAddress {
  url: string
  apiKey?: string | undefined
  /** How it is reached, when not by the network. */
  fetch?: typeof fetch
}

export interface WorkflowOptions {
  /** The queue that its runs wait in; 'default' unless given. */
  queue?: string
}

/** How runs of a pod may be enqueued. */
export type RunOptions<Input = unknown> = Omit<EnqueueOptions<Input>, 'recoveryWebhook'>

/** Attempts of a run unless said otherwise: a restart of the pod in the middle of a run costs one. */
const attempts = 5
const concurrency = 10
/** How long running workflows may take to end when the pod stops, ms. */
const graceMs = 3000

/** Makes the three tools of a pod. */
export function createWorkflows(pod: Pod) {
  const registered = new Map<string, { fn: WorkflowFn<never, unknown>; queue: string }>()
  let address: Promise<TidebaseAddress> | undefined
  let made: Tidebase | undefined

  /** Asked for once; a failure is not remembered. */
  function connected(): Promise<TidebaseAddress> {
    const { tidebase } = pod.setup()
    if (!tidebase) throw new TpError('no_tidebase')
    address ??= tidebase().catch((error: unknown) => {
      address = undefined
      throw error
    })
    return address
  }

  /** The client; its address is only known when the first call is made. */
  function client(): Tidebase {
    made ??= new Tidebase({
      url: 'http://tidebase.invalid',
      retryForMs: 20_000,
      fetch: async (url, init) => {
        const { url: base, apiKey, fetch: send = fetch } = await connected()
        const headers = new Headers(init?.headers)
        if (apiKey) headers.set('authorization', `Bearer ${apiKey}`)
        return send(url.replace('http://tidebase.invalid', base.replace(/\/+$/, '')), { ...init, headers })
      },
    })
    return made
  }

  function workflow<Input, Output>(
    name: string,
    options: WorkflowOptions,
    fn: WorkflowFn<Input, Output>,
  ): Workflow<Input, Output> {
    if (typeof fn !== 'function') throw new TpError('bad_config', `tp.workflow('${name}') needs a function`)
    if (registered.has(name)) throw new TpError('bad_config', `The workflow '${name}' is registered twice`)
    registered.set(name, { fn, queue: options.queue ?? 'default' })
    return client().workflow(name, fn)
  }

  async function enqueue<Input>(which: string | Workflow<Input, unknown>, options: RunOptions<Input> = {}) {
    const name = typeof which === 'string' ? which : which.name
    const known = registered.get(name)
    if (!known)
      throw new TpError('unknown_workflow', `There is no workflow '${name}'`, {
        hint: `Register it with tp.workflow('${name}', …). There are: ${[...registered.keys()].join(', ') || 'none'}.`,
      })
    await connected()
    return client().enqueue(name, { queue: known.queue, maxAttempts: attempts, ...options })
  }

  /** The feature, see pod.ts: the worker, when there is something to execute. */
  function feature(pod: Pod): void {
    if (registered.size === 0) return
    const { log } = pod.setup()
    const stop = new AbortController()
    let working: Promise<void> = Promise.resolve()
    pod.onStart(() => {
      const queues = [...new Set([...registered.values()].map(({ queue }) => queue))]
      const onError = (error: unknown, run?: { id: string; workflowName: string }) => {
        const stack = error instanceof Error ? error.stack : undefined
        const what = run ? `Workflow ${run.workflowName} (${run.id})` : 'Workflows'
        log.error(`${what}: ${messageOf(error)}`, { ...(run && { run: run.id }), stack })
      }
      working = client()
        .work({ queues, concurrency, signal: stop.signal, graceMs, waitMs: 1000, onError })
        .catch((error: unknown) => onError(error))
    })
    pod.onStop(async () => {
      stop.abort()
      await working
    })
  }

  return {
    workflow,
    enqueue,
    get runs(): Runs {
      if (!pod.setup().tidebase) throw new TpError('no_tidebase')
      return client().runs
    },
    feature,
  }
}

export type { RunContext, Runs, Workflow, WorkflowFn }
