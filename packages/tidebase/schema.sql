-- The tables after every migration, made by `npm run gen`: read here, change in migrations/.

create table tidebase.api_keys (
  id uuid not null,
  project integer not null,
  name text not null,
  scope text not null,
  hash bytea not null,
  hint text not null,
  created_at timestamp with time zone default now() not null,
  revoked_at timestamp with time zone,
  UNIQUE (hash),
  PRIMARY KEY (id),
  FOREIGN KEY (project) REFERENCES tidebase.projects(id),
  CHECK ((scope = ANY (ARRAY['admin'::text, 'worker'::text, 'enqueue'::text, 'read'::text])))
);

create table tidebase.channels (
  project integer not null,
  run_id uuid not null,
  id uuid not null,
  type text not null,
  url text not null,
  secret text,
  events text[] default '{}'::text[] not null,
  created_at timestamp with time zone default now() not null,
  PRIMARY KEY (project, run_id, id)
);

create table tidebase.deliveries (
  project integer not null,
  run_id uuid not null,
  id uuid default gen_random_uuid() not null,
  kind text not null,
  reason text not null,
  channel_id uuid,
  payload json,
  url text not null,
  target text generated always as (split_part(url, '/'::text, 3)) stored not null,
  status text default 'pending'::text not null,
  tries integer default 0 not null,
  next_try_at timestamp with time zone default now() not null,
  http_status integer,
  response_body text,
  error_text text,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  PRIMARY KEY (project, run_id, id),
  CHECK ((kind = ANY (ARRAY['recovery'::text, 'invoke'::text, 'channel'::text]))),
  CHECK ((status = ANY (ARRAY['pending'::text, 'delivered'::text, 'failed'::text])))
) with (autovacuum_vacuum_scale_factor=0.02, autovacuum_analyze_scale_factor=0.05);
create index deliveries_due ON tidebase.deliveries USING btree (target, next_try_at) WHERE (status = 'pending'::text);
create index deliveries_invoked ON tidebase.deliveries USING btree (project, created_at) WHERE (kind = 'invoke'::text);

create table tidebase.edges (
  project integer not null,
  parent_run_id uuid not null,
  child_run_id uuid not null,
  id uuid not null,
  name text not null,
  edge_type text not null,
  metadata json default '{}'::json not null,
  cancelling boolean default false not null,
  created_at timestamp with time zone default now() not null,
  PRIMARY KEY (project, parent_run_id, id)
);
create index edges_by_child ON tidebase.edges USING btree (project, child_run_id);
create index edges_cancelling ON tidebase.edges USING btree (created_at) WHERE cancelling;

create table tidebase.events (
  id bigint generated always as identity not null,
  project integer not null,
  run_id uuid not null,
  seq integer not null,
  type text not null,
  payload json not null,
  created_at timestamp with time zone default now() not null,
  PRIMARY KEY (project, run_id, seq)
) with (autovacuum_vacuum_scale_factor=0.02, autovacuum_analyze_scale_factor=0.05);
create index events_by_id ON tidebase.events USING btree (id, project);

create table tidebase.gates (
  project integer not null,
  run_id uuid not null,
  id uuid not null,
  name text not null,
  prompt text not null,
  data json,
  status text default 'pending'::text not null,
  actor text,
  decision_payload json,
  capability json,
  channels json,
  timeout_at timestamp with time zone,
  on_timeout text default 'canceled'::text not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  resolved_at timestamp with time zone,
  PRIMARY KEY (project, run_id, id),
  CHECK ((on_timeout = ANY (ARRAY['approved'::text, 'rejected'::text, 'canceled'::text]))),
  CHECK ((status = ANY (ARRAY['pending'::text, 'approved'::text, 'rejected'::text, 'canceled'::text])))
);
create index gates_due ON tidebase.gates USING btree (timeout_at) WHERE ((status = 'pending'::text) AND (timeout_at IS NOT NULL));
create index gates_pending ON tidebase.gates USING btree (project, created_at) WHERE (status = 'pending'::text);

create table tidebase.live_runs (
  run_id uuid not null,
  project integer not null,
  status text not null,
  queue text,
  concurrency_key text not null,
  priority integer not null,
  run_at timestamp with time zone,
  deadline_at timestamp with time zone,
  recovers boolean not null,
  orphaned_at timestamp with time zone,
  created_at timestamp with time zone not null,
  PRIMARY KEY (run_id, project),
  CHECK ((status = ANY (ARRAY['pending'::text, 'queued'::text, 'running'::text, 'waiting'::text])))
) with (autovacuum_vacuum_scale_factor=0.02, autovacuum_analyze_scale_factor=0.02);
create index live_runs_by_queue ON tidebase.live_runs USING btree (queue, project, status, concurrency_key, priority DESC, run_at) WHERE (queue IS NOT NULL);
create index live_runs_by_status ON tidebase.live_runs USING btree (status, project, created_at);
create index live_runs_deadline ON tidebase.live_runs USING btree (deadline_at) WHERE (deadline_at IS NOT NULL);
create index live_runs_orphaned ON tidebase.live_runs USING btree (orphaned_at) WHERE ((orphaned_at IS NOT NULL) AND recovers);

create table tidebase.migrations (
  name text not null,
  checksum text not null,
  applied_at timestamp with time zone default now() not null,
  PRIMARY KEY (name)
);

create table tidebase.projects (
  id integer generated always as identity not null,
  name text not null,
  secret bytea default decode(replace(((gen_random_uuid())::text || (gen_random_uuid())::text), '-'::text, ''::text), 'hex'::text) not null,
  created_at timestamp with time zone default now() not null,
  retention_days integer,
  UNIQUE (name),
  PRIMARY KEY (id),
  CHECK ((retention_days >= 0))
);

create table tidebase.queue_claims (
  project integer not null,
  queue text not null,
  at timestamp with time zone not null,
  claims integer not null
);
create index queue_claims_recent ON tidebase.queue_claims USING btree (project, queue, at);

create table tidebase.queue_counts (
  project integer not null,
  queue text not null,
  status text not null,
  runs bigint not null,
  CHECK ((status = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text])))
);
create index queue_counts_key ON tidebase.queue_counts USING btree (project, queue, status);

create table tidebase.queues (
  project integer not null,
  name text not null,
  concurrency integer,
  rate_per_minute integer,
  invoke_url text,
  paused boolean default false not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  per_key_concurrency integer,
  keyed boolean default false not null,
  last_key text default ''::text not null,
  PRIMARY KEY (project, name),
  CHECK ((concurrency > 0)),
  CHECK ((per_key_concurrency > 0)),
  CHECK ((rate_per_minute > 0))
);
create index queues_pushed ON tidebase.queues USING btree (project, name) WHERE ((invoke_url IS NOT NULL) AND (NOT paused));

create table tidebase.runs (
  project integer not null,
  id uuid not null,
  workflow_name text not null,
  input json default '{}'::json not null,
  metadata jsonb default '{}'::jsonb not null,
  status text not null,
  result json,
  error text,
  recovery_webhook text,
  has_channels boolean default false not null,
  lease_owner text,
  lease_expires_at timestamp with time zone,
  last_owner text,
  claimed boolean default false not null,
  attempt integer default 0 not null,
  queue text,
  dedupe_key text,
  priority integer default 0 not null,
  run_at timestamp with time zone,
  max_attempts integer default 1 not null,
  deadline_at timestamp with time zone,
  cancel_requested_at timestamp with time zone,
  cancelled_at timestamp with time zone,
  cancel_reason text,
  cancel_actor text,
  failure_class text,
  usage_input_tokens bigint default 0 not null,
  usage_output_tokens bigint default 0 not null,
  usage_total_tokens bigint default 0 not null,
  usage_cost_usd numeric default 0 not null,
  budget_cost_usd numeric,
  budget_total_tokens bigint,
  event_seq integer default 0 not null,
  created_by uuid,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  completed_at timestamp with time zone,
  has_streams boolean default false not null,
  concurrency_key text,
  stopped text generated always as (
CASE
    WHEN (status = ANY (ARRAY['failed'::text, 'cancelled'::text])) THEN status
    ELSE NULL::text
END) stored,
  held_key text generated always as (
CASE
    WHEN (status = ANY (ARRAY['queued'::text, 'running'::text, 'waiting'::text])) THEN dedupe_key
    ELSE NULL::text
END) stored,
  PRIMARY KEY (id, project),
  CHECK ((status = ANY (ARRAY['pending'::text, 'queued'::text, 'running'::text, 'waiting'::text, 'completed'::text, 'failed'::text, 'cancelled'::text])))
) with (autovacuum_vacuum_scale_factor=0.02, autovacuum_analyze_scale_factor=0.02, fillfactor=50);
create index runs_by_metadata ON tidebase.runs USING gin (metadata jsonb_path_ops) WHERE (metadata <> '{}'::jsonb);
create index runs_by_queue ON tidebase.runs USING btree (project, queue, created_at) WHERE (queue IS NOT NULL);
create index runs_by_time ON tidebase.runs USING btree (project, created_at);
create index runs_by_workflow ON tidebase.runs USING btree (project, workflow_name, created_at);
create index runs_cancelled_by_reason ON tidebase.runs USING btree (project, cancel_reason, created_at) WHERE ((stopped = 'cancelled'::text) AND (cancel_reason IS NOT NULL));
create unique index runs_dedupe ON tidebase.runs USING btree (project, queue, held_key) WHERE (held_key IS NOT NULL);
create index runs_stopped ON tidebase.runs USING btree (project, stopped, created_at) WHERE (stopped IS NOT NULL);
create index runs_stopped_by_queue ON tidebase.runs USING btree (project, queue, stopped, created_at) WHERE ((stopped IS NOT NULL) AND (queue IS NOT NULL));
create index runs_stopped_by_workflow ON tidebase.runs USING btree (project, workflow_name, stopped, created_at) WHERE (stopped IS NOT NULL);

create table tidebase.schedules (
  project integer not null,
  name text not null,
  cron text not null,
  timezone text default 'UTC'::text not null,
  workflow_name text not null,
  input json default '{}'::json not null,
  queue text default 'default'::text not null,
  max_attempts integer default 1 not null,
  enabled boolean default true not null,
  catch_up text default 'last'::text not null,
  next_run_at timestamp with time zone,
  last_enqueued_at timestamp with time zone,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  last_fire_at timestamp with time zone,
  PRIMARY KEY (project, name),
  CHECK ((catch_up = ANY (ARRAY['none'::text, 'last'::text, 'all'::text])))
);
create index schedules_due ON tidebase.schedules USING btree (next_run_at) WHERE (enabled AND (next_run_at IS NOT NULL));

create table tidebase.servers (
  id uuid not null,
  seen_at timestamp with time zone default now() not null,
  PRIMARY KEY (id)
);

create table tidebase.signals (
  project integer not null,
  run_id uuid not null,
  id uuid not null,
  name text not null,
  payload json,
  "position" integer not null,
  wait_id uuid,
  created_at timestamp with time zone default now() not null,
  PRIMARY KEY (project, run_id, id)
);
create index signals_unread ON tidebase.signals USING btree (run_id, name, "position") WHERE (wait_id IS NULL);

create table tidebase.state_streams (
  project integer not null,
  run_id uuid not null,
  name text not null,
  id uuid not null,
  target_type text not null,
  target_id text not null,
  current_version integer not null,
  current_value json,
  metadata json default '{}'::json not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  PRIMARY KEY (project, run_id, name)
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
  importance text not null,
  metadata json default '{}'::json not null,
  created_by text,
  created_at timestamp with time zone default now() not null,
  PRIMARY KEY (project, run_id, stream, version),
  CHECK ((importance = ANY (ARRAY['transient'::text, 'normal'::text, 'checkpoint'::text, 'milestone'::text])))
);

create table tidebase.steps (
  project integer not null,
  run_id uuid not null,
  id uuid not null,
  name text not null,
  input_hash text not null,
  input json,
  options json,
  replay_safe boolean not null,
  status text not null,
  output json,
  error text,
  review text,
  lease_owner text,
  lease_expires_at timestamp with time zone,
  last_owner text,
  attempt integer default 1 not null,
  "position" integer not null,
  started_at timestamp with time zone,
  completed_at timestamp with time zone,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  PRIMARY KEY (project, run_id, id),
  CHECK ((review = ANY (ARRAY['open'::text, 'fail'::text]))),
  CHECK ((status = ANY (ARRAY['running'::text, 'completed'::text, 'failed_retryable'::text, 'manual_review'::text, 'failed'::text])))
) with (fillfactor=85, autovacuum_vacuum_scale_factor=0.02, autovacuum_analyze_scale_factor=0.05);

create table tidebase.stream_chunks (
  project integer not null,
  run_id uuid not null,
  stream text not null,
  epoch integer not null,
  at integer not null,
  chunk text not null,
  PRIMARY KEY (run_id, stream, epoch, at, project)
);

create table tidebase.streams (
  project integer not null,
  run_id uuid not null,
  name text not null,
  epoch integer default (EXTRACT(epoch FROM now()))::integer not null,
  next_offset integer not null,
  updated_at timestamp with time zone default now() not null,
  PRIMARY KEY (run_id, name, project)
) with (fillfactor=50);

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
  metadata json default '{}'::json not null,
  created_at timestamp with time zone default now() not null,
  PRIMARY KEY (run_id, id, project)
) with (autovacuum_vacuum_scale_factor=0.02, autovacuum_analyze_scale_factor=0.05);
create index usage_by_time ON tidebase.usage USING btree (project, created_at);

create table tidebase.waits (
  project integer not null,
  run_id uuid not null,
  id uuid not null,
  name text not null,
  kind text not null,
  signal text,
  due_at timestamp with time zone,
  status text not null,
  payload json,
  "position" integer not null,
  created_at timestamp with time zone default now() not null,
  resolved_at timestamp with time zone,
  PRIMARY KEY (project, run_id, id),
  CHECK ((kind = ANY (ARRAY['timer'::text, 'signal'::text]))),
  CHECK ((status = ANY (ARRAY['pending'::text, 'resolved'::text, 'timed_out'::text])))
);
create index waits_due ON tidebase.waits USING btree (due_at) WHERE ((status = 'pending'::text) AND (due_at IS NOT NULL));
create index waits_pending ON tidebase.waits USING btree (run_id, signal, "position") WHERE (status = 'pending'::text);
