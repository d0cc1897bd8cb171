// Token streams: text that a step produces while it runs. A stream is named as its step; it is appended to by offset,
// relayed to whoever watches the run (live.ts), and dropped when the step completes, because then the output says it.
//
// Offsets count characters as Postgres does (code points). The row of the stream says how long it is: an append moves
// it only from the offset it names, so a repeated call writes nothing twice and none leaves a gap.
import type { BodyOf, ReplyOf, Routes } from '@tidebase/wire'
import { statement } from './coalesce.ts'
import type { Queryable } from './db.ts'
import { type Caller, type Engine, submit } from './engine.ts'
import { ApiError } from './errors.ts'
import { leftJoinRow, runIs } from './events.ts'
import { derivedId } from './ids.ts'
import { refuse } from './runs.ts'

/** SQL: whether row `s` of tidebase.streams is the stream that call `d` names. */
const streamIs = 's.run_id = d.run and s.name = d.stream and s.project = d.project'

const appends = statement<
  {
    project: number
    run: string
    step: string
    stream: string
    offset: number
    chunk: string
    reset: boolean
    owner?: string | null
  },
  { next_offset: number }
>(
  'streams.append',
  [
    'project integer',
    'run uuid',
    'step uuid',
    'stream text',
    '"offset" integer',
    'chunk text',
    'reset boolean',
    'owner text',
  ],
  // The run is read without a lock: what its lease lets through a moment too late is dropped with the rest.
  `decided as materialized (
    select c.*, r.has_streams, case
      when r.id is null then 'missing'
      when row_number() over (partition by c.project, c.run, c.stream order by c.i) > 1 then 'again'
      when r.status in ('cancelled', 'completed') then r.status
      when r.status = 'failed' or c.owner is not null and r.lease_owner is distinct from c.owner then 'lease_lost'
      when s.status = 'completed' then 'closed'
      else 'write' end as action
    from calls c
    left join lateral (select * from tidebase.runs r where ${runIs('r', 'c.project', 'c.run')} offset 0) r on true
    ${leftJoinRow('steps', 's', 't.project = c.project and t.run_id = c.run and t.id = c.step')}
  ), restarted as (
    insert into tidebase.streams as s (project, run_id, name, next_offset)
    select project, run, stream, char_length(chunk) from decided where action = 'write' and reset
    on conflict (run_id, name, project) do update set epoch = s.epoch + 1, next_offset = excluded.next_offset,
      updated_at = now()
    returning *
  ), advanced as (
    update tidebase.streams s set next_offset = s.next_offset + char_length(d.chunk), updated_at = now()
    from decided d where d.action = 'write' and not d.reset and ${streamIs} and s.next_offset = d."offset"
    returning s.*
  ), opened as (
    insert into tidebase.streams (project, run_id, name, next_offset)
    select d.project, d.run, d.stream, char_length(d.chunk) from decided d
    where d.action = 'write' and not d.reset and d."offset" = 0
      and not exists (select from advanced s where ${streamIs})
    on conflict do nothing
    returning *
  ), moved as materialized (
    select * from restarted union all select * from advanced union all select * from opened
  ), written as (
    insert into tidebase.stream_chunks (project, run_id, stream, epoch, at, chunk)
    select d.project, d.run, d.stream, s.epoch, d."offset", d.chunk from decided d join moved s on ${streamIs}
    where d.action = 'write' and d.chunk <> ''
  ), outdated as (
    delete from tidebase.stream_chunks k using restarted s
    where k.run_id = s.run_id and k.stream = s.name and k.epoch < s.epoch and k.project = s.project
  ), marked as (
    update tidebase.runs r set has_streams = true from (
      select distinct project, run from decided where action = 'write' and not has_streams
    ) d where ${runIs('r', 'd.project', 'd.run')}
  )
  select d.i, coalesce(m.next_offset, s.next_offset, 0) as next_offset, case
    when d.action <> 'write' then d.action
    when m.run_id is not null then 'appended'
    when s.next_offset > d."offset" then 'repeated'
    -- Another writer was quicker, after this statement's snapshot; at 0 the stream is not in it at all.
    when coalesce(s.next_offset, 0) = d."offset" then 'again'
    else 'gap' end as action
  from decided d
  left join moved m on d.action = 'write' and m.run_id = d.run and m.name = d.stream and m.project = d.project
  ${leftJoinRow('streams', 's', 't.run_id = d.run and t.name = d.stream and t.project = d.project')}`,
)

/**
 * Appends text to a stream.
 *
 * @throws ApiError `run_not_found`, `run_cancelled`, `run_completed`, `lease_lost`; `stream_gap` with `expectedOffset`
 */
export async function appendStream(
  engine: Engine,
  caller: Caller,
  run: string,
  { stream, offset, chunk, reset, leaseOwner }: BodyOf<Routes['appendStream']>,
): Promise<ReplyOf<Routes['appendStream']>> {
  const row = await submit(engine, appends, {
    project: caller.project,
    run,
    step: derivedId(run, 'step', stream),
    stream,
    offset,
    chunk,
    reset: reset ?? false,
    owner: leaseOwner,
  })
  refuse(row.action)
  if (row.action === 'completed') throw new ApiError('run_completed')
  if (row.action === 'gap') throw new ApiError('stream_gap', undefined, { expectedOffset: row.next_offset })
  if (row.action === 'closed') return { nextOffset: offset + [...chunk].length, closed: true }
  if (row.action === 'appended') engine.wakeups.streamed(caller.project, run)
  return { nextOffset: row.next_offset, closed: false }
}

/** Drops the stream of a step that is completed. */
export async function dropStream(db: Queryable, project: number, run: string, name: string): Promise<void> {
  await db.query(
    {
      name: 'streams.drop',
      text: `with chunks as (
        delete from tidebase.stream_chunks k
        where k.run_id = $2 and k.stream = $3 and k.project = $1
      )
      delete from tidebase.streams s where s.run_id = $2 and s.name = $3 and s.project = $1`,
    },
    [project, run, name],
  )
  await dropLate(db, [{ project, run_id: run, name }])
}

/** Drops what a crash, or a stream that is no step's, has left of runs that ended. Called by the reconciler. */
export async function dropEndedStreams(db: Queryable): Promise<void> {
  const gone = await db.query<StreamKey>(
    `with gone as (
      delete from tidebase.streams s where not exists (
        select from tidebase.runs r where r.id = s.run_id and r.project = s.project
          and r.status not in ('completed', 'failed', 'cancelled')
      ) returning *
    ), chunks as (
      delete from tidebase.stream_chunks k using gone s
      where k.run_id = s.run_id and k.stream = s.name and k.project = s.project
    )
    select project, run_id, name from gone`,
  )
  if (gone.length > 0) await dropLate(db, gone)
}

interface StreamKey {
  project: number
  run_id: string
  name: string
}

/** The chunk of an append that the deletion of its stream had to wait for: that one's snapshot did not show it. */
async function dropLate(db: Queryable, streams: StreamKey[]): Promise<void> {
  await db.query(
    {
      name: 'streams.drop_late',
      text: `delete from tidebase.stream_chunks k using (
          select k.tid from json_to_recordset($1::text::json) as s(project integer, run_id uuid, name text)
          cross join lateral (
            select k.ctid as tid from tidebase.stream_chunks k
            where k.run_id = s.run_id and k.stream = s.name and k.project = s.project offset 0
          ) k
        ) late where k.ctid = late.tid`,
    },
    [JSON.stringify(streams)],
  )
}

/** Where a reader stands in the streams of a run, by name. The epoch is unknown until it has read something. */
export type Offsets = Map<string, { epoch: number | null; offset: number }>

/** Where a client says that it stands. @throws ApiError `invalid_query` */
export function parseOffsets(text: string | undefined): Offsets {
  const offsets: Offsets = new Map()
  for (const part of text ? text.split(',') : []) {
    const [, name, digits] = /^(.+):(\d{1,9})$/.exec(part) ?? []
    try {
      if (name !== undefined) offsets.set(decodeURIComponent(name), { epoch: null, offset: Number(digits) })
    } catch {
      offsets.clear()
    }
    if (offsets.size === 0) {
      const message = 'must be name:offset, comma-separated, names percent-encoded'
      throw new ApiError('invalid_query', undefined, { issues: [{ path: 'offsets', message }] })
    }
  }
  return offsets
}

/** A row of tidebase.stream_chunks. */
export interface ChunkRow {
  project: number
  run_id: string
  stream: string
  epoch: number
  at: number
  size: number
  chunk: string
  /** How long the stream is. */
  next_offset: number
}

/**
 * What several runs' streams have from given places on, each chunk whole. A stream without a place, or one that
 * started over since, is read from its start.
 *
 * @param limit chunks of a stream at most
 */
export async function readChunks(
  db: Queryable,
  cursors: { project: number; run: string; places: Record<string, [epoch: number | null, offset: number]> }[],
  limit: number,
): Promise<ChunkRow[]> {
  return db.query<ChunkRow>(
    {
      name: 'streams.read',
      text: `select c.project, c.run as run_id, s.name as stream, s.epoch, s.next_offset, k.at, k.chunk,
          char_length(k.chunk) as size
        from json_to_recordset($1::text::json) as c(project integer, run uuid, places json)
        cross join lateral (
          select s.*, case when coalesce((c.places -> s.name ->> 0)::integer, s.epoch) = s.epoch
              and (c.places -> s.name ->> 1)::integer <= s.next_offset
            then (c.places -> s.name ->> 1)::integer else 0 end as from_offset
          from tidebase.streams s where s.run_id = c.run and s.project = c.project offset 0
        ) s
        cross join lateral (
          select k.at, k.chunk from tidebase.stream_chunks k
          where k.run_id = c.run and k.stream = s.name and k.epoch = s.epoch
            and k.project = c.project and k.at >= coalesce((
              select max(b.at) from tidebase.stream_chunks b
              where b.run_id = c.run and b.stream = s.name and b.epoch = s.epoch
                and b.project = c.project and b.at <= s.from_offset
            ), 0)
            and s.from_offset < s.next_offset
          order by k.at limit $2
        ) k order by k.at`,
    },
    [JSON.stringify(cursors), limit],
  )
}
