-- Jobs of a queue that compete by key: tenants take turns, and each has so many at a time.
alter table tidebase.runs add column concurrency_key text;

alter table tidebase.queues
  add column per_key_concurrency integer check (per_key_concurrency > 0),
  -- Whether it has had a job with a key: claims from it take turns, under the lock of this row.
  add column keyed boolean not null default false,
  -- Whose turn was last; '' are the jobs without a key.
  add column last_key text not null default '';

-- Each ready job stands in one of the two, so that jobs without a key cost what they did.
drop index tidebase.runs_ready;
create index runs_ready on tidebase.runs (project, queue, priority desc, run_at)
  where status = 'queued' and concurrency_key is null;
create index runs_ready_keyed on tidebase.runs (project, queue, concurrency_key, priority desc, run_at)
  where status = 'queued' and concurrency_key is not null;
create index runs_running_keyed on tidebase.runs (project, queue, concurrency_key)
  where status = 'running' and concurrency_key is not null;
