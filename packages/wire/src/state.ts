// State: versioned JSON of a run, in named streams. Every write appends a version; numbers rise by one per stream.
import { z } from 'zod'
import { Json, JsonObject, Name, Text, Timestamp } from './json.ts'
import { route } from './route.ts'

export const Importance = z.enum(['transient', 'normal', 'checkpoint', 'milestone'])

export const State = z
  .object({ runId: z.string(), value: Json, version: z.int(), updatedAt: Timestamp })
  .meta({ id: 'State' })

export const StateVersion = z
  .object({
    id: z.string(),
    streamId: z.string(),
    runId: z.string(),
    stepId: z.string().nullable(),
    version: z.int(),
    value: Json,
    patch: Json,
    label: z.string().nullable(),
    reason: z.string().nullable(),
    importance: Importance,
    metadata: JsonObject,
    createdBy: z.string().nullable(),
    createdAt: Timestamp,
  })
  .meta({ id: 'StateVersion' })

export const StateStream = z
  .object({
    id: z.string(),
    runId: z.string(),
    name: z.string(),
    targetType: z.string(),
    targetId: z.string(),
    currentVersion: z.int(),
    currentValue: Json,
    metadata: JsonObject,
    createdAt: Timestamp,
    updatedAt: Timestamp,
  })
  .meta({ id: 'StateStream' })

const Note = z.object({
  stream: Name.nullish(),
  reason: Text.nullish(),
  importance: Importance.nullish(),
  metadata: JsonObject.nullish(),
  createdBy: Text.nullish(),
  stepId: z.string().max(100).nullish(),
})

export const setState = route({
  method: 'PUT',
  path: '/runs/:runId/state',
  summary: 'Replace the value of a state stream (`run` unless named) and append a version.',
  scopes: ['worker'],
  body: Note.extend({ value: Json.optional(), label: Text.nullish() }),
  reply: z.object({ state: State }),
  errors: ['run_not_found', 'run_cancelled'],
})

export const patchState = route({
  method: 'PATCH',
  path: '/runs/:runId/state',
  summary: 'Merge the top-level keys of `value` into a state stream and append a version.',
  scopes: ['worker'],
  body: Note.extend({ value: JsonObject, label: Text.nullish() }),
  reply: z.object({ state: State }),
  errors: ['run_not_found', 'run_cancelled'],
})

export const saveState = route({
  method: 'POST',
  path: '/runs/:runId/state/save',
  summary: 'Append a labelled version of the stream’s current value.',
  scopes: ['worker'],
  body: Note.extend({ label: Text.min(1) }),
  reply: z.object({ stateVersion: StateVersion }),
  errors: ['run_not_found', 'run_cancelled', 'state_not_found'],
})

export const listStateVersions = route({
  method: 'GET',
  path: '/runs/:runId/state/versions',
  summary: 'List state versions by stream, then version.',
  scopes: ['worker', 'enqueue', 'read'],
  query: z.object({ stream: Name.optional(), labeled: z.enum(['true', 'false', '1', '0']).optional() }),
  reply: z.object({ stateVersions: z.array(StateVersion) }),
  errors: ['run_not_found', 'invalid_query'],
})

export const createSnapshot = route({
  method: 'POST',
  path: '/runs/:runId/snapshots',
  summary: 'Record a labelled state of some target (a file, a repository); the stream is `type:id`.',
  scopes: ['worker'],
  body: z.object({
    label: Text.min(1),
    state: Json.optional(),
    target: z.object({ type: Name, id: Name }).nullish(),
    reason: Text.nullish(),
    metadata: JsonObject.nullish(),
    createdBy: Text.nullish(),
  }),
  reply: z.object({ snapshot: StateVersion }),
  errors: ['run_not_found', 'run_cancelled'],
})

export const listSnapshots = route({
  method: 'GET',
  path: '/runs/:runId/snapshots',
  summary: 'List labelled versions of all streams, newest first.',
  scopes: ['worker', 'enqueue', 'read'],
  reply: z.object({ snapshots: z.array(StateVersion) }),
  errors: ['run_not_found'],
})
