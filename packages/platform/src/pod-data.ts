// What a pod keeps, from outside: its database as one JSON object, its files, its logs. For `pull`, `push` and people.

import { pipeline } from 'node:stream/promises'
import type { Json } from 'tidepool/kit'
import { z } from 'zod'
import { endpoint, IntParam } from './endpoint.ts'
import { PlatformError } from './errors.ts'
import type { LogLine } from './logs.ts'
import type { Platform } from './platform.ts'
import type { PodRow } from './pods.ts'
import { takeSnapshot } from './snapshots.ts'
import { openEvents } from './sse.ts'

const pageSize = 2_000
const restorableDays = 7

const getDb = endpoint({
  method: 'GET',
  path: '/api/pods/:pod/db',
  summary: 'The whole of tp.db as one JSON object, streamed in the order of its keys.',
  access: 'data',
  reply: null,
  errors: [],
  async handler({ platform, pod, res }) {
    res.writeHead(200, { 'content-type': 'application/json' })
    let after: string | undefined
    let first = true
    res.write('{')
    for (;;) {
      const rows = await platform.store.scan(pod.id, 'db', { ...(after !== undefined && { after }), limit: pageSize })
      for (const { key, json } of rows) {
        const more = res.write(`${first ? '' : ','}${JSON.stringify(key)}:${json}`)
        first = false
        if (!more) await new Promise<void>((resolve) => res.once('drain', resolve).once('close', resolve))
      }
      if (rows.length < pageSize || res.destroyed) break
      after = rows.at(-1)?.key
    }
    res.end('}')
  },
})

const putDb = endpoint({
  method: 'PUT',
  path: '/api/pods/:pod/db',
  summary:
    'Put a JSON object into tp.db: ?mode=merge sets its keys, ?mode=replace also removes all others (restorable for 7 days by undo). Keys given with null in a merge hold null; they are not removed.',
  access: 'data',
  query: z.object({
    mode: z.enum(['merge', 'replace']).default('merge'),
    before: z.string().optional().describe('A snapshot that was taken for this; else replacing takes one'),
  }),
  body: z.record(z.string(), z.json()),
  reply: z.object({ set: z.int(), removed: z.int(), snapshot: z.string().nullable() }),
  errors: ['invalid', 'too_large'],
  async handler({ platform, pod, query, body }) {
    let removed = 0
    let snapshot: string | null = null
    if (query.mode === 'replace' && !query.before) {
      snapshot = await platform.db.transaction((tx) =>
        takeSnapshot(tx, {
          pod: pod.id,
          reason: 'replace',
          deployment: pod.deployment,
          secretsVersion: pod.secrets_version,
          days: restorableDays,
        }),
      )
    }
    const entries = Object.entries(body as Record<string, Json>)
    const sets = entries.map(([key, value]) => ({ op: 'set', space: 'db', key, json: JSON.stringify(value) }))
    if (query.mode === 'merge') {
      for (let at = 0; at < sets.length; at += pageSize)
        await platform.store.write(pod.id, sets.slice(at, at + pageSize))
    } else {
      const gone = (await platform.store.keys(pod.id, 'db', {})).filter((key) => !Object.hasOwn(body, key))
      removed = gone.length
      // One write, so that nobody sees half of it.
      await platform.store.write(pod.id, [...gone.map((key) => ({ op: 'delete', space: 'db', key })), ...sets])
    }
    return { set: entries.length, removed, snapshot }
  },
})

const File = z.object({
  name: z.string(),
  size: z.int(),
  contentType: z.string(),
  modifiedAt: z.int(),
  etag: z.string(),
})

const listFiles = endpoint({
  method: 'GET',
  path: '/api/pods/:pod/files',
  summary: 'Files of tp.files in the order of their names, a page at a time.',
  access: 'data',
  query: z.object({
    prefix: z.string().max(512).default(''),
    after: z.string().max(512).default(''),
    limit: IntParam(1, 1000).default(1000),
  }),
  reply: z.object({ files: z.array(File) }),
  errors: [],
  handler: async ({ platform, pod, query }) => ({ files: await platform.files.list(pod.id, query) }),
})

const getFile = endpoint({
  method: 'GET',
  path: '/api/pods/:pod/files/*',
  summary: 'A file, as bytes.',
  access: 'data',
  reply: null,
  errors: ['not_found'],
  async handler({ platform, pod, params, res }) {
    const found = await platform.files.read(pod.id, params['*'] ?? '')
    if (!found) throw new PlatformError('not_found', 'There is no such file.')
    res.writeHead(200, {
      'content-type': 'application/octet-stream',
      'content-length': found.info.size,
      'content-disposition': 'attachment',
      'x-content-type-options': 'nosniff',
      etag: found.info.etag,
    })
    await pipeline(found.body, res)
  },
})

const putFile = endpoint({
  method: 'PUT',
  path: '/api/pods/:pod/files/*',
  summary: 'Store a file; the body is its bytes.',
  access: 'data',
  bytes: true,
  reply: z.object({ file: File }),
  errors: ['too_large', 'invalid'],
  handler: async ({ platform, pod, params, req }) => ({
    file: await platform.files.write(pod.id, params['*'] ?? '', req),
  }),
})

const deleteFile = endpoint({
  method: 'DELETE',
  path: '/api/pods/:pod/files/*',
  summary: 'Remove a file.',
  access: 'data',
  reply: z.object({ existed: z.boolean() }),
  errors: [],
  handler: async ({ platform, pod, params }) => ({ existed: await platform.files.delete(pod.id, params['*'] ?? '') }),
})

const snapshot = endpoint({
  method: 'POST',
  path: '/api/pods/:pod/snapshots',
  summary: 'Keep the data as it is for 7 days, before something is destroyed; `undo` brings it back.',
  access: 'data',
  reply: z.object({ snapshot: z.string() }),
  errors: [],
  async handler({ platform, pod }) {
    const id = await platform.db.transaction((tx) =>
      takeSnapshot(tx, {
        pod: pod.id,
        reason: 'sync',
        deployment: pod.deployment,
        secretsVersion: pod.secrets_version,
        days: restorableDays,
      }),
    )
    return { snapshot: id }
  },
})

const Line = z
  .object({ at: z.int(), level: z.enum(['info', 'warn', 'error']), replica: z.string(), message: z.string() })
  .loose()

const logs = endpoint({
  method: 'GET',
  path: '/api/pods/:pod/logs',
  summary: 'The last lines of the pod’s log; ?follow=1 goes on with Server-Sent Events.',
  access: 'read',
  query: z.object({
    limit: IntParam(1, 2000).default(200),
    since: IntParam(0, Number.MAX_SAFE_INTEGER).default(0),
    follow: z.enum(['0', '1']).default('0'),
  }),
  reply: z.object({ lines: z.array(Line) }),
  errors: [],
  async handler({ platform, pod, query, res, signal }) {
    if (query.follow === '0') return { lines: await platform.logs.tail(pod.id, query) }
    await followLogs(platform, pod, query, openEvents(res, signal), signal)
    return undefined
  },
})

async function followLogs(
  { logs }: Platform,
  pod: PodRow,
  query: { limit: number; since: number },
  events: ReturnType<typeof openEvents>,
  signal: AbortSignal,
): Promise<void> {
  // Lines that come while the old ones are read wait for them.
  let early: LogLine[] | undefined = []
  const stop = logs.follow(pod.id, (line) => (early ? early.push(line) : events.send(JSON.stringify(line))))
  try {
    const known = await logs.tail(pod.id, query)
    const last = known.at(-1)
    for (const line of known) events.send(JSON.stringify(line))
    const seen = new Set(known.filter(({ at }) => at === last?.at).map((line) => JSON.stringify(line)))
    for (const line of early) {
      const text = JSON.stringify(line)
      if (line.at >= (last?.at ?? 0) && !seen.has(text)) events.send(text)
    }
    early = undefined
    if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }))
  } finally {
    stop()
    events.end()
  }
}

export const dataEndpoints = { getDb, putDb, listFiles, getFile, putFile, deleteFile, takeSnapshot: snapshot, logs }
