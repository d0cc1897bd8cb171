-- The run server's tables. Everything lives in the schema `tidebase`, so that it can share a database with an application.
--
-- Every row belongs to a project, and every key names it. Ids are 16 bytes; the wire's prefix is added outside.
-- There are no foreign keys on the hot tables: a write holds its run's row lock, and retention deletes a run's
-- rows together. `runs.event_seq` numbers the run's events; every statement that appends some holds the row lock.
-- User JSON is `json`, not `jsonb`: it is stored as it came and never searched.

create table tidebase.projects (
  id integer generated always as identity primary key,
  name text not null unique,
  -- Signs the tokens of this project's gates.
  secret bytea not null default decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'),
  created_at timestamptz not null default now()
);
insert into tidebase.projects (name) values ('default');

create table tidebase.api_keys (
  id uuid primary key,
  project integer not null references tidebase.projects,
  name text not null,
  scope text not null check (scope in ('admin', 'worker', 'enqueue', 'read')),
  hash bytea not null unique,
  hint text not null,
  created_at timestamptz not null default now(),
  revoked_at timestamptz
);

-- Servers seen lately. A server with no peers sends no notifications.
create table tidebase.servers (
  id uuid primary key,
  seen_at timestamptz not null default now()
);

create table tidebase.runs (
  project integer not null,
  id uuid not null,
  workflow_name text not null,
  input json not null default '{}',
  metadata jsonb not null default '{}',
  status text not null check (status in ('pending', 'queued', 'running', 'waiting', 'completed', 'failed', 'cancelled')),
  result json,
  error text,
  recovery_webhook text,
  has_channels boolean not null default false,
  lease_owner text,
  lease_expires_at timestamptz,
  -- Who ended or gave up the last attempt: lets the same worker repeat that call after a lost reply.
  last_owner text,
  -- Set by a claim and by parking, cleared by begin: what follows belongs to an attempt that was counted.
  claimed boolean not null default false,
  -- Set by the reconciler when the lease ran out and nobody is to be called: looked at once, not at every tick.
  orphaned_at timestamptz,
  attempt integer not null default 0,
  queue text,
  dedupe_key text,
  priority integer not null default 0,
  run_at timestamptz,
  max_attempts integer not null default 1,
  deadline_at timestamptz,
  cancel_requested_at timestamptz,
  cancelled_at timestamptz,
  cancel_reason text,
  cancel_actor text,
  failure_class text,
  usage_input_tokens bigint not null default 0,
  usage_output_tokens bigint not null default 0,
  usage_total_tokens bigint not null default 0,
  usage_cost_usd numeric not null default 0,
  -- Crossing either cancels the run.
  budget_cost_usd numeric,
  budget_total_tokens bigint,
  event_seq integer not null default 0,
  created_by uuid,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  completed_at timestamptz,
  -- By id first: see `runIs` in events.ts.
  primary key (id, project)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- Lists: newest first, by keyset (created_at, id); equal times are sorted by id as they are read.
create index runs_by_time on tidebase.runs (project, created_at);
create index runs_by_workflow on tidebase.runs (project, workflow_name, created_at);
create index runs_by_status on tidebase.runs (project, status, created_at) where status <> 'completed';
create index runs_by_queue on tidebase.runs (project, queue, created_at) where queue is not null;
create index runs_by_metadata on tidebase.runs using gin (metadata jsonb_path_ops) where metadata <> '{}';
-- What may be claimed.
create index runs_ready on tidebase.runs (project, queue, priority desc, run_at) where status = 'queued';
-- What is running in a queue (caps).
create index runs_running on tidebase.runs (project, queue) where status = 'running' and queue is not null;
-- What the reconciler watches. No column that a heartbeat or a step changes may stand in an index: those updates stay HOT.
create index runs_leased on tidebase.runs (project) where status = 'running' and lease_owner is not null and orphaned_at is null;
create index runs_orphaned on tidebase.runs (orphaned_at)
  where orphaned_at is not null and status = 'running' and recovery_webhook is not null;
create index runs_deadline on tidebase.runs (deadline_at)
  where deadline_at is not null and status in ('pending', 'queued', 'running', 'waiting');
create unique index runs_dedupe on tidebase.runs (project, queue, dedupe_key)
  where dedupe_key is not null and status in ('queued', 'running', 'waiting');

-- A step's id is made from its run and name, so the primary key serves look-ups by id and by name.
create table tidebase.steps (
  project integer not null,
  run_id uuid not null,
  id uuid not null,
  name text not null,
  input_hash text not null,
  input json,
  options json,
  -- Whether it may run again when it is not known how it ended (the resume contract, decided at begin).
  replay_safe boolean not null,
  status text not null check (status in ('running', 'completed', 'failed_retryable', 'manual_review', 'failed')),
  output json,
  error text,
  -- open: its worker died while a side effect may have happened; fail: it was decided that it did fail.
  review text check (review in ('open', 'fail')),
  lease_owner text,
  lease_expires_at timestamptz,
  last_owner text,
  attempt integer not null default 1,
  -- Number of the event that first started it: the order of steps within a run.
  position integer not null,
  started_at timestamptz,
  completed_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (project, run_id, id)
) with (fillfactor = 85);

create table tidebase.events (
  id bigint generated always as identity (cache 1),
  project integer not null,
  run_id uuid not null,
  seq integer not null,
  type text not null,
  payload json not null,
  created_at timestamptz not null default now(),
  primary key (project, run_id, seq)
);

create table tidebase.state_streams (
  project integer not null,
  run_id uuid not null,
  name text not null,
  id uuid not null,
  target_type text not null,
  target_id text not null,
  current_version integer not null,
  current_value json,
  metadata json not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (project, run_id, name)
);

create table tidebase.state_versions (
  project integer not null,
  run_id uuid not null,
  stream text not null,
  version integer not null,
  id uuid not null,
  stream_id uuid not null,
  step_id text,
  value json,
  patch json,
  label text,
  reason text,
  importance text not null check (importance in ('transient', 'normal', 'checkpoint', 'milestone')),
  metadata json not null default '{}',
  created_by text,
  created_at timestamptz not null default now(),
  primary key (project, run_id, stream, version)
);

-- A gate's id is made from its run and name; its token is a signature of the id, so it is stored nowhere.
create table tidebase.gates (
  project integer not null,
  run_id uuid not null,
  id uuid not null,
  name text not null,
  prompt text not null,
  data json,
  status text not null default 'pending' check (status in ('pending', 'approved', 'rejected', 'canceled')),
  actor text,
  decision_payload json,
  capability json,
  channels json,
  timeout_at timestamptz,
  on_timeout text not null default 'canceled' check (on_timeout in ('approved', 'rejected', 'canceled')),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  resolved_at timestamptz,
  primary key (project, run_id, id)
);
create index gates_pending on tidebase.gates (project, created_at) where status = 'pending';
create index gates_due on tidebase.gates (timeout_at) where status = 'pending' and timeout_at is not null;

-- Timers, and waits for a signal. A wait's id is made from its run, kind and name.
create table tidebase.waits (
  project integer not null,
  run_id uuid not null,
  id uuid not null,
  name text not null,
  kind text not null check (kind in ('timer', 'signal')),
  -- The signal that ends it.
  signal text,
  -- When the timer fires, or the wait for the signal is given up.
  due_at timestamptz,
  status text not null check (status in ('pending', 'resolved', 'timed_out')),
  payload json,
  -- Number of the event that started it: waits for one signal get theirs in this order.
  position integer not null,
  created_at timestamptz not null default now(),
  resolved_at timestamptz,
  primary key (project, run_id, id)
);
create index waits_pending on tidebase.waits (run_id, signal, position) where status = 'pending';
create index waits_due on tidebase.waits (due_at) where status = 'pending' and due_at is not null;

-- What was sent to a run, kept until a wait takes it and afterwards.
create table tidebase.signals (
  project integer not null,
  run_id uuid not null,
  id uuid not null,
  name text not null,
  payload json,
  -- Number of its event: signals of one name are taken in this order.
  position integer not null,
  wait_id uuid,
  created_at timestamptz not null default now(),
  primary key (project, run_id, id)
);
create index signals_unread on tidebase.signals (run_id, name, position) where wait_id is null;

create table tidebase.edges (
  project integer not null,
  parent_run_id uuid not null,
  child_run_id uuid not null,
  id uuid not null,
  name text not null,
  edge_type text not null,
  metadata json not null default '{}',
  -- Set when the parent is cancelled, until the child is too.
  cancelling boolean not null default false,
  created_at timestamptz not null default now(),
  primary key (project, parent_run_id, id)
);
create index edges_by_child on tidebase.edges (project, child_run_id);
create index edges_cancelling on tidebase.edges (created_at) where cancelling;

create table tidebase.usage (
  project integer not null,
  run_id uuid not null,
  id uuid not null,
  step_id text,
  kind text not null,
  provider text,
  model text,
  label text,
  quantity double precision,
  unit text,
  input_tokens bigint,
  output_tokens bigint,
  total_tokens bigint,
  cost_usd numeric,
  metadata json not null default '{}',
  created_at timestamptz not null default now(),
  -- By run first, as for runs: see `runIs` in events.ts.
  primary key (run_id, id, project)
);
create index usage_by_time on tidebase.usage (project, created_at);

create table tidebase.queues (
  project integer not null,
  name text not null,
  concurrency integer check (concurrency > 0),
  rate_per_minute integer check (rate_per_minute > 0),
  invoke_url text,
  paused boolean not null default false,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (project, name)
);
create index queues_pushed on tidebase.queues (project, name) where invoke_url is not null and not paused;

-- Claims of the last minute from queues with a rate cap.
create table tidebase.queue_claims (
  project integer not null,
  queue text not null,
  at timestamptz not null,
  claims integer not null
);
create index queue_claims_recent on tidebase.queue_claims (project, queue, at);

-- How many runs of a queue ended, as changes: appended with the change itself, folded into one row by the reconciler,
-- so that counting never reads finished runs and finishing never fights for one row.
create table tidebase.queue_counts (
  project integer not null,
  queue text not null,
  status text not null check (status in ('completed', 'failed', 'cancelled')),
  runs bigint not null
);
create index queue_counts_key on tidebase.queue_counts (project, queue, status);

create table tidebase.schedules (
  project integer not null,
  name text not null,
  cron text not null,
  timezone text not null default 'UTC',
  workflow_name text not null,
  input json not null default '{}',
  queue text not null default 'default',
  max_attempts integer not null default 1,
  enabled boolean not null default true,
  -- What becomes of times that were missed while no server ran.
  catch_up text not null default 'last' check (catch_up in ('none', 'last', 'all')),
  next_run_at timestamptz,
  last_enqueued_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (project, name)
);
create index schedules_due on tidebase.schedules (next_run_at) where enabled and next_run_at is not null;

create table tidebase.channels (
  project integer not null,
  run_id uuid not null,
  id uuid not null,
  type text not null,
  url text not null,
  secret text,
  events text[] not null default '{}',
  created_at timestamptz not null default now(),
  primary key (project, run_id, id)
);

-- The webhook outbox. A row is written in the transaction that caused it and sent afterwards, until delivered or given up.
create table tidebase.deliveries (
  project integer not null,
  run_id uuid not null,
  id uuid not null default gen_random_uuid(),
  kind text not null check (kind in ('recovery', 'invoke', 'channel')),
  -- Recovery and invoke: why. Channel: the event's type.
  reason text not null,
  channel_id uuid,
  payload json,
  url text not null,
  -- Host and port as the URL spells them: what calls are limited by.
  target text not null generated always as (split_part(url, '/', 3)) stored,
  status text not null default 'pending' check (status in ('pending', 'delivered', 'failed')),
  tries integer not null default 0,
  next_try_at timestamptz not null default now(),
  http_status integer,
  response_body text,
  error_text text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (project, run_id, id)
);
create index deliveries_invoked on tidebase.deliveries (project, created_at) where kind = 'invoke';
create index deliveries_due on tidebase.deliveries (target, next_try_at) where status = 'pending';
