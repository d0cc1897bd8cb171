// Queues and schedules, seen from outside.
import type { BodyOf, Routes } from '@tidebase/wire'
import type { Workflow } from './engine.ts'
import { TidebaseError } from './errors.ts'
import { newRunId } from './ids.ts'
import type { Transport } from './transport.ts'
import type { NewRunOptions, Queue, QueueConfig, Run, Schedule } from './types.ts'

/** When a queued run may start and how it competes. */
export interface EnqueueOptions<Input = unknown> extends NewRunOptions<Input> {
  /** `default` unless given. */
  queue?: string
  /** `newRunId()` unless given. Repeating the call with one id makes one run. */
  id?: string
  /** At most one active run of the queue has a given key; the call then answers with that run. */
  dedupeKey?: string
  /** A tenant: keys of a queue take turns, and its `perKeyConcurrency` caps each. */
  concurrencyKey?: string
  /** Milliseconds from now until it may start. */
  delayMs?: number
  /** When it may start. */
  runAt?: Date | string
  /** How often it is executed in all when it fails; 1 unless given. */
  maxAttempts?: number
  /** Higher goes first; 0 unless given. */
  priority?: number
  /** Milliseconds from now until it is cancelled. */
  deadlineMs?: number
}

/** Puts a run into a queue; see `Tidebase.enqueue`. */
export async function enqueue<Input>(
  transport: Transport,
  workflow: string | Workflow<Input, unknown>,
  options: EnqueueOptions<Input>,
): Promise<{ run: Run; deduplicated: boolean }> {
  const { queue = 'default', id = newRunId(), runAt, ...rest } = options
  const workflowName = typeof workflow === 'string' ? workflow : workflow.name
  const { run, deduplicated } = await transport.call('enqueue', {
    params: { queue },
    body: { ...rest, id, workflowName, runAt: runAt instanceof Date ? runAt.toISOString() : runAt },
  })
  // A repeated call finds the run that its first try made: that is not somebody else's.
  return { run, deduplicated: deduplicated && run.id !== id }
}

/** What was not asked for briefly. */
function whole(run: Run | { id: string }): Run {
  if ('status' in run) return run
  throw new TidebaseError(`The server answered with no more than the id of ${run.id}.`, {
    code: 'unexpected_answer',
    hint: 'Look at what stands between this program and the server.',
  })
}

/** Operations on queues. */
export class Queues {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /** Lists every queue that has runs or a configuration, with its counts. */
  async list(): Promise<Queue[]> {
    return (await this.#transport.call('listQueues', {})).queues
  }

  /**
   * Sets a queue's caps and push address. An absent field keeps its value, null clears it.
   *
   * @param queue its name
   * @param config concurrency (runs at a time), ratePerMinute (starts), perKeyConcurrency (runs of one
   *   `concurrencyKey` at a time), invokeUrl (runs are pushed there)
   * @example await tide.queues.configure('mail', { concurrency: 5, ratePerMinute: null })
   */
  async configure(queue: string, config: BodyOf<Routes['configureQueue']>): Promise<QueueConfig> {
    return (await this.#transport.call('configureQueue', { params: { queue }, body: config })).config
  }

  /** Hands out no more runs of a queue. What runs already goes on; enqueueing does too. */
  async pause(queue: string): Promise<QueueConfig> {
    return (await this.#transport.call('pauseQueue', { params: { queue }, body: {} })).config
  }

  /** Hands out runs of a paused queue again. */
  async resume(queue: string): Promise<QueueConfig> {
    return (await this.#transport.call('resumeQueue', { params: { queue }, body: {} })).config
  }

  /**
   * Puts many runs into a queue, in calls of up to 1,000, each of them once also when an answer is lost.
   *
   * @param queue its name
   * @param jobs workflowName and what `enqueue` takes
   * @returns the runs in the order of the jobs
   */
  async enqueueAll(
    queue: string,
    jobs: (Omit<EnqueueOptions, 'queue'> & { workflowName: string })[],
  ): Promise<{ run: Run; deduplicated: boolean }[]> {
    const all = jobs.map(({ runAt, ...job }) => ({
      ...job,
      id: job.id ?? newRunId(),
      runAt: runAt instanceof Date ? runAt.toISOString() : runAt,
    }))
    const done: { run: Run; deduplicated: boolean }[] = []
    for (let from = 0; from < all.length; from += 1_000) {
      const body = { jobs: all.slice(from, from + 1_000) }
      const { jobs } = await this.#transport.call('enqueueBatch', { params: { queue }, body })
      done.push(...jobs.map(({ run, deduplicated }) => ({ run: whole(run), deduplicated })))
    }
    // A repeated call finds the run that its first try made: that is not somebody else's.
    return done.map(({ run, deduplicated }, n) => ({ run, deduplicated: deduplicated && run.id !== all[n]?.id }))
  }
}

/** Operations on schedules. */
export class Schedules {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /**
   * Creates or replaces a schedule.
   *
   * @param name its name
   * @param schedule cron (five fields), workflowName; timezone (IANA; UTC unless given), input, queue (`default`),
   *   maxAttempts, enabled
   * @throws TidebaseError `invalid_cron`, `invalid_timezone`
   * @example await tide.schedules.set('digest', { cron: '0 9 * * 1-5', timezone: 'Europe/Berlin', workflowName: 'digest' })
   */
  async set(name: string, schedule: BodyOf<Routes['putSchedule']>): Promise<Schedule> {
    return (await this.#transport.call('putSchedule', { params: { name }, body: schedule })).schedule
  }

  /** Lists all schedules by name. */
  async list(): Promise<Schedule[]> {
    return (await this.#transport.call('listSchedules', {})).schedules
  }

  /** Enqueues a run of a schedule now, once also when the answer is lost. @throws TidebaseError `schedule_not_found` */
  async trigger(name: string): Promise<Run> {
    return (await this.#transport.call('triggerSchedule', { params: { name }, body: { id: newRunId() } })).run
  }

  /**
   * Deletes a schedule. Runs it has made stay.
   *
   * @throws TidebaseError `schedule_not_found`
   */
  async delete(name: string): Promise<void> {
    await this.#transport.call('deleteSchedule', { params: { name } })
  }
}
