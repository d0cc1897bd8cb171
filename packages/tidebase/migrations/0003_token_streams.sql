-- Text that a step produces while it runs, kept until the step is recorded. Unlogged: it lives for seconds, the step's
-- output replaces it, and after a crash of the database the writer starts over.
create unlogged table tidebase.streams (
  project integer not null,
  run_id uuid not null,
  name text not null,
  -- Another one when the writer starts over, so that readers notice.
  epoch integer not null default extract(epoch from now())::integer,
  -- Characters written so far.
  next_offset integer not null,
  updated_at timestamptz not null default now(),
  -- By run first, as for runs: see `runIs` in events.ts.
  primary key (run_id, name, project)
) with (fillfactor = 50);

create unlogged table tidebase.stream_chunks (
  project integer not null,
  run_id uuid not null,
  stream text not null,
  epoch integer not null,
  -- Characters before this chunk.
  at integer not null,
  chunk text not null,
  primary key (run_id, stream, epoch, at, project)
);

-- Whether there is anything to drop when a step completes.
alter table tidebase.runs add column has_streams boolean not null default false;
