// The recent past of a queue, made from its latest runs and the events that tell when they began.
import type { ReplyOf, Routes } from '@tidebase/wire'
import type { Queryable } from './db.ts'
import type { Caller } from './engine.ts'

const parts = 60
/** Runs looked at: what a busy queue takes in an hour is more than a chart shows. */
const sample = 5_000

interface Point {
  at: Date
  enqueued: number
  started: number
  ended: number
  p50: number | null
  p95: number | null
  waiting: number
  sampled: boolean
}

/** SQL: number of the part that a time falls into, from 0; null for none. */
const part = (time: string) =>
  `floor(extract(epoch from ${time} - (now() - $3 * interval '1 minute')) * ${parts} / ($3 * 60))::integer`

/**
 * The last minutes of a queue in equal parts.
 *
 * A run waits from when it was due until it first began; its retries count in no chart. How deep the queue was is
 * counted back from how deep it is.
 */
export async function queueStats(
  db: Queryable,
  caller: Caller,
  queue: string,
  minutes: number,
): Promise<ReplyOf<Routes['queueStats']>> {
  const rows = await db.query<Point>(
    `with runs as materialized (
      select r.id, r.status, r.created_at, r.completed_at from tidebase.runs r
      where r.project = $1 and r.queue = $2 and r.created_at > now() - $3 * interval '1 minute'
      order by r.created_at desc limit ${sample}
    ), begun as materialized (
      select r.*, s.created_at as started_at,
        greatest(0, extract(epoch from s.created_at - coalesce((e.payload->>'runAt')::timestamptz, r.created_at)) * 1000)
          as waited
      from runs r
      left join tidebase.events e on e.project = $1 and e.run_id = r.id and e.seq = 1
      left join lateral (
        select s.created_at from tidebase.events s
        where s.project = $1 and s.run_id = r.id and s.type in ('run.claimed', 'run.started')
        order by s.seq limit 1
      ) s on true
    ), cut as (
      select n, now() - $3 * interval '1 minute' + n * width as at, width
      from generate_series(0, ${parts - 1}) n, (select $3 * interval '1 minute' / ${parts} as width) w
    ), told as materialized (
      select ${part('created_at')} as came, ${part('completed_at')} as ended, ${part('started_at')} as began, waited
      from begun
    )
    select c.at, coalesce(e.runs, 0) as enqueued, coalesce(d.runs, 0) as ended, coalesce(b.runs, 0) as started,
      b.p50, b.p95,
      (select count(*) from tidebase.live_runs l where l.project = $1 and l.queue = $2 and l.status = 'queued') as waiting,
      (select count(*) from runs) = ${sample} as sampled
    from cut c
    left join (select came as n, count(*) as runs from told group by 1) e on e.n = c.n
    left join (select ended as n, count(*) as runs from told group by 1) d on d.n = c.n
    left join (
      select began as n, count(*) as runs, percentile_cont(0.5) within group (order by waited) as p50,
        percentile_cont(0.95) within group (order by waited) as p95
      from told group by 1
    ) b on b.n = c.n
    order by c.at`,
    [caller.project, queue, minutes],
  )
  let depth = rows[0]?.waiting ?? 0
  const points = rows.toReversed().map(({ at, enqueued, started, ended, p50, p95 }) => {
    const point = { at: at.toISOString(), enqueued, started, ended, depth, waitP50Ms: p50, waitP95Ms: p95 }
    depth = Math.max(0, depth - enqueued + started)
    return point
  })
  return { points: points.reverse(), sampled: rows[0]?.sampled ?? false }
}
