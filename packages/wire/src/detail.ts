// A run with its whole history.
import { z } from 'zod'
import { Edge } from './children.ts'
import { Event } from './events.ts'
import { Gate } from './gates.ts'
import { IntParam } from './json.ts'
import { route } from './route.ts'
import { Run } from './runs.ts'
import { State, StateStream, StateVersion } from './state.ts'
import { Step } from './steps.ts'
import { Usage } from './usage.ts'
import { Signal, Wait } from './waits.ts'
import { Channel, ChannelDelivery, RecoveryAttempt } from './webhooks.ts'

export const getRun = route({
  method: 'GET',
  path: '/runs/:runId',
  summary:
    'A run with its history. `include` names the parts wanted (all unless given; the others come back empty); events come a page at a time, and so do steps with `stepsLimit`.',
  scopes: ['worker', 'enqueue', 'read'],
  query: z.object({
    include: z.string().max(500).optional().describe('Comma-separated: steps, state, events, gates, usage, …'),
    eventsAfter: IntParam(0, 2_147_483_647).optional(),
    eventsLimit: IntParam(1, 5_000).optional().describe('1,000 unless given'),
    // The steps of a fork that it took over stand before 0.
    stepsAfter: IntParam(-2_147_483_648, 2_147_483_647).optional(),
    stepsLimit: IntParam(1, 5_000).optional().describe('All unless given'),
  }),
  reply: z.object({
    run: Run,
    steps: z.array(Step),
    state: State.nullable(),
    stateStreams: z.array(StateStream),
    stateVersions: z.array(StateVersion),
    runEdges: z.array(Edge),
    childRuns: z.array(Run),
    recoveryAttempts: z.array(RecoveryAttempt),
    channels: z.array(Channel),
    channelDeliveries: z.array(ChannelDelivery),
    gates: z.array(Gate),
    waits: z.array(Wait),
    signals: z.array(Signal),
    usage: z.array(Usage),
    events: z.array(Event),
    nextStepsAfter: z
      .int()
      .nullable()
      .optional()
      .describe('Pass as `stepsAfter` for the next page; null on the last, and without `stepsLimit`'),
    nextEventsAfter: z.int().nullable().describe('Pass as `eventsAfter` for the next page; null on the last'),
  }),
  errors: ['run_not_found', 'invalid_query'],
})
