// Events: the numbered history of a run, and the two SQL fragments that every changing statement is made of.
//
// A changing statement reads:
//   calls → locked (its runs, locked in id order) → decided (one action per call) → the writes → news → appended
// Event numbers come from the run's `event_seq`, which only the holder of the row lock moves: no gaps, no collisions.
// When adding a statement: copy the shape of a neighbour, answer `again` when the run is not `fresh`, and set
// `event_seq` in the same update that changes the run.
import type { ReplyOf, Routes } from '@tidebase/wire'
import type { Queryable } from './db.ts'
import { type Encoded, encodeRows, stringText, timeText, utc } from './encoded.ts'
import { wireId } from './ids.ts'

/**
 * SQL: whether row `r` of tidebase.runs is the run with this id. Only the primary key can answer that: with `=` the
 * planner, on a table that is young and small, also takes an index that begins with `project` and reads it whole,
 * and a prepared plan stays what it was when the table has grown.
 */
export const runIs = (r: string, project: string, id: string) =>
  `${r}.id = ${id} and ${r}.project is not distinct from ${project}`

/**
 * SQL: what `left join`s the row of a run-owned table, by its primary key. Lateral and with `offset 0`, so that no plan
 * can read the table whole and hash it, however small it is when the plan is made.
 */
export const leftJoinRow = (table: string, as: string, condition: string) =>
  `left join lateral (select * from tidebase.${table} t where ${condition} offset 0) ${as} on true`

/**
 * SQL: locks the runs that `calls` name, in id order. `fresh` is false when another transaction changed the run
 * between this statement's snapshot and the lock: what else the statement read of it may be old, so it must do nothing.
 * `tid` addresses the locked row for the update, without another look-up.
 */
export const lockRuns = `locked as materialized (
  select l.*, l.version = s.version as fresh
  from (select distinct project, run from calls where run is not null order by project, run) k
  cross join lateral (
    select r.ctid as tid, r.xmin as version, r.project, r.id, r.workflow_name, r.status, r.lease_owner,
      r.lease_expires_at, r.last_owner, r.claimed, r.attempt, r.max_attempts, r.queue, r.event_seq,
      r.has_channels, r.recovery_webhook, r.has_streams
    from tidebase.runs r where ${runIs('r', 'k.project', 'k.run')} for no key update
  ) l
  cross join lateral (
    select r.xmin as version from tidebase.runs r where ${runIs('r', 'k.project', 'k.run')} offset 0
  ) s
)`

/** SQL: appends the events in `news (project, run, seq, type, payload)` and queues them for the runs' channels. */
export const appendEvents = `appended as (
  insert into tidebase.events (project, run_id, seq, type, payload)
  -- In their order, so that the ids of a run's events rise with their numbers (feed.ts).
  select project, run, seq, type, payload from news order by seq
), told as (
  insert into tidebase.deliveries (project, run_id, kind, reason, channel_id, url, payload)
  select n.project, n.run, 'channel', n.type, c.id, c.url, n.payload
  from locked l
  join tidebase.channels c on c.project = l.project and c.run_id = l.id
  join news n on n.project = l.project and n.run = l.id
  where l.has_channels and (c.events = '{}' or n.type = any (c.events))
)`

/** A row of tidebase.events. */
export interface EventRow {
  id: number
  run_id: string
  seq: number
  type: string
  payload: unknown
  created_at: Date
}

type Event = ReplyOf<Routes['getRun']>['events'][number]

/** Both events of a step that began and completed at once: one row, whose id and number are the second's. */
export const recordedStep = 'step.recorded'

/** The events of a row as the wire shows them: one, or those that share the row. */
export function toEvents(row: EventRow): Event[] {
  const event = {
    id: row.id,
    runId: wireId('run', row.run_id),
    seq: row.seq,
    type: row.type,
    payload: row.payload,
    createdAt: row.created_at.toISOString(),
  }
  if (row.type !== recordedStep) return [event]
  const { attempt: _, ...payload } = Object(row.payload)
  return [
    // Ids rise by two, so that this one is nobody else's.
    { ...event, id: row.id - 1, seq: row.seq - 1, type: 'step.started' },
    { ...event, type: 'step.completed', payload },
  ]
}

/** Where a reader of a run's events stands. */
export interface EventCursor {
  project: number
  /** Run id, 32 hex digits. */
  run: string
  /** Number of the last event read. */
  after: number
}

/**
 * The next events of several runs in one query. A row may also hold the event that the cursor stands at.
 *
 * @param limit rows per run at most
 */
export async function readEvents(db: Queryable, cursors: EventCursor[], limit: number): Promise<EventRow[]> {
  return db.query<EventRow>(
    {
      name: 'events.read',
      text: `select e.* from json_to_recordset($1::text::json) as c(project integer, run uuid, after integer)
        cross join lateral (
          select id, run_id, seq, type, payload, created_at from tidebase.events e
          where e.project = c.project and e.run_id = c.run and e.seq > c.after order by e.seq limit $2
        ) e`,
    },
    [JSON.stringify(cursors), limit],
  )
}

/**
 * A page of one run's events as text, and where the next begins: null on the last.
 *
 * @param limit events at most
 */
export async function readEventPage(
  db: Queryable,
  { project, run, after }: EventCursor,
  limit: number,
): Promise<{ events: Encoded<Event[]>; nextEventsAfter: number | null }> {
  const rows = await db.texts<EventText>(
    {
      name: 'events.page',
      text: `select id, seq, type, payload, ${utc('created_at')} from tidebase.events
        where project = $1 and run_id = $2 and seq > $3 order by seq limit $4`,
    },
    [project, run, after, limit],
  )
  const events = rows.flatMap(asEvents).filter(([, seq]) => Number(seq) > after)
  const page = events.slice(0, limit)
  const runId = stringText(wireId('run', run))
  return {
    events: encodeRows(
      page,
      ([id, seq, type, payload, createdAt]) =>
        `{"id":${id},"runId":${runId},"seq":${seq},"type":${stringText(type)},"payload":${payload},"createdAt":${timeText(createdAt)}}`,
    ),
    nextEventsAfter: rows.length === limit || events.length > limit ? Number(page.at(-1)?.[1]) : null,
  }
}

/** Columns of an event as text. */
type EventText = [id: string, seq: string, type: string, payload: string, createdAt: string]

/** As `toEvents`, of text. */
function asEvents(row: EventText): EventText[] {
  const [id, seq, type, payload, createdAt] = row
  if (type !== recordedStep) return [row]
  return [
    [String(Number(id) - 1), String(Number(seq) - 1), 'step.started', payload, createdAt],
    [id, seq, 'step.completed', payload.replace(/,\s*"attempt"\s*:\s*\d+\s*\}$/, '}'), createdAt],
  ]
}
