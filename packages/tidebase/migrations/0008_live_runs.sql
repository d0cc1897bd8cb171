-- Runs that have not ended (pending, queued, running, waiting) have a narrow row of their own, which claims, caps, lists,
-- deadlines and the reconciler read. So what a claim and a completion change stands in no index of `runs`: those updates
-- stay HOT, where each wrote an entry into five to seven indexes.
--
-- The row is written by the statement that changes its run's status, under the lock of the run: see `live-runs.ts`.
--
-- Servers of an earlier release do not keep this table: stop them before this is applied. One that still runs cannot
-- claim, begin, extend or end a run (it asks for a column that is gone and answers 500), but what it creates is seen by no
-- claim. Adding the two columns below writes `runs` anew, which takes about ten seconds per million runs.
create table tidebase.live_runs (
  run_id uuid not null,
  project integer not null,
  status text not null check (status in ('pending', 'queued', 'running', 'waiting')),
  queue text,
  -- '' without one: the jobs without a key are one key among others, and are found in order by the same index.
  concurrency_key text not null,
  priority integer not null,
  run_at timestamptz,
  deadline_at timestamptz,
  -- Whether a webhook is called when its lease has run out.
  recovers boolean not null,
  -- Set by the reconciler when the lease ran out and nobody else is to be told: looked at once, not at every tick.
  orphaned_at timestamptz,
  created_at timestamptz not null,
  primary key (run_id, project)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

insert into tidebase.live_runs (run_id, project, status, queue, concurrency_key, priority, run_at, deadline_at, recovers,
  orphaned_at, created_at)
select id, project, status, queue, coalesce(concurrency_key, ''), priority, run_at, deadline_at,
  recovery_webhook is not null, case when status = 'running' then orphaned_at end, created_at
from tidebase.runs where status in ('pending', 'queued', 'running', 'waiting');

drop index tidebase.runs_by_status, tidebase.runs_ready, tidebase.runs_ready_keyed, tidebase.runs_running,
  tidebase.runs_running_keyed, tidebase.runs_leased, tidebase.runs_orphaned, tidebase.runs_deadline, tidebase.runs_dedupe,
  tidebase.runs_ended, tidebase.runs_stopped_by_workflow, tidebase.runs_stopped_by_queue, tidebase.runs_cancelled_by_reason;

-- An update is HOT when no column of an index has another value than before, in its condition neither. These two change
-- with the status, but for most runs never: they are null from the beginning to the end.
alter table tidebase.runs
  -- How it ended without completing.
  add column stopped text generated always as (case when status in ('failed', 'cancelled') then status end) stored,
  -- The dedupe key, as long as no other run of the queue may have it.
  add column held_key text
    generated always as (case when status in ('queued', 'running', 'waiting') then dedupe_key end) stored,
  drop column orphaned_at,
  -- A batch claims, and then completes, all runs of a page in one commit: there must be room for a new version of each.
  set (fillfactor = 50);

create unique index runs_dedupe on tidebase.runs (project, queue, held_key) where held_key is not null;
-- Lists of runs that failed or were cancelled: few among many.
create index runs_stopped on tidebase.runs (project, stopped, created_at) where stopped is not null;
create index runs_stopped_by_workflow on tidebase.runs (project, workflow_name, stopped, created_at)
  where stopped is not null;
create index runs_stopped_by_queue on tidebase.runs (project, queue, stopped, created_at)
  where stopped is not null and queue is not null;
create index runs_cancelled_by_reason on tidebase.runs (project, cancel_reason, created_at)
  where stopped = 'cancelled' and cancel_reason is not null;

-- None of these begins with the project, so that no plan takes them for the look-up of a run.
-- What may be claimed, and how much of a queue or of a key is in which status:
create index live_runs_by_queue on tidebase.live_runs (queue, project, status, concurrency_key, priority desc, run_at)
  where queue is not null;
-- Lists by a live status.
create index live_runs_by_status on tidebase.live_runs (status, project, created_at);
create index live_runs_deadline on tidebase.live_runs (deadline_at) where deadline_at is not null;
create index live_runs_orphaned on tidebase.live_runs (orphaned_at) where orphaned_at is not null and recovers;
